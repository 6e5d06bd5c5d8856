"""Pictures of which every process holds its blocks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from distgan import randomness
from distgan.evaluation.crew import Crew
from distgan.sampling import fixed
from distgan.tracking import pictures


class Share(NamedTuple):
    """This process's blocks of `count` pictures."""

    count: int
    parts: list[Tensor]
    """uint8 [n, C, H, W] on the host, a part a block."""
    key: int
    """From which, with its position, the key of each picture follows."""
    block: int
    """Pictures of a block."""
    world_size: int

    @classmethod
    def of(cls, crew: Crew, count: int, key: int, parts: list[Tensor]) -> Share:
        return cls(count, parts, key, crew.block, crew.runtime.world_size)

    def pixels(self, block: range) -> Tensor:
        """The pictures of one of this process's blocks, or those that it begins with. Where that is not its own but the
        first of all (see Crew.each) it has as many, over and over those that there are: only their form counts."""
        part = self.parts[block.start // self.block // self.world_size][: len(block)]
        return part if len(part) == len(block) else part[torch.arange(len(block)) % len(part)]

    def keys(self, block: range) -> Tensor:
        """int64 [n]."""
        return randomness.image_keys(self.key, torch.tensor(list(block)))


def drawn(crew: Crew, generator: nn.Module, seed: int, count: int, labels: Tensor | None) -> Share:
    """Pictures of a generator in evaluation mode, whose latents follow from (seed, "evaluate") and their position;
    `labels`: int64 [count], None without classes."""
    key = randomness.key(seed, "evaluate")

    def draw(block: range) -> Tensor:
        keys = randomness.image_keys(key, torch.tensor(list(block)))
        own = None if labels is None else labels[block.start : block.stop]
        return pictures.pixels(fixed.generate(generator, keys, own, batch=len(block)))

    return Share.of(crew, count, key, crew.each(count, draw))
