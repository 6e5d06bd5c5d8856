"""How many gradient norms lie in each cell of the histogram that is kept of them."""

from __future__ import annotations

import torch
from torch import Tensor

from distgan.histogram import CELLS, HALF, OF_AN_OCTAVE


def norm_counts(norms: Tensor) -> Tensor:
    """Counts [66] (int64) of norms [N] in the cells of `distgan.histogram`; what is not a number counts as too large.

    Nothing is copied from the host, which would wait for the device."""
    exponents = torch.arange(-HALF, HALF + 1, dtype=norms.dtype, device=norms.device) / OF_AN_OCTAVE
    cells = torch.bucketize(norms.nan_to_num(nan=torch.inf), exponents.exp2(), right=True)
    return (cells[:, None] == torch.arange(CELLS, device=norms.device)).sum(0)
