"""Damage to what a run reads: its checkpoints, and its pictures."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from distgan.checkpoint import MANIFEST
from distgan.config import Config
from distgan.data.dataset import open_dataset
from distgan.data.order import Order


def truncate(checkpoint: Path, draw: Random) -> None:
    """Cuts the end off one of its files."""
    path = _one_file(checkpoint, draw)
    with open(path, "r+b") as file:
        file.truncate(draw.randrange(path.stat().st_size))


def flip_bit(checkpoint: Path, draw: Random) -> None:
    """One bit of one of its files."""
    path = _one_file(checkpoint, draw)
    flip(path, draw.randrange(path.stat().st_size), 1 << draw.randrange(8))


def remove_manifest(checkpoint: Path, draw: Random) -> None:
    (checkpoint / MANIFEST).unlink()


def flip(path: Path, place: int, bits: int) -> None:
    """Bits of one byte of a file, in place; a second time puts them back."""
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ bits]))


@dataclass(frozen=True)
class BadPicture:
    """A picture of a shard in which a byte has been changed."""

    shard: Path
    member: str
    place: int

    def mend(self) -> None:
        flip(self.shard, self.place, 255)


class Shards:
    """The storm's own copy of the shards, and in which order a run reads them."""

    AHEAD = 6
    """Steps of which a start may have read the pictures already: it reads four batches ahead, and goes on meanwhile."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._set = open_dataset(config.data).shards
        self._order = Order(self._set.count, config.seed)

    def spoil(self, since: int, step: int) -> BadPicture | None:
        """Changes the next picture that a start which began at step `since`, and is now at `step`, reads for the first
        time: it looks at none twice. None where it has read all."""
        horizon = step + self.AHEAD
        read = set(self._samples(since, horizon))
        unread = (sample for sample in self._samples(horizon, horizon + self._set.count) if sample not in read)
        sample = next(unread, None)
        if sample is None:
            return None
        entry = self._set.samples[sample]
        shard, place = Path(self._set.shards[entry["shard"]].place), int(entry["offset"]) + int(entry["size"]) // 2
        flip(shard, place, 255)
        return BadPicture(shard, _member_at(shard, place), place)

    def _samples(self, first: int, last: int) -> list[int]:
        """Those of the steps from `first` to `last`, in order."""
        images = self._config.course.stage(0).images_per_step
        return self._order.samples(np.arange(first * images, last * images)).tolist()


def _one_file(checkpoint: Path, draw: Random) -> Path:
    return draw.choice(sorted(path for path in checkpoint.iterdir() if path.stat().st_size))


def _member_at(shard: Path, place: int) -> str:
    with tarfile.open(shard) as tar:
        return next(m.name for m in tar if m.offset_data <= place < m.offset_data + m.size)
