"""Both objectives with augmentation: the loss of T(x) and T(x~), its penalty there, and the gradient through T."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn

from distgan import randomness
from distgan.augmentation.pipeline import CLASSES, Augmentation
from distgan.compiling import compile_or_fall_back
from distgan.networks import build_critic, build_generator
from distgan.objectives.critic import CriticObjective
from distgan.objectives.generator import GeneratorObjective
from distgan.parity.measure import error
from distgan.parity.reference import PENALTIES, Batch, Gradients, critic_terms, generator_gradients, mean
from distgan.parity.textbook import textbook
from distgan.parity.transforms import augmented

KEYS = randomness.image_keys(5, torch.arange(6))
STRENGTH = Augmentation([], 0.6).strength.item()


def classes_of(way: str) -> list[str]:
    """Compiled, the class with an operator of its own stands for all, which take long to compile."""
    return ["geometry"] if way == "compiled" else list(CLASSES)


def seen_as(way: str) -> Callable:
    return partial(augmented, classes=classes_of(way), strength=STRENGTH)


def batch() -> Batch:
    real, fake = (randomness.normal(KEYS, role, (3, 16, 16), torch.float64).tanh() for role in ("real", "fake"))
    return Batch(real, fake, None, KEYS)


def critic(norm: str = "none") -> nn.Module:
    torch.manual_seed(3)
    return build_critic("dcgan", resolution=16, channels=3, classes=0, width=4, norm=norm).double()


def gradients(loss: torch.Tensor, network: nn.Module) -> Gradients:
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize(
    ("penalty", "way"), [*product(PENALTIES, ("by hand", "by autograd")), ("gp", "compiled"), ("r1r2", "compiled")]
)
def test_the_critic_and_its_penalty_are_of_what_it_sees(penalty, way):
    network = critic("layer" if way == "by autograd" else "none")
    objective = CriticObjective(network, penalty=penalty, augmentation=Augmentation(classes_of(way), 0.6))
    if way == "compiled":
        objective.use_compiler(lambda function: compile_or_fall_back(function, backend="aot_eager"))
    loss, _ = objective(**batch()._asdict())
    terms = list(critic_terms(textbook(network), batch(), penalty=penalty, augmented=seen_as(way)))
    assert loss.item() == pytest.approx(sum(term.loss.item() for term in terms) / 6, rel=1e-12, abs=1e-12)
    assert error(gradients(loss, network), mean(terms))[0] < 1e-11
    plain = mean(critic_terms(textbook(network), batch(), penalty=penalty))
    assert error(gradients(objective(**batch()._asdict())[0], network), plain)[0] > 0.01


@pytest.mark.parametrize(
    ("loss", "way"), [("wasserstein", "eager"), ("relativistic", "eager"), ("wasserstein", "compiled")]
)
def test_the_generator_learns_through_what_the_critic_sees(loss, way):
    torch.manual_seed(4)
    generator = build_generator("mlp", resolution=16, channels=3, classes=0, latent=5, width=8, norm="none").double()
    network, latent = critic().requires_grad_(False), randomness.normal(KEYS, "latent", (5,), torch.float64)
    objective = GeneratorObjective(generator, network, loss=loss, augmentation=Augmentation(classes_of(way), 0.6))
    if way == "compiled":
        objective.use_compiler(lambda function: compile_or_fall_back(function, backend="aot_eager"))
    value, _ = objective(latent, None, KEYS, real=batch().real)
    networks = textbook(generator), textbook(network)
    wanted = generator_gradients(*networks, latent, batch(), loss=loss, augmented=seen_as(way))
    found = gradients(value, generator)
    assert error(found, wanted)[0] < 1e-11

    weight, step = next(generator.parameters()), 1e-6
    with torch.no_grad():
        weight[0, 0] += step
        above = objective(latent, None, KEYS, real=batch().real)[0]
        weight[0, 0] -= 2 * step
        below = objective(latent, None, KEYS, real=batch().real)[0]
    slope = (above - below).item() / (2 * step)
    assert next(iter(found.values()))[0, 0].item() == pytest.approx(slope, rel=1e-4, abs=1e-9)
