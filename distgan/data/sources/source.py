"""What a source is: pictures by number, their classes, and a fingerprint of the files they come from."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distgan.data.pictures import Item, RawPicture


class Request(NamedTuple):
    """What the user asked for, as far as a source needs to know."""

    input: Path | None
    resolution: int
    channels: int
    count: int | None = None
    seed: int = 0
    background: str = "dark"


class Source(NamedTuple):
    """`items` may be made lazily; `fingerprint` changes when the input does; `classes` may be empty."""

    items: Sequence[Item]
    classes: tuple[str, ...]
    fingerprint: str


class Rows(Sequence):
    """The rows of one array as items, each made when it is asked for.

    `pixels` is uint8, [N, H, W] or [N, H, W, 3] (a memory map will do); `labels` is integer [N], or None.
    """

    def __init__(self, name: str, pixels: np.ndarray, labels: np.ndarray | None) -> None:
        self.name, self.pixels, self.labels = name, pixels, labels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        label = -1 if self.labels is None else int(self.labels[index])
        return Item(f"{self.name}[{index}]", RawPicture(np.array(self.pixels[index])), label)


class Joined(Sequence):
    """Several sequences of items, one after the other."""

    def __init__(self, parts: Iterable[Sequence[Item]]) -> None:
        self.parts = list(parts)
        self.ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part = bisect_right(self.ends, index)
        return self.parts[part][index - (self.ends[part - 1] if part else 0)]


class Shuffled(Sequence):
    """`count` of a sequence of items in an order drawn by hash: the same on every machine, for ever."""

    def __init__(self, items: Sequence[Item], count: int) -> None:
        self.items = items
        numbers = range(len(items))
        self.order = sorted(numbers, key=lambda number: hashlib.blake2b(b"%d" % number, digest_size=8).digest())[:count]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.items[self.order[index]]


class Unlabelled(Sequence):
    """A sequence of items without their labels."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return replace(self.items[index], label=-1)


def identity(paths: Iterable[Path], root: Path | None = None) -> list[str]:
    """One line a file: its name (under `root`), size and time of change."""
    lines = []
    for path in paths:
        status = path.stat()
        name = path.relative_to(root).as_posix() if root else path.name
        lines.append(f"{name} {status.st_size} {status.st_mtime_ns}")
    return lines


def fingerprint(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()
