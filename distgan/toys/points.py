"""Distributions of points in the plane, from the WGAN-GP paper (Gulrajani et al. 2017, figure 1), and how well others
match them.

As in the authors' code (gan_toy.py), but for the draws: 25 Gaussians on a grid and 8 on a circle, each with its modes
equally likely, and a Swiss roll; each scaled to a standard deviation of about 1 along each axis (the roll: "plus a
little").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from distgan import randomness

REACH = 2.5
"""No coordinate of a real point is larger (of the roll, in one draw of 10^8)."""
NEAR = 3.0
"""Standard deviations from a mode within which a point is near it (VEEGAN, Srivastava et al. 2017)."""
FAIR = 0.1
"""A mode is found when as large a part of its even share of the points is near it."""
_ALONG = 2000


class Distribution(NamedTuple):
    """A point is a place, drawn by one number, and normal noise around it."""

    place: Callable[[Tensor], Tensor]
    """From numbers in [0, 1), [N], to places [N, 2]."""
    deviation: float
    """Standard deviation of the noise along each axis."""
    modes: int
    """How many places there are; 0 where they are a curve."""

    def draw(self, keys: Tensor) -> Tensor:
        """Points [N, 2] from image keys [N]."""
        places = self.place(randomness.uniform(keys, "place"))
        return places + self.deviation * randomness.normal(keys, "noise", (2,))

    def places(self) -> Tensor:
        """All modes [modes, 2]; of a curve, places close to one another."""
        count = self.modes or _ALONG
        return self.place((torch.arange(count) + 0.5) / count)


def _gaussians(centres: list[tuple[float, float]], deviation: float) -> Distribution:
    table = torch.tensor(centres)
    return Distribution(lambda u: table[(u * len(table)).long()], deviation, len(table))


def _grid() -> Distribution:
    scale = 2 * math.sqrt(2)
    return _gaussians([(2 * x / scale, 2 * y / scale) for x in range(-2, 3) for y in range(-2, 3)], 0.05 / scale)


def _circle() -> Distribution:
    angles = [math.pi / 4 * k for k in range(8)]
    scale = math.sqrt(2)
    return _gaussians([(2 / scale * math.cos(a), 2 / scale * math.sin(a)) for a in angles], 0.02 / scale)


def _roll() -> Distribution:
    """t (cos t, sin t), t uniform in [3 pi / 2, 9 pi / 2] and noise of 0.25: scikit-learn's, without its height."""
    scale = 7.5

    def place(u: Tensor) -> Tensor:
        t = 1.5 * math.pi * (1 + 2 * u)
        return torch.stack([t * t.cos(), t * t.sin()], dim=1) / scale

    return Distribution(place, 0.25 / scale, 0)


DISTRIBUTIONS = {"8gaussians": _circle(), "25gaussians": _grid(), "swissroll": _roll()}


class Match(NamedTuple):
    """How well points match a distribution."""

    wasserstein: float
    """W1 to as many points of the distribution, exact for these points."""
    near: float
    """Share of the points within NEAR standard deviations of the nearest place."""
    found: int
    """Modes near which there is FAIR of their even share of the points, or more."""
    touched: int
    """Modes near which there is any point: what VEEGAN counts."""


def match(points: Tensor, real: Tensor, distribution: Distribution) -> Match:
    """How well `points` [N, 2] match, where `real` [N, 2] are points of the distribution."""
    near, counts = neighbours(points, distribution)
    fair = FAIR * len(points) / len(counts)
    found, touched = (int((counts >= least).sum()) if distribution.modes else 0 for least in (fair, 1))
    return Match(wasserstein(points, real), near, found, touched)


def neighbours(points: Tensor, distribution: Distribution) -> tuple[float, Tensor]:
    """The share of points [N, 2] that are near the nearest place, and how many are near each, [places]."""
    places = distribution.places()
    distances, nearest = torch.cdist(points.double(), places.double(), compute_mode=_EXACT).min(dim=1)
    is_near = distances <= NEAR * distribution.deviation
    return is_near.double().mean().item(), nearest[is_near].bincount(minlength=len(places))


_EXACT = "donot_use_mm_for_euclid_dist"


def wasserstein(one: Tensor, other: Tensor) -> float:
    """W1 between two sets of N points [N, 2]: the least mean distance over all pairings of one with the other."""
    distances = cdist(one.double().numpy(), other.double().numpy())
    return float(distances[linear_sum_assignment(distances)].mean())
