"""Pictures for the tests of metrics: drawn ones, and the same ones worse."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from distgan.data.shapes import draw


def drawn(count: int, side: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Pictures of the embedded data set, uint8 [count, channels, side, side]."""
    pictures = [np.asarray(draw(seed, i, side, channels)).reshape(side, side, channels) for i in range(count)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Pictures of independent pixels, uint8."""
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def blurred(pixels: Tensor, sigma: float) -> Tensor:
    """The same pictures under a Gaussian of `sigma` px, uint8."""
    soft = ndimage.gaussian_filter(pixels.numpy().astype(np.float64), (0, 0, sigma, sigma))
    return torch.from_numpy(soft.round().astype(np.uint8))
