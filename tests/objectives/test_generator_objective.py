from __future__ import annotations

import pytest
import torch
from forked import in_processes
from small_critics import batch, small_critic
from torch.nn.functional import logsigmoid
from torch.nn.parallel import DistributedDataParallel

from distgan import randomness
from distgan.networks import build_generator
from distgan.objectives.generator import GeneratorObjective
from distgan.objectives.losses import LOSSES
from distgan.parity.measure import error as difference

COUNT = 8
LOSS = {
    "wasserstein": lambda fake, real: -fake,
    "nonsaturating": lambda fake, real: -logsigmoid(fake),
    "minimax": lambda fake, real: logsigmoid(-fake),
    "hinge": lambda fake, real: -fake,
    "relativistic": lambda fake, real: -logsigmoid(fake - real),
}


def parts(loss: str = "wasserstein", classes: int = 0):
    """Generator, frozen critic, objective, and what it is called with."""
    critic = small_critic("dcgan", classes).requires_grad_(False)
    torch.manual_seed(5)
    settings = {"latent": 6, "width": 4, "norm": "layer"}
    generator = build_generator("dcgan", resolution=16, channels=3, classes=classes, **settings).double()
    inputs = batch("dcgan", COUNT, classes)
    latent = randomness.normal(inputs["keys"], "latent", (6,), torch.float64)
    given = {"latent": latent, "labels": inputs["labels"], "keys": inputs["keys"], "real": inputs["real"]}
    return generator, critic, GeneratorObjective(generator, critic, loss=loss), given


def gradients_of(network) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("loss", LOSS)
def test_gradients_are_those_of_the_papers_image_by_image(loss, classes):
    generator, critic, objective, given = parts(loss, classes)
    value, metrics = objective(**given)
    value.backward()
    found = {name: gradient.clone() for name, gradient in gradients_of(generator).items()}
    generator.zero_grad()
    total = 0
    for i in range(COUNT):
        label = given["labels"][i : i + 1] if classes else None
        fake = critic(generator(given["latent"][i : i + 1], label), label)[0]
        total = total + LOSS[loss](fake, critic(given["real"][i : i + 1], label)[0]) / COUNT
    total.backward()
    assert difference(found, gradients_of(generator))[0] <= 1e-12
    assert metrics.keys() == {"generator/loss"} and not metrics["generator/loss"].requires_grad
    assert metrics["generator/loss"].item() == pytest.approx(total.item(), rel=1e-12)


def test_every_loss_is_compared_here():
    assert LOSSES.keys() == LOSS.keys()


def test_a_loss_that_is_not_paired_needs_no_reals():
    generator, _, objective, given = parts()
    objective(**{**given, "real": None})[0].backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())


def test_the_critic_is_held_but_not_owned():
    generator, critic, objective, given = parts()
    owned = {id(parameter) for parameter in objective.parameters()}
    assert owned == {id(parameter) for parameter in generator.parameters()}
    assert not any("critic" in name for name in objective.state_dict())
    objective(**given)[0].backward()
    assert all(parameter.grad is None for parameter in critic.parameters())
    assert all(parameter.grad is not None for parameter in generator.parameters())


def wrapped(rank: int) -> tuple[dict, int, list]:
    generator, critic, objective, given = parts("relativistic")
    wrapper = DistributedDataParallel(objective, broadcast_buffers=False, gradient_as_bucket_view=True)
    half = slice(rank * COUNT // 2, (rank + 1) * COUNT // 2)
    wrapper(**{name: None if value is None else value[half] for name, value in given.items()})[0].backward()
    seen = sum(parameter.numel() for parameter in wrapper.parameters())
    return gradients_of(generator), seen, [parameter.grad for parameter in critic.parameters()]


def test_processes_reduce_the_generator_alone_and_have_the_gradients_of_one(tmp_path):
    ranks = in_processes(2, tmp_path, wrapped)
    generator, _, objective, given = parts("relativistic")
    objective(**given)[0].backward()
    for found, seen, critics in ranks:
        assert difference(found, gradients_of(generator))[0] <= 1e-12
        assert seen == sum(parameter.numel() for parameter in generator.parameters())
        assert all(gradient is None for gradient in critics)
