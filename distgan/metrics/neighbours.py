"""Precision and recall by nearest neighbours (Kynkaanniemi et al. 2019, "Improved precision and recall metric for
assessing generative models", eq. 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_BLOCK_BYTES = 64 * 10**6
"""Of the distances that are held at once, as float64."""


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """(precision, recall), each in [0, 1], of features real [N, D] and fake [M, D].

    Precision is the share of the fakes that lie in the ball of at least one real, recall the share of the reals that
    lie in the ball of at least one fake; the ball of a point reaches to its k-th nearest neighbour in its own set,
    itself not counted, and its surface belongs to it. Distances are Euclid's, in float64. Memory is bounded; time
    grows as D (N + M)^2.

    Raises ValueError where a set has k points or fewer, or the sets differ in D.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(f"features [N, D] and [M, D] are compared, not {list(real.shape)} and {list(fake.shape)}")
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"neighbour {k} takes more than {k} points; there are {len(real)} real and {len(fake)} fake")
    centre = real.to(torch.float64).mean(0)  # near 0, |x|^2 + |y|^2 - 2 xy loses the fewest digits
    real, fake = real.to(torch.float64) - centre, fake.to(torch.float64) - centre
    reach_real, reach_fake = (
        torch.cat([squared.kthvalue(k + 1, dim=1).values for squared in _squared_distances(points, points)])
        for points in (real, fake)
    )
    precise, recalled, done = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device), 0
    for squared in _squared_distances(fake, real):
        precise += (squared <= reach_real).any(1).sum().item()
        recalled |= (squared <= reach_fake[done : done + len(squared), None]).any(0)
        done += len(squared)
    return precise / len(fake), recalled.double().mean().item()


def _squared_distances(rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Blocks [few, M] of the squared distances of rows [N, D] to columns [M, D], in turn."""
    lengths = columns.square().sum(1)
    for block in rows.split(max(1, _BLOCK_BYTES // (8 * len(columns)))):
        squared = torch.addmm(lengths, block, columns.T, alpha=-2)
        yield squared.add_(block.square().sum(1, keepdim=True)).clamp_(min=0)
