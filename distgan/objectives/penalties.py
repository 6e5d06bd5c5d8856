"""Gradient penalties: where the gradient of the critic is taken, and what its norm is asked to be.

A penalty is two pure functions: `points(real, fake, epsilon)` gives the pictures [M, C, H, W] at which the gradient is
taken, M a multiple of N; `term(norm, target)` one value for each gradient norm [M]. All are means over the images of
a term that depends on that image alone (or on its minibatch group), so they may be split over processes and
micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Penalty(NamedTuple):
    """`copies`: pictures at which the gradient is taken for each pair, M / N. `among`: where they are reals or fakes
    themselves, the first and last of these two."""

    points: Callable[[Tensor, Tensor, Tensor], Tensor]
    term: Callable[[Tensor, float], Tensor]
    copies: int = 1
    among: tuple[int, int] | None = None


def interpolate(real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """x^ = epsilon x + (1 - epsilon) x~ with one epsilon [N] an image (WGAN-GP algorithm 1, line 6)."""
    mix = epsilon.to(real.dtype)[:, None, None, None]
    return mix * real + (1 - mix) * fake


def _at_reals(real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    return real


def _at_fakes(real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    return fake


def _at_both(real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    return torch.cat([real, fake])


def two_sided(norm: Tensor, target: float) -> Tensor:
    """(|grad D(x^)| - target)^2 (WGAN-GP eq. 3, target 1)."""
    return (norm - target).square()


def one_sided(norm: Tensor, target: float) -> Tensor:
    """max(0, |grad D(x^)| - target)^2 (WGAN-LP eq. 7, Petzka et al. 2018)."""
    return (norm - target).clamp(min=0).square()


def half_square(norm: Tensor, target: float) -> Tensor:
    """|grad D|^2 / 2 (R1 and R2, Mescheder et al. 2018, eq. 9 and 10, with gamma the weight)."""
    return 0.5 * norm.square()


PENALTIES = {
    "gp": Penalty(interpolate, two_sided),
    "lp": Penalty(interpolate, one_sided),
    "r1": Penalty(_at_reals, half_square, among=(0, 1)),
    "r2": Penalty(_at_fakes, half_square, among=(1, 2)),
    "r1r2": Penalty(_at_both, half_square, copies=2, among=(0, 2)),
}


def image_norms(gradient: Tensor) -> Tensor:
    """The Euclidean norm of each image's gradient [M, C, H, W], over all of it, in float32 at least: [M].

    `vector_norm` has a zero subgradient at zero, where the square root of a sum of squares has a NaN.
    """
    wide = gradient if gradient.dtype == torch.float64 else gradient.float()
    return torch.linalg.vector_norm(wide.flatten(1), dim=1)
