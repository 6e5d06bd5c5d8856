"""The index of shards on disk: `index.json` with a line a shard, `samples.npy` with a row a picture.

`samples.npy` is mapped into memory, so that the processes of a machine share its pages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distgan.data.scan import SAMPLE
from distgan.errors import DataError
from distgan.files import new_file

INDEX_FILE = "index.json"
SAMPLES_FILE = "samples.npy"
JOURNAL_FILE = ".prepare.json"  # there only while a prepare has not finished
VERSION = 2
READABLE = (1, 2)
"""Version 1 had no checksums of pictures: its shards are indexed anew, and what it says of classes and size is kept."""


def read_index(file: Path | str, content: bytes | None = None) -> dict | None:
    """The index in a file, or in the `content` that lay there; None where there is no such file.

    Raises `DataError` where it is damaged, of another version, or names a shard outside of its folder.
    """
    try:
        index = json.loads(Path(file).read_bytes() if content is None else content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); prepare again with --overwrite") from None
    try:
        if index["version"] not in READABLE:
            version = index["version"]
            raise DataError(f"{file}: version {version}, this program reads {VERSION}; prepare the shards again")
        [(str(s["name"]), int(s["samples"]), int(s["bytes"])) for s in index["shards"]]
        [index[key] is None or int(index[key]) for key in ("resolution", "channels")]
        list(index["classes"]), int(index["count"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not an index of shards ({error!r}); prepare the shards again") from None
    for shard in index["shards"]:
        if ".." in shard["name"].split("/"):
            raise DataError(f"{file}: names the shard {shard['name']}, which leads out of its folder; do not use it")
    return index


def read_samples(file: Path, index: dict) -> np.ndarray | None:
    """`samples.npy`, mapped, where it agrees with the index in every way that can be seen; otherwise None."""
    try:
        samples = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    shards = index["shards"]
    if samples.dtype != SAMPLE or samples.ndim != 1 or len(samples) != index["count"]:
        return None
    starts = np.cumsum([0, *(shard["samples"] for shard in shards)])
    if starts[-1] != len(samples):
        return None
    ends = np.array([shard["bytes"] for shard in shards], np.int64)
    for begin, part in chunks(samples):
        if not _plausible(part, begin, starts, ends, len(index["classes"])):
            return None
    return samples


_CHUNK = 1 << 20


def chunks(samples: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """All rows, a million at a time, each part with the number of its first.

    A mapped file is read beside its map, whose pages would stay in this process's memory.
    """
    file = open(samples.filename, "rb") if isinstance(samples, np.memmap) and samples.filename else None
    try:
        for begin in range(0, len(samples), _CHUNK):
            part = samples[begin : begin + _CHUNK]
            if file is not None:
                file.seek(samples.offset + begin * samples.itemsize)
                part = np.fromfile(file, samples.dtype, len(part))
            yield begin, part
    finally:
        if file is not None:
            file.close()


def _plausible(part: np.ndarray, begin: int, starts: np.ndarray, ends: np.ndarray, classes: int) -> bool:
    """Whether rows `begin` and on stand shard after shard, each within its tar."""
    numbers = np.searchsorted(starts, np.arange(begin, begin + len(part)), side="right") - 1
    if not np.array_equal(part["shard"], numbers):
        return False
    inside = (part["offset"] >= 0) & (part["size"] > 0) & (part["offset"] + part["size"] <= ends[numbers])
    known = (part["label"] >= -1) & (part["label"] < max(classes, 1))
    return bool(inside.all() and known.all())


def write_index(folder: Path, head: dict, shards: list[dict], samples: np.ndarray) -> None:
    """Writes `samples.npy`, then `index.json`: whoever sees the index sees all it speaks of.

    `shards`: name, samples, bytes and sha256 of each. `head` has count, resolution, channels and classes.
    """
    with new_file(folder / SAMPLES_FILE) as file:
        np.save(file, np.ascontiguousarray(samples), allow_pickle=False)
    index = {"version": VERSION, **head, "shards": shards}
    with new_file(folder / INDEX_FILE) as file:
        file.write(json.dumps(index, indent=1).encode() + b"\n")


def samples_name(content: bytes) -> str:
    """A name for a copy of the `samples.npy` that belongs to the `index.json` of these bytes."""
    return hashlib.sha256(content).hexdigest()[:32]
