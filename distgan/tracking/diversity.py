"""How different pictures are from each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pdist

COUNT = 16
"""Pictures that are compared: 120 pairs."""

_COARSE = 16
"""Pixels a side that are compared: differences that a person sees from afar, and not noise."""


@torch.no_grad()
def spread(images: Tensor) -> float:
    """The mean Euclidean distance of all pairs of pictures [N, C, H, W], averaged to 16 x 16 pixels at most; 0 of one.

    A function of one set alone, so that it is taken once of the real pictures."""
    if len(images) < 2:
        return 0.0
    side = min(_COARSE, images.shape[-1])
    return pdist(adaptive_avg_pool2d(images.detach().cpu().double(), side).flatten(1)).mean().item()
