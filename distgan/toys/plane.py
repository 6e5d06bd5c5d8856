"""Generators of points in the plane, trained as pictures [N, 2, 1, 1] with the networks and objectives of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer, RMSprop

from distgan import randomness
from distgan.errors import Diverged
from distgan.networks import build_critic, build_generator
from distgan.objectives.critic import CriticObjective
from distgan.objectives.generator import GeneratorObjective
from distgan.schedules import learning_rate
from distgan.toys.points import REACH, Distribution
from distgan.weights import clamp, is_finite

WIDTH, DEPTH, LATENT = 128, 3, 2
BATCH, EVALUATION = 128, 2000
CRITIC_STEPS = 2
WEIGHT = 0.1
"""Lambda of the gradient penalty, as in the paper's code for these toys. That has a width of 512, 5 critic steps of 256
points, a learning rate of 1e-4 without decay, betas (0.5, 0.9) and 100,000 steps; what is here is for about a minute on
one core."""
SPREAD = 0.5
"""Biases of the critic's hidden layers begin between minus and plus this. From biases of 0, where a critic of pictures
begins, every line at which a unit of the first layer switches on goes through the origin; so they lie among the
modes."""


class Method(NamedTuple):
    """What makes one training differ from another."""

    title: str
    loss: str
    penalty: str
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    decay: str = "cosine"
    clip: float | None = None


_ADAM = partial(Adam, lr=2e-3, betas=(0.0, 0.9), fused=True)
METHODS = {
    "wgan-gp": Method("WGAN-GP", "wasserstein", "gp", _ADAM),
    "gan": Method("plain GAN", "nonsaturating", "none", _ADAM),
    "wgan": Method("clipped WGAN", "wasserstein", "none", partial(RMSprop, lr=5e-5), decay="none", clip=0.01),
}


@dataclass(frozen=True)
class Training:
    """Updates of the generator, and the seed of weights, points and latents."""

    steps: int
    seed: int


class Trained(NamedTuple):
    """The networks after a training."""

    generator: nn.Module
    critic: nn.Module

    @torch.no_grad()
    def points(self, keys: Tensor) -> Tensor:
        """Generated points [N, 2], of the latents of image keys [N]."""
        return self.generator(_latents(keys)).flatten(1) * REACH

    @torch.no_grad()
    def values(self, points: Tensor) -> Tensor:
        """What the critic says of points [N, 2]: [N]."""
        return self.critic(_pictures(points))


def train(
    method: Method, distribution: Distribution, training: Training, tick: Callable[[], object] = lambda: None
) -> Trained:
    """`tick` is called after each step: CRITIC_STEPS updates of the critic and one of the generator. Raises
    Diverged."""
    networks = _networks(training.seed)
    objectives = (
        CriticObjective(networks.critic, loss=method.loss, penalty=method.penalty, weight=WEIGHT),
        GeneratorObjective(networks.generator, networks.critic, loss=method.loss),
    )
    optimizers = [method.optimizer(objective.parameters()) for objective in objectives]
    for step in range(training.steps):
        for optimizer in optimizers:
            lr = optimizer.defaults["lr"]
            optimizer.param_groups[0]["lr"] = learning_rate(lr, method.decay, 0.0, step / training.steps)
        for repeat in range(CRITIC_STEPS):
            keys = _keys(training, BATCH, "plane critic", step, repeat)
            fake = _pictures(networks.points(keys))
            _update(optimizers[0], objectives[0](_pictures(distribution.draw(keys)), fake, None, keys))
            if method.clip is not None:
                clamp(networks.critic, method.clip)
        keys = _keys(training, BATCH, "plane generator", step)
        networks.critic.requires_grad_(False)
        _update(optimizers[1], objectives[1](_latents(keys), None, keys))
        networks.critic.requires_grad_(True)
        tick()
    if not is_finite([*networks.generator.parameters(), *networks.critic.parameters()]):
        raise Diverged(f"{method.title}: the training diverged; choose another seed or number of steps")
    return networks


def _networks(seed: int) -> Trained:
    torch.manual_seed(randomness.key(seed, "plane weights"))
    shape = {"resolution": 1, "channels": 2, "classes": 0, "width": WIDTH, "depth": DEPTH}
    generator, critic = build_generator("mlp", **shape, latent=LATENT), build_critic("mlp", **shape)
    for layer in critic.hidden:
        nn.init.uniform_(layer.bias, -SPREAD, SPREAD)
    return Trained(generator, critic)


def _update(optimizer: Optimizer, found: tuple[Tensor, dict[str, Tensor]]) -> None:
    optimizer.zero_grad()
    found[0].backward()
    optimizer.step()


def _pictures(points: Tensor) -> Tensor:
    """Points [N, 2] as pictures [N, 2, 1, 1], in [-1, 1] as the generator's."""
    return (points / REACH)[:, :, None, None]


def _latents(keys: Tensor) -> Tensor:
    return randomness.normal(keys, "latent", (LATENT,))


def evaluation_keys(training: Training, what: str) -> Tensor:
    """EVALUATION image keys that no update has seen."""
    return _keys(training, EVALUATION, "plane evaluation", what)


def _keys(training: Training, count: int, *purpose: str | int) -> Tensor:
    return randomness.image_keys(randomness.key(training.seed, *purpose), torch.arange(count))
