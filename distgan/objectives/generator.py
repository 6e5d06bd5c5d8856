"""The generator's loss as one module that holds the critic without owning it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from distgan import randomness
from distgan.objectives.losses import LOSSES


class GeneratorObjective(nn.Module):
    """E[loss(D(G(z)))] over the latents; only the generator's parameters are this module's.

    The critic must be frozen while this is differentiated: left unfrozen its gradients would be computed for nothing
    and pollute its next update.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        *,
        loss: str = "wasserstein",
        augmentation: nn.Module | None = None,
    ) -> None:
        """`augmentation` (pictures, keys, role): what the critic sees is T(G(z)); the gradient goes through it."""
        super().__init__()
        self.generator = generator
        self.loss = LOSSES[loss]
        self.augmentation = augmentation
        self.in_stages = False
        """Of no effect, as there is no double backward."""
        self._critic = (critic,)  # in a tuple, so that its parameters are not registered (and DDP does not reduce them)

    def forward(self, *args: object, **kwargs: object) -> tuple[Tensor, dict[str, Tensor]]:
        """See `compute`; compiled, when `use_compiler` was called."""
        return self.compute(*args, **kwargs)

    def use_compiler(self, compiler: Callable[[Callable], Callable]) -> None:
        """From now on `compute` is compiled. `compiler` makes of a function one that returns the same, as
        `torch.compile` does."""
        self.compute = compiler(self.compute)

    def compute(
        self, latent: Tensor, labels: Tensor | None, keys: Tensor, real: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar, the mean over the N images) and its parts, detached.

        `latent`: [N, latent]; `labels`: [N] or None; `keys`: image keys [N] that decide the critic's dropout; `real`:
        pictures [N, C, H, W], needed by a paired loss alone.
        """
        fake_scores = self._score(self.generator(latent, labels), labels, keys, "fake")
        real_scores = self._score(real, labels, keys, "real") if self.loss.paired else None
        loss = self.loss.generator(fake_scores, real_scores).mean()
        return loss, {"generator/loss": loss.detach()}

    def _score(self, images: Tensor, labels: Tensor | None, keys: Tensor, role: str) -> Tensor:
        if self.augmentation is not None:
            images = self.augmentation(images, keys, role)
        scores = self._critic[0](images, labels, randomness.subkeys(keys, role))
        return scores if scores.dtype == torch.float64 else scores.float()
