"""The checkerboard in the spectrum of what a run's generator draws: before training, at checkpoints, and of reals."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from distgan import checkpoint
from distgan.assembly import make_generator
from distgan.config import Config
from distgan.data.dataset import open_dataset
from distgan.metrics.spectrum import checkerboard
from distgan.run_folder import RunFolder
from distgan.sampling.latents import latents
from distgan.sampling.source import find
from distgan.tracking import pictures

COUNT = 512
"""Pictures."""
_BATCH = 64


def checkerboards(config: Config, run: Path) -> dict[str, float]:
    """By "real" and by the step; step 0 is the generator as it begins, with the batch norm of training."""
    found = {"real": checkerboard(_reals(config)), "0": checkerboard(_drawn(make_generator(config).train()))}
    for step in checkpoint.steps_in(RunFolder(run).checkpoints):
        found[str(step)] = checkerboard(_drawn(find(run, step=step).generator))
    return found


@torch.no_grad()
def _drawn(generator: nn.Module) -> Tensor:
    """uint8 [COUNT, C, H, W]."""
    device = next(generator.parameters()).device
    drawn = latents(range(COUNT), generator.latent).float().to(device)
    return torch.cat([pictures.pixels(generator(batch)) for batch in drawn.split(_BATCH)])


def _reals(config: Config) -> Tensor:
    dataset = open_dataset(config.data)
    return dataset.read(dataset.split.train[:COUNT])
