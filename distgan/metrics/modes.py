"""Modes that a generator covers (the protocol of stacked MNIST: Metz et al. 2017, "Unrolled generative adversarial
networks", section 3.3; Lin et al. 2018, "PacGAN", section 4)."""

from __future__ import annotations

import torch
from torch import Tensor


def coverage(found: Tensor, real: Tensor) -> tuple[int, float]:
    """(modes found, KL(found || real) in nats) of how often each of K classes occurs, as counts [K] or shares.

    A mode is a class that the reals have; it is found where at least one generated picture is of it. Nothing is
    smoothed: the divergence is infinite where pictures are of a class that no real is of, and a class that no
    picture is of adds nothing to it, so look at both numbers.

    Raises ValueError where the two differ in K, or where one of them is empty.
    """
    if found.ndim != 1 or found.shape != real.shape:
        raise ValueError(f"counts [K] of the same K classes are compared, not {list(found.shape)}, {list(real.shape)}")
    if not (found.sum() > 0 and real.sum() > 0):
        raise ValueError("modes are counted of one picture or more, generated and real")
    p, q = (counts.to(torch.float64) / counts.sum() for counts in (found, real))
    divergence = (torch.xlogy(p, p) - torch.xlogy(p, q)).sum()
    return int(((found > 0) & (real > 0)).sum()), max(0.0, divergence.item())
