"""The reference against what needs no autograd: closed forms, and differences of the loss itself."""

from __future__ import annotations

import pytest
import torch
from parity.cases import NETWORKS, PENALTIES, batch_of, critic_of
from torch import nn

from distgan import randomness
from distgan.networks import build_generator
from distgan.parity.reference import Batch, critic_gradients, critic_terms, generator_gradients, mean
from distgan.parity.textbook import textbook, unit


class Linear(nn.Module):
    """D(x) = w . x, whose gradient is w at every picture."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1.0, 2.0, pixels, dtype=torch.float64))

    def forward(self, images, labels=None, keys=None):
        return images.flatten(1) @ self.weight


@pytest.mark.parametrize(
    ("settings", "penalty"),
    [
        ({"penalty": "gp", "weight": 10.0}, lambda w: 20 * (w.norm() - 1) * w / w.norm()),
        ({"penalty": "gp", "weight": 3.0, "target": 2.0}, lambda w: 6 * (w.norm() - 2) * w / w.norm()),
        ({"penalty": "lp", "weight": 5.0, "target": 9.0}, lambda w: 10 * (w.norm() - 9).clamp(min=0) * w / w.norm()),
        ({"penalty": "lp", "weight": 5.0, "target": 99.0}, lambda w: 0 * w),
        ({"penalty": "r1", "weight": 7.0}, lambda w: 7 * w),
        ({"penalty": "r2", "weight": 7.0, "every": 4}, lambda w: 28 * w),
        ({"penalty": "r1r2", "weight": 7.0}, lambda w: 14 * w),
        ({"penalty": "gp", "weight": 7.0, "penalise": False}, lambda w: 0 * w),
        ({"penalty": "none"}, lambda w: 0 * w),
    ],
)
def test_the_gradients_of_a_linear_critic_are_those_worked_out_by_hand(settings, penalty):
    batch, critic = batch_of("mlp", False, 6), Linear(3 * 8 * 8)
    expected = (batch.fake - batch.real).flatten(1).mean(0) + penalty(critic.weight.detach())
    torch.testing.assert_close(critic_gradients(critic, batch, **settings)["weight"], expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_gradients_are_what_the_loss_does_when_a_weight_is_moved(network, penalty):
    """Central differences along a random direction through all weights."""
    critic, batch = textbook(critic_of(network, True)), batch_of(network, True, 4)
    torch.manual_seed(0)
    direction = {name: 1e-6 * torch.randn_like(p) * p.std() for name, p in critic.named_parameters() if p.numel() > 1}
    gradients = critic_gradients(critic, batch, **PENALTIES[penalty])
    predicted = 2 * sum((gradients[name] * step).sum().item() for name, step in direction.items())
    found = []
    for sign in (1, -1):
        moved = textbook(critic)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter.add_(sign * direction.get(name, torch.zeros(())))
        found.append(sum(term.loss.item() for term in critic_terms(moved, batch, **PENALTIES[penalty])) / 4)
    assert found[0] - found[1] == pytest.approx(predicted, rel=1e-4)


def test_a_mean_of_groups_counts_images():
    batch = batch_of("dcgan minibatch, dropout", False, 6)
    critic = textbook(critic_of("dcgan minibatch, dropout", False))
    terms = list(critic_terms(critic, batch))
    assert unit(critic, 6) == 2 and [term.images for term in terms] == [2, 2, 2]
    first = critic_gradients(critic, batch.rows(0, 2))
    torch.testing.assert_close(mean(terms[:1]), first, rtol=1e-14, atol=0)


def test_a_textbook_copy_keeps_its_kind():
    """A batch norm's copy still asks for the whole batch at once."""
    critic = textbook(textbook(build_generator("dcgan", resolution=16, channels=3, classes=0, width=4)))
    assert unit(critic, 7) == 7
    assert all(parameter.dtype == torch.float64 for parameter in critic.parameters())


def test_the_generators_gradients_are_what_its_loss_does_when_a_weight_is_moved():
    torch.manual_seed(1)
    generator = textbook(build_generator("dcgan", resolution=16, channels=3, classes=0, width=4, latent=6))
    critic, batch = textbook(critic_of("dcgan", False)), batch_of("dcgan", False, 4)
    latent = randomness.normal(batch.keys, "latent", (6,), torch.float64)
    gradients = generator_gradients(generator, critic, latent, batch, loss="relativistic")

    def loss() -> float:
        with torch.no_grad():
            gap = critic(generator(latent)) - critic(Batch(*batch).real)
            return torch.nn.functional.softplus(-gap).mean().item()

    name, parameter = next((n, p) for n, p in generator.named_parameters() if n == "doublings.0.weight")
    direction = 1e-5 * torch.randn_like(parameter)
    found = []
    for sign in (1, -2):
        with torch.no_grad():
            parameter.add_(sign * direction)
        found.append(loss())
    assert found[0] - found[1] == pytest.approx(2 * (gradients[name] * direction).sum().item(), rel=1e-5)
