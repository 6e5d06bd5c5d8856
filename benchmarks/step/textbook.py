"""WGAN-GP as tutorials write it: three forwards of the critic, plain layers, eager, contiguous memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks.step.cases import CRITIC_STEPS
from distgan.parity.textbook import textbook

WEIGHT = 10.0
"""Of the penalty (lambda)."""


class Textbook:
    """Both networks with their updates, after the code of Gulrajani et al. 2017 and its ports."""

    def __init__(self, generator: nn.Module, critic: nn.Module, real: Tensor, fake: Tensor) -> None:
        """Takes copies of the networks, in the dtype and on the device of `real`; `real`, `fake`: [N, C, H, W], what
        updates work on."""
        self.generator = textbook(generator, real.dtype).to(real.device)
        self.critic = textbook(critic, real.dtype).to(real.device)
        self._real, self._fake = real.contiguous(), fake.contiguous()
        self._latent = generator.latent
        self._optimizers = [
            Adam(network.parameters(), 1e-4, betas=(0.0, 0.9)) for network in (self.generator, self.critic)
        ]

    def critic_update(self, epsilon: Tensor | None = None, fake: Tensor | None = None) -> None:
        """Leaves the gradients of the critic's loss in `.grad`; `epsilon`: [N]."""
        real, fake = self._real, self._fake if fake is None else fake
        self.critic.requires_grad_(True)
        self.critic.zero_grad()
        epsilon = torch.rand(len(real), device=real.device, dtype=real.dtype) if epsilon is None else epsilon
        mix = epsilon[:, None, None, None]
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        penalty = ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
        loss = self.critic(fake).mean() - self.critic(real).mean() + WEIGHT * penalty
        loss.backward()

    def generator_update(self, latent: Tensor | None = None) -> None:
        """Leaves the gradients of the generator's loss in `.grad`; `latent`: [N, latent]."""
        self.critic.requires_grad_(False)
        self.generator.zero_grad()
        fake = self.generator(self._noise() if latent is None else latent)
        (-self.critic(fake).mean()).backward()

    def step(self) -> None:
        """`CRITIC_STEPS` updates of the critic with fakes of their own, one of the generator, and the optimisers."""
        generator, critic = self._optimizers
        for _ in range(CRITIC_STEPS):
            with torch.no_grad():
                fake = self.generator(self._noise())
            self.critic_update(fake=fake)
            critic.step()
        self.generator_update()
        generator.step()

    def _noise(self) -> Tensor:
        return torch.randn(len(self._real), self._latent, device=self._real.device, dtype=self._real.dtype)
