"""Pictures in the place of those that cannot be read: which, how many, and what is told of them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from distgan import randomness
from distgan.data.failures import ShardLost
from distgan.data.index import ShardSet
from distgan.errors import ReadError

_ATTEMPTS = 64
"""Draws from a shard, and then from the whole set, before nothing is taken to be good in it."""


class Substitutes:
    """The bad pictures that a process has met, and who takes their places. From any thread.

    Which one it is, is a function of the sample and of what can be read: the same on every process and any number of
    them. A bad picture is replaced by another of its shard. Where the shard as a whole is lost, the bytes of the
    picture are gone with its end, or nothing in it is good, the set stands in: a run of consecutive pictures of it for
    those of the shard, one for one, so that a lost shard that is far away costs two others and not one a picture.
    """

    def __init__(self, shards: ShardSet, allowed: np.ndarray | None, limit: int, told: set[str]) -> None:
        """`allowed`, bool [samples], says which may take a place, all without it. More than `limit` bad pictures are an
        error. `told` holds the names of shards whose loss has been told, and grows."""
        self._starts, self._allowed, self._limit, self._told = shards.starts, allowed, limit, told
        self._shards = shards.shards
        self._count = shards.count
        self._bad: dict[int, bool] = {}
        self._lock = threading.Lock()

    @property
    def replaced(self) -> frozenset[str]:
        """The bad pictures by number."""
        with self._lock:
            return frozenset(map(str, self._bad))

    def has(self, sample: int) -> bool:
        """Whether a picture is known to be bad; it stays so while the process lives."""
        return sample in self._bad

    def of(self, sample: int) -> Iterator[int]:
        """The pictures that may take the place of a bad one, in the order in which they are to be tried."""
        shard = int(np.searchsorted(self._starts, sample, side="right")) - 1
        start, stop = (int(edge) for edge in self._starts[shard : shard + 2])
        if not self._bad[sample]:
            for attempt in range(_ATTEMPTS):
                other = start + randomness.key("substitute", sample, attempt) % (stop - start)
                if other not in self._bad and (self._allowed is None or self._allowed[other]):
                    yield other
        count = self._count if self._pool is None else len(self._pool)
        for attempt in range(_ATTEMPTS):
            place = (randomness.key("substitutes", shard, attempt) + sample - start) % count
            other = place if self._pool is None else int(self._pool[place])
            if other not in self._bad:
                yield other

    @cached_property
    def _pool(self) -> np.ndarray | None:
        """All samples that may take a place; None where all there are may."""
        return None if self._allowed is None else np.flatnonzero(self._allowed)

    def note(self, sample: int, lost: ShardLost | None, named: Callable[[], str]) -> None:
        """Counts a bad picture, `lost` with its shard or by itself, and tells of it, or of the shard, once.

        `named` says what is wrong with it. Raises `ReadError` when there are too many."""
        with self._lock:
            if sample in self._bad:
                return
            self._bad[sample] = lost is not None
            found = len(self._bad)
            news = lost is None or lost.args[0] not in self._told
            if lost is not None:
                self._told.add(lost.args[0])
        if found > self._limit:
            raise ReadError(
                f"{named()}; with it {found} pictures are bad, more than data.bad_limit {self._limit}; look at the "
                "shards with `distgan doctor --data` and make them again, or raise data.bad_limit"
            )
        if news:
            text = f"{named()}; replaced by another" if lost is None else self._of_shard(sample, lost)
            print(f"distgan: {text}", file=sys.stderr, flush=True)

    def _of_shard(self, sample: int, lost: ShardLost) -> str:
        name, reason, _ = lost.args
        shard = self._shards[int(np.searchsorted(self._starts, sample, side="right")) - 1]
        return f"{name}: {reason}; those of its {shard.samples} pictures that cannot be read are replaced by others"
