"""Pictures that are kept from training, so that a critic can be asked what it thinks of reals it has never seen.

Which ones depends on the shards and on `data.holdout` alone, not on the seed: the runs of one experiment share them.
"""

from __future__ import annotations

import fnmatch
import os
import re
from typing import NamedTuple

import numpy as np

from distgan.data.index import ShardSet
from distgan.data.shelf import name_of
from distgan.errors import ConfigError


class Split(NamedTuple):
    """The samples of a set that are trained on, and those that are not: uint32, ascending."""

    train: np.ndarray
    held_out: np.ndarray


def split(shards: ShardSet, holdout: str | list[str] | None) -> Split:
    """Splits a set by `data.holdout`: "1000 images" spread over all shards, "2 shards" from the end, or the names or
    patterns of shards (a text or a list). Raises `ConfigError` where that leaves nothing on one side.
    """
    if holdout is None:
        return Split(np.arange(shards.count, dtype=np.uint32), np.empty(0, np.uint32))
    amount = re.fullmatch(r"\s*(\d+)\s*(image|shard)s?\s*", holdout) if isinstance(holdout, str) else None
    if amount and amount[2] == "image":
        held = _some(shards.count, int(amount[1]))
    else:
        chosen = _last(shards, int(amount[1])) if amount else _named(shards, holdout)
        held = np.isin(shards.shard_of, chosen)
    if held.all() or not held.any():
        what = "no picture to train on" if held.all() else "no picture held out"
        raise ConfigError(
            f"data.holdout: {holdout!r} leaves {what}, of {shards.count} in {len(shards.shards)} shards; use less, or "
            "name shards of data.shards"
        )
    numbers = np.arange(shards.count, dtype=np.uint32)
    return Split(numbers[~held], numbers[held])


def _some(count: int, wanted: int) -> np.ndarray:
    """A mask of `wanted` samples drawn from all, by hash."""
    from distgan import randomness  # loads torch

    held = np.zeros(count, bool)
    held[randomness.permutation(randomness.key("holdout"), count)[:wanted].numpy()] = True
    return held


def _last(shards: ShardSet, wanted: int) -> list[int]:
    return list(range(len(shards.shards)))[-wanted:] if wanted else []


def _named(shards: ShardSet, names: str | list[str]) -> list[int]:
    """Numbers of the shards that a pattern fits, by file name or by whole place."""
    found = set()
    for pattern in [names] if isinstance(names, str) else names:
        fits = [
            number
            for number, shard in enumerate(shards.shards)
            for place in (name_of(shard),)
            if fnmatch.fnmatchcase(place, pattern) or fnmatch.fnmatchcase(os.path.basename(place), pattern)
        ]
        if not fits:
            raise ConfigError(
                f"data.holdout: {pattern!r} is no shard of data.shards; give names or patterns of shards, or an amount "
                'such as "1000 images" or "2 shards"'
            )
        found.update(fits)
    return sorted(found)
