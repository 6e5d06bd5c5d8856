"""The picture of a latent, the same to the bit whatever is drawn before, beside or after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distgan.data.progress import Progress
from distgan.sampling.latents import latents
from distgan.tracking import pictures


class Wanted(NamedTuple):
    """One picture: of a seed and, where the generator has classes, of one of them."""

    seed: int
    label: int | None


class Artist(NamedTuple):
    """A generator in evaluation mode, and how its latents are truncated (None: not at all)."""

    generator: nn.Module
    truncation: float | None = None

    @torch.no_grad()
    def draw(self, latent: Tensor, label: int | None) -> Tensor:
        """The picture of a latent [D]: uint8 [C, H, W] on the host.

        Alone: convolutions and matrix products round otherwise for batches of other sizes."""
        parameter = next(self.generator.parameters())
        labels = None if label is None else torch.tensor([label], device=parameter.device)
        return pictures.pixels(self.generator(latent[None].to(parameter), labels))[0]

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """float64 [N, D]."""
        return latents(seeds, self.generator.latent, self.truncation)

    def each(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Wanted, Tensor]]:
        """The pictures in their order, one after the other, with what they are; shows how far it is."""
        with Progress("sample", len(wanted)) as progress:
            for one in wanted:
                yield one, self.draw(self.latents([one.seed])[0], one.label)
                progress.advance(1)

    def all(self, wanted: Sequence[Wanted]) -> Tensor:
        """The pictures, uint8 [N, C, H, W]."""
        return torch.stack([picture for _, picture in self.each(wanted)])
