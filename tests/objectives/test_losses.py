from __future__ import annotations

import math

import pytest
import torch

from distgan.objectives.losses import LOSSES

SCORES = torch.linspace(-6, 6, 25, dtype=torch.float64)
REAL, FAKE = (grid.flatten() for grid in torch.meshgrid(SCORES, SCORES, indexing="ij"))


def s(x: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-x))


CRITIC = {
    "wasserstein": FAKE - REAL,
    "nonsaturating": -torch.log(s(REAL)) - torch.log(1 - s(FAKE)),
    "minimax": -torch.log(s(REAL)) - torch.log(1 - s(FAKE)),
    "hinge": torch.maximum(0 * REAL, 1 - REAL) + torch.maximum(0 * FAKE, 1 + FAKE),
    "relativistic": -torch.log(s(REAL - FAKE)),
}
GENERATOR = {
    "wasserstein": -FAKE,
    "nonsaturating": -torch.log(s(FAKE)),
    "minimax": torch.log(1 - s(FAKE)),
    "hinge": -FAKE,
    "relativistic": -torch.log(s(FAKE - REAL)),
}


def test_every_loss_is_compared_here():
    assert LOSSES.keys() == CRITIC.keys() == GENERATOR.keys()


@pytest.mark.parametrize("name", CRITIC)
def test_the_critic_minimises_what_the_paper_writes(name):
    torch.testing.assert_close(LOSSES[name].critic(REAL, FAKE), CRITIC[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", GENERATOR)
def test_the_generator_minimises_what_the_paper_writes(name):
    real = REAL if LOSSES[name].paired else None
    torch.testing.assert_close(LOSSES[name].generator(FAKE, real), GENERATOR[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_scores_without_bound_give_no_infinity_and_no_nan(name):
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = LOSSES[name].critic(far, far.flip(0)).sum() + LOSSES[name].generator(far, far.flip(0)).sum()
    loss.backward()
    assert math.isfinite(loss.item()) and torch.isfinite(far.grad).all()


@pytest.mark.parametrize(
    ("name", "value"), [("nonsaturating", 2 * math.log(2)), ("hinge", 2), ("relativistic", math.log(2))]
)
def test_a_critic_that_cannot_tell_has_the_known_loss(name, value):
    zero = torch.zeros(1, dtype=torch.float64)
    assert LOSSES[name].critic(zero, zero).item() == pytest.approx(value)


@pytest.mark.parametrize("name", LOSSES)
def test_a_generator_wants_higher_scores(name):
    fake = FAKE.clone().requires_grad_()
    (slope,) = torch.autograd.grad(LOSSES[name].generator(fake, REAL).sum(), fake)
    assert (slope < 0).all()
