"""Activations that are computed again in the backward: the same gradients and statistics, in less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from networks_under_test import images, small
from torch.profiler import ProfilerActivity, profile

from distgan import randomness
from distgan.networks import recompute
from distgan.networks.growth import in_use
from distgan.objectives.critic import CriticObjective
from distgan.objectives.generator import GeneratorObjective

KEYS = randomness.image_keys(7, torch.arange(4))
LABELS = torch.tensor([0, 1, 2, 1])


def twins(part, name, side, **settings):
    """The same network twice; the second recomputes. With a `share`, newest layers have come in so far."""
    share = settings.pop("share", None)
    one = small(part, name, side, **settings)
    if share is not None:
        one.growth.set_to(side, share)
    other = copy.deepcopy(one)
    recompute(other)
    return one, other


def critic_gradients(critic, side, penalty="gp", labels=None, count=4):
    keys = randomness.image_keys(7, torch.arange(count))
    loss, parts = CriticObjective(critic, penalty=penalty)(images(count, side), images(count, side) / 2, labels, keys)
    loss.backward()
    return parts, [parameter.grad for parameter in in_use(critic)]


@pytest.mark.parametrize(
    "name, side, penalty, settings",
    [
        ("mlp", 8, "gp", {"dropout": 0.3}),
        ("dcgan", 16, "gp", {}),
        ("dcgan", 16, "r1", {"dropout": 0.3, "norm": "group"}),
        ("dcgan", 16, "none", {"norm": "batch"}),
        ("resnet", 32, "gp", {"norm": "layer", "classes": 3}),
        ("resnet", 32, "r1r2", {}),
        ("progressive", 16, "gp", {"minibatch_std": 4, "classes": 3}),
        ("progressive", 16, "r1r2", {"share": 0.3}),
        ("residual", 16, "gp", {"minibatch_std": 4, "classes": 3}),
        ("residual", 16, "gp", {}),
        ("modern", 16, "r1r2", {}),
    ],
)
def test_a_critic_that_recomputes_has_the_same_gradients_and_statistics(name, side, penalty, settings):
    kept, again = twins("critic", name, side, **settings)
    labels = LABELS if settings.get("classes") else None
    results = [critic_gradients(critic, side, penalty, labels) for critic in (kept, again)]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(kept.state_dict(), again.state_dict(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("way", ["alone", "together"])
@pytest.mark.parametrize("name, side", [("mlp", 8), ("dcgan", 16), ("resnet", 32)])
def test_a_generator_that_recomputes_takes_in_its_statistics_once(name, side, way):
    pair = twins("generator", name, side, norm="batch")
    critic = small("critic", name, side).requires_grad_(False)
    latent, results = torch.randn(4, 128, dtype=torch.float64), []
    for generator in pair:
        for norm in (part for part in generator.modules() if hasattr(part, "average")):
            norm.average = torch.clone if way == "together" else norm.average
        loss, _ = GeneratorObjective(generator, critic)(latent, None, KEYS)
        loss.backward()
        results.append(([parameter.grad for parameter in generator.parameters()], generator.state_dict()))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)
    assert all(value == 1 for key, value in pair[1].state_dict().items() if key.endswith("num_batches_tracked"))


@pytest.mark.parametrize("name, share", [("progressive", 1), ("progressive", 0.3), ("skip", None), ("modern", None)])
def test_a_generator_that_recomputes_has_the_same_gradients(name, share):
    pair, results = twins("generator", name, 16, **({} if share is None else {"share": share})), []
    critic = small("critic", "dcgan", 16).requires_grad_(False)
    latent = torch.randn(4, 128, dtype=torch.float64)
    for generator in pair:
        GeneratorObjective(generator, critic)(latent, None, KEYS)[0].backward()
        results.append([parameter.grad for parameter in in_use(generator)])
    assert all(gradient is not None for gradient in results[0])
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


def peak(run):
    """The most bytes that are held at once while `run` runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        run()
    held = most = 0
    for event in watched.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.parametrize("settings", [{}, {"norm": "layer"}])
def test_recomputing_takes_less_memory(settings):
    pair = twins("critic", "resnet", 32, **settings)
    critic_gradients(copy.deepcopy(pair[0]), 32, count=32)
    whole, part = (peak(lambda critic=critic: critic_gradients(critic, 32, count=32)) for critic in pair)
    assert part < 0.8 * whole
