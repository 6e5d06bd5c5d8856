"""Pictures of the same latents all along a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from distgan import randomness
from distgan.config import Config
from distgan.tracking import pictures

_BATCH = 64
_BATCH_PIXELS = _BATCH * 128**2
"""Most pixels that are drawn at once: the features before them take many times their memory."""


@torch.no_grad()
def generate(generator: nn.Module, keys: Tensor, labels: Tensor | None, batch: int = _BATCH) -> Tensor:
    """Pictures [N, C, H, W] in [-1, 1] on the host, one for each image key [N] and label [N]."""
    parameter = next(generator.parameters())
    latent = randomness.normal(keys, "latent", (generator.latent,), parameter.dtype).to(parameter.device)
    labels = None if labels is None else labels.to(parameter.device)
    parts = [
        generator(latent[i : i + batch], None if labels is None else labels[i : i + batch]).cpu()
        for i in range(0, len(keys), batch)
    ]
    return torch.cat(parts)


def fixed_grid(generator: nn.Module, config: Config) -> np.ndarray:
    """The grid of a run's fixed latents, which are a function of its seed; with classes one row each.

    The generator is evaluated, and is then as it was: modes, buffers, and the random numbers to come."""
    classes, count = config.data.classes, config.samples.count
    per_row = pictures.columns(count, classes)
    labels = torch.arange(classes).repeat_interleave(per_row) if classes else None
    total = len(labels) if classes else count
    keys = randomness.image_keys(randomness.key(config.seed, "samples"), torch.arange(total))
    batch = max(1, min(_BATCH, _BATCH_PIXELS // config.data.resolution**2))
    with evaluating(generator):
        tiles = [
            pictures.pixels(generate(generator, keys[i : i + batch], None if labels is None else labels[i : i + batch]))
            for i in range(0, total, batch)
        ]
    return pictures.sheet(torch.cat(tiles), per_row)


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode: batch norms use their running statistics, and keep them."""
    training = [part for part in network.modules() if part.training]
    network.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
