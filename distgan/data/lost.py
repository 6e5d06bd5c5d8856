"""Which pictures are gone with their shards, or with the ends of them, as far as the sizes of files tell."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from distgan.data.index import THREADS, ShardSet


def lost_pictures(shards: ShardSet) -> np.ndarray:
    """The samples, int64 [n], whose bytes are not all in the file of their shard on this machine; of remote shards
    nothing is known."""
    here = [number for number, shard in enumerate(shards.shards) if not shard.is_remote]
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = list(pool.map(lambda number: _size(Path(shards.shards[number].place)), here))
    found = [np.empty(0, np.int64)]
    for number, size in zip(here, sizes, strict=True):
        if size < shards.shards[number].bytes:
            start, stop = shards.starts[number : number + 2]
            rows = shards.samples[start:stop]
            found.append(start + np.flatnonzero(rows["offset"].astype(np.int64) + rows["size"] > size))
    return np.concatenate(found)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
