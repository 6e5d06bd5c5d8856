"""Parallel lines, where the exact distances are known (WGAN example 1, Arjovsky et al. 2017).

Reals are (theta, u) and fakes (0, u'), with u and u' independent and uniform on [0, 1]. Then W1 = |theta|, and the
Jensen-Shannon divergence is log 2 for every theta but 0. There is no generator: a critic is trained for each theta,
with the objective that training uses, on points as pictures [N, 2, 1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer, RMSprop

from distgan import randomness
from distgan.errors import Diverged
from distgan.networks import build_critic
from distgan.objectives.critic import CriticObjective
from distgan.schedules import learning_rate
from distgan.weights import clamp

WIDTH, DEPTH = 64, 2
BATCH, EVALUATION = 256, 4096
CLIP = 0.01


class Recipe(NamedTuple):
    """What makes one critic differ from another."""

    loss: str
    penalty: str
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    decay: str = "linear"
    clip: float | None = None


_ADAM = partial(Adam, lr=3e-3, betas=(0.0, 0.9))  # the betas of WGAN-GP; its lr of 1e-4 would need more steps
PENALISED = Recipe("wasserstein", "gp", _ADAM)
CLIPPED = Recipe("wasserstein", "none", partial(RMSprop, lr=5e-5), decay="none", clip=CLIP)
"""The defaults of WGAN algorithm 1 (Arjovsky et al. 2017), but for its batch of 64."""
PLAIN = Recipe("minimax", "none", _ADAM)


@dataclass(frozen=True)
class Training:
    """Updates of each critic, lambda of the gradient penalty, and the seed of weights and points."""

    steps: int
    weight: float
    seed: int


class Penalised(NamedTuple):
    """What the critic of WGAN-GP says: `raw` = E D(x) - E D(x~), `norm` = E |grad D(x^)| at the interpolates."""

    raw: float
    norm: float

    @property
    def estimate(self) -> float:
        """W1, as D / norm says it.

        Kantorovich-Rubinstein: E f(x) - E f(x~) <= W1 for every 1-Lipschitz f, with equality for the best one. The
        interpolates fill the rectangle between the lines, so D / max |grad D| is 1-Lipschitz there. The mean stands
        in for the maximum, which one point in thousands decides: as far as the norms differ, this is no lower bound.
        """
        return self.raw / self.norm


class Measured(NamedTuple):
    """What three critics say of one theta; `clipped` is E D(x) - E D(x~)."""

    theta: float
    penalised: Penalised
    clipped: float
    jensen_shannon: float


def exact_wasserstein(theta: float) -> float:
    """W1 = |theta|: all mass goes straight across."""
    return abs(theta)


def exact_jensen_shannon(theta: float) -> float:
    """log 2 (nats) where the lines are apart, however little; 0 where they are one."""
    return math.log(2) if theta else 0.0


def predicted_raw(theta: float, weight: float) -> float:
    """E D(x) - E D(x~) = |theta| (1 + |theta| / (2 lambda)), of the best critic that is linear.

    With slope k across, the objective is k |theta| - lambda (k - 1)^2, largest at k = 1 + |theta| / (2 lambda): the
    penalty is soft and two-sided, so the raw value is above W1. Since u and u' are independent, the interpolates are
    not uniform along the lines, and a critic that bends a little gains a little more.
    """
    return abs(theta) * (1 + abs(theta) / (2 * weight))


def clipped_bound(theta: float) -> float:
    """|theta| c^(depth + 1) width^depth: the most that weights in [-c, c] let D differ, all paths taken together.

    LeakyReLU has slopes of at most 1, and a shift by theta enters through one weight of each unit.
    """
    return abs(theta) * CLIP ** (DEPTH + 1) * WIDTH**DEPTH


def draw(theta: float, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Reals (theta, u) and fakes (0, u'), each [N, 2, 1, 1], from image keys [N]."""
    return _line(theta, randomness.uniform(keys, "real point")), _line(0.0, randomness.uniform(keys, "fake point"))


def _line(x: float, heights: Tensor) -> Tensor:
    return torch.stack([torch.full_like(heights, x), heights], dim=1)[:, :, None, None]


def measure(theta: float, training: Training, tick: Callable[[], object] = lambda: None) -> Measured:
    """What all three critics say; `tick` is called after each of their 3 * steps updates. Raises Diverged."""
    return Measured(
        theta, penalised(theta, training, tick), clipped(theta, training, tick), jensen_shannon(theta, training, tick)
    )


def penalised(theta: float, training: Training, tick: Callable[[], object] = lambda: None) -> Penalised:
    """WGAN-GP (Gulrajani et al. 2017, eq. 3). Raises Diverged."""
    found = _evaluate(_train(PENALISED, theta, training, tick), theta, training)
    return Penalised(found["critic/wasserstein"], found["critic/grad_norm_mean"])


def clipped(theta: float, training: Training, tick: Callable[[], object] = lambda: None) -> float:
    """WGAN with clipped weights: E D(x) - E D(x~), which is W1 times a Lipschitz constant that nobody knows."""
    return _evaluate(_train(CLIPPED, theta, training, tick), theta, training)["critic/wasserstein"]


def jensen_shannon(theta: float, training: Training, tick: Callable[[], object] = lambda: None) -> float:
    """JS (nats) as the critic of the plain GAN says it: log 2 - L / 2, with L = E[softplus(-D(x)) + softplus(D(x~))].

    With s(D) the probability that a point is real, L is -V of GAN eq. 1, and its least value is log 4 - 2 JS
    (Goodfellow et al. 2014, theorem 1). A critic that is not the best has a larger L, so this is a lower bound.
    """
    return math.log(2) - _evaluate(_train(PLAIN, theta, training, tick), theta, training)["critic/loss"] / 2


def _train(recipe: Recipe, theta: float, training: Training, tick: Callable[[], object]) -> CriticObjective:
    torch.manual_seed(randomness.key(training.seed, "critic weights"))
    critic = build_critic("mlp", resolution=1, channels=2, classes=0, width=WIDTH, depth=DEPTH)
    objective = CriticObjective(critic, loss=recipe.loss, penalty=recipe.penalty, weight=training.weight)
    optimizer = recipe.optimizer(critic.parameters())
    lr = optimizer.param_groups[0]["lr"]
    for step in range(training.steps):
        optimizer.param_groups[0]["lr"] = learning_rate(lr, recipe.decay, 0.0, step / training.steps)
        keys = _keys(training, BATCH, "lines", step)
        loss, _ = objective(*draw(theta, keys), None, keys)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if recipe.clip is not None:
            clamp(critic, recipe.clip)
        tick()
    return objective


def _evaluate(objective: CriticObjective, theta: float, training: Training) -> dict[str, float]:
    """The parts of the loss on points that no update has seen."""
    keys = _keys(training, EVALUATION, "lines evaluation")
    _, parts = objective(*draw(theta, keys), None, keys)
    found = {name: value.item() for name, value in parts.items() if not value.dim()}  # not the histogram
    if not all(map(math.isfinite, found.values())):
        loss = found["critic/loss"]
        raise Diverged(
            f"theta {theta:g}: a critic diverged (loss {loss}); choose a theta and a weight of less extremes"
        )
    return found


def _keys(training: Training, count: int, *purpose: str | int) -> Tensor:
    return randomness.image_keys(randomness.key(training.seed, *purpose), torch.arange(count))
