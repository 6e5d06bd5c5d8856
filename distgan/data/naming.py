"""What the pictures of a set are called, for a person who wants to look at them."""

from __future__ import annotations

import os
import tarfile
from typing import NamedTuple

import numpy as np

from distgan.data.index import ShardSet
from distgan.data.scan import BLOCK, member_at, printable
from distgan.data.shelf import name_of

_FULL = 100  # characters of a name that a header holds; a longer one stands elsewhere too


class Name(NamedTuple):
    """Where a picture lies. `number`: its place among the pictures of the shard, from 0; `member`: its name in the
    tar, None where that is not at hand (a remote shard)."""

    shard: str
    number: int
    member: str | None


def names_of(shards: ShardSet, samples: np.ndarray) -> list[Name]:
    """The names of samples, int64 [n], of a set."""
    names = []
    for sample in samples.tolist():
        row = shards.samples[sample]
        shard = shards.shards[int(row["shard"])]
        member = None if shard.is_remote else _member(shard.place, int(row["offset"]))
        names.append(Name(name_of(shard), sample - int(shards.starts[int(row["shard"])]), member))
    return names


def _member(path: str, offset: int) -> str | None:
    """The name of the member that has byte `offset` in its first block, from the header before it: to read the whole
    tar for each of a hundred pictures would take minutes."""
    start = offset // BLOCK * BLOCK - BLOCK
    try:
        with open(path, "rb") as file:
            header = os.pread(file.fileno(), BLOCK, start)
        name = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
    except (OSError, tarfile.TarError):
        name = ""
    if name and len(name) < _FULL:
        return printable(name)
    found = member_at(path, offset)
    return None if found == "?" else found
