"""The sliced Wasserstein distance between shares of pictures, and the floor beside it."""

from __future__ import annotations

from torch import Tensor

from distgan import randomness
from distgan.evaluation.crew import Crew
from distgan.evaluation.reals import Reals
from distgan.evaluation.shares import Share
from distgan.evaluation.store import Kept, Store
from distgan.metrics.pyramids import DIRECTIONS, descriptors, level_sides, sliced_wasserstein

_AT_ONCE = 64
"""Directions of a block."""
_VERSION = 1
"""Of the distance: another one where the same pictures would have another."""


class Sliced:
    """`swd` to as many real pictures, `swd_RES` of each level, and `swd_floor`.

    The floor is between two disjoint sets of real pictures: of `count` each, as the others are, or of half the set each
    where it has fewer than 2 * `count` pictures; between fewer pictures distances are larger."""

    def __init__(self, reals: Reals, store: Store) -> None:
        self._reals, self._store = reals, store
        self._floor = 0.0

    def prepare(self, crew: Crew) -> None:
        compared, half = self._reals.compared_share(crew), self._reals.half
        name = self._store.name("swd-floor", _VERSION, half, crew.arithmetic)
        kept: Kept | None = crew.main(lambda moved: self._store.load(name))
        if kept is None:
            found = swd(crew, compared, self._reals.share(crew, half, half), half)
            kept = Kept({}, found)
            crew.main(lambda moved: self._store.save(name, *kept))
        self._floor = kept.facts["swd"]

    def measure(self, crew: Crew, fakes: Share, labels: Tensor | None) -> dict[str, float]:
        compared = self._reals.compared_share(crew)
        found = swd(crew, compared, fakes, min(compared.count, fakes.count))
        return {**found, "swd_floor": self._floor}


def swd(crew: Crew, one: Share, other: Share, count: int) -> dict[str, float]:
    """`swd` between the first `count` pictures of both, x 1e3, and `swd_RES` of each level, of which it is the mean.

    Every process gathers the patches of all pictures, a level at a time (count * 128 * 49 * 4 bytes a channel and
    share), and takes its part of the directions."""
    sides = level_sides(one.parts[0].shape[-1])
    of_levels = {f"swd_{side}": _level(crew, one, other, count, number) for number, side in enumerate(sides)}
    return {"swd": sum(of_levels.values()) / len(sides), **of_levels}


def _level(crew: Crew, one: Share, other: Share, count: int, number: int) -> float:
    device = crew.runtime.device

    def patches(share: Share) -> Tensor:
        return crew.rows(
            count, lambda block: descriptors(share.pixels(block).to(device), share.keys(block).to(device))[number]
        )

    a, b = patches(one), patches(other)
    channels, seed = one.parts[0].shape[1], randomness.key("evaluate", "directions")
    distances = crew.rows(DIRECTIONS, lambda some: sliced_wasserstein(a, b, channels, some, seed), _AT_ONCE)
    return distances.mean().item()
