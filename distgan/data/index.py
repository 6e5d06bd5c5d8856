"""Which pictures lie where in the shards, as one table, whatever `data.shards` names.

Imports neither torch nor webdataset, so that shards which do not fit a config are refused in under a second.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from distgan.data.index_file import INDEX_FILE, SAMPLES_FILE, chunks, read_index, read_samples
from distgan.data.indexing import Caching, Indexed, default_caching, index_once, remote_samples
from distgan.data.remote import read_small
from distgan.data.specs import Spec, locate, named_shards
from distgan.data.urls import is_remote, join_url, shown
from distgan.errors import DataError

THREADS = 16  # that ask for sizes at once: enough to hide a network file system's latency


@dataclass(frozen=True)
class Shard:
    """A tar: absolute path or URL, its pictures, its bytes, and its SHA-256 where that is known."""

    place: str
    samples: int
    bytes: int
    sha256: str | None

    @property
    def is_remote(self) -> bool:
        return is_remote(self.place)


@dataclass(frozen=True)
class ShardSet:
    """The shards of one training set, opened and checked.

    `samples` has dtype `scan.SAMPLE`, one row a picture, shard after shard: `shard` is a place in `shards`, `offset`
    and `size` are bytes in that tar, `label` is -1 without labels. It may be a mapped file: never write to it.
    `resolution` and `channels` are those of the pictures (foreign tars: of the first; a resolution of
    None means that it is not square). `classes` holds a name for each label, or nothing. `faults` says what is wrong
    with shards that are not as their index says, a line for each.
    """

    shards: tuple[Shard, ...]
    samples: np.ndarray
    resolution: int | None
    channels: int | None
    classes: tuple[str, ...]
    faults: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return len(self.samples)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the local shards lie."""
        return tuple(Path(shard.place) for shard in self.shards if not shard.is_remote)

    @property
    def name(self) -> str:
        """What a message calls the set: the folder of its first shard."""
        place = self.shards[0].place
        return shown(place) if is_remote(place) else os.path.dirname(place)

    @cached_property
    def starts(self) -> np.ndarray:
        """The first sample of each shard, and at the end the number of samples: int64 [shards + 1]."""
        return np.cumsum([0, *(shard.samples for shard in self.shards)])

    @property
    def shard_of(self) -> np.ndarray:
        """The shard of each sample, int32; made anew, without reading the table."""
        return np.repeat(np.arange(len(self.shards), dtype=np.int32), np.diff(self.starts))

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that sets of the same pictures in the same order share, wherever they lie."""
        digest = hashlib.blake2b(digest_size=8)
        for _, part in chunks(self.samples):
            for column in ("size", "label", "crc"):
                digest.update(np.ascontiguousarray(part[column]))
        return digest.hexdigest()


def open_shards(spec: Spec, caching: Caching | None = None, lenient: bool = False) -> ShardSet:
    """Opens shards by folder, tar, brace pattern (`x-{00000..00007}.tar`), glob, URL, or a list of these.

    Where an `index.json` speaks of the tars it is read, and each local shard's presence and size are compared with it;
    other tars are indexed once, which reads them whole, and the index is kept beside them or in the cache's folder.
    `caching` says where remote shards and indexes are kept. Raises `DataError` for a shard that is missing, damaged or
    named twice, for a spec that names nothing, and for sets that do not go together. A `lenient` one opens a set whose
    shards are missing or of another size, where an index says what they held, and puts that among its `faults`.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for place, index in named_shards(spec):
        groups[index].append(place)
    sets = [_open_group(index, places, caching or default_caching(), lenient) for index, places in groups.items()]
    opened = sets[0] if len(sets) == 1 else _join(sets)
    if not opened.count:
        raise DataError(f"{opened.name}: no pictures (.png, .jpg, .webp, .npy, .raw) in the shards; give other tars")
    return opened


def check_against(shards: ShardSet, resolution: int, channels: int, classes: int, fit: str = "exact") -> None:
    """Compares shards with the config's `data.resolution`, `data.channels`, `data.classes` and `data.fit`.

    `classes` 0 means unconditional and always fits; with `fit` crop any resolution does. Raises one `DataError` that
    lists all that differs.
    """
    found = {
        "data.resolution": (resolution, shards.resolution if fit == "exact" else resolution),
        "data.channels": (channels, shards.channels if fit == "exact" else channels),
        "data.classes": (classes, len(shards.classes) if classes else 0),
    }
    wrong = [(key, asked, has) for key, (asked, has) in found.items() if has is not None and asked != has]
    if not wrong:
        return
    listed = "; ".join(f"{key} is {asked} but the shards have {has}" for key, asked, has in wrong)
    mend = ", ".join(f"{key}: {has}" for key, _, has in wrong)
    raise DataError(
        f"{shards.name}: the shards do not fit the config: {listed}. "
        f"Set {mend}{_or_crop(wrong)}, or make other shards with `distgan prepare`"
    )


def _or_crop(wrong: list) -> str:
    return ", or data.fit: crop (resizes while reading)" if [key for key, *_ in wrong] == ["data.resolution"] else ""


def _open_group(source: str, places: Sequence[str], caching: Caching, lenient: bool) -> ShardSet:
    """The shards whose index is to be looked for in one folder."""
    index, samples = index_at(source, caching)
    entries = {locate(source, entry["name"]): entry for entry in index["shards"]} if index else {}
    known = bool(index) and all(place in entries for place in places)
    faults = _faults(places, [entries[place]["bytes"] if known else None for place in places])
    if faults and not (lenient and known and samples is not None):
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}; copy it again, or prepare the shards again")
    kind = (index["resolution"], index["channels"], tuple(index["classes"])) if known else None
    if not known or samples is None:  # without an index, or of version 1, or not to be trusted
        return _as_set(places, index_once(places, caching, kind))
    shards = tuple(
        Shard(place, entry["samples"], entry["bytes"], entry.get("sha256"))
        for place, entry in ((place, entries[place]) for place in places)
    )
    numbers = {place: number for number, place in enumerate(entries)}
    return ShardSet(shards, _pick(samples, index, [numbers[place] for place in places]), *kind, faults)


def _as_set(places: Sequence[str], indexed: Indexed) -> ShardSet:
    head, entries, samples = indexed
    shards = tuple(
        Shard(place, entry["samples"], entry["bytes"], entry["sha256"])
        for place, entry in zip(places, entries, strict=True)
    )
    return ShardSet(shards, samples, head["resolution"], head["channels"], tuple(head["classes"]))


def index_at(source: str, caching: Caching) -> tuple[dict | None, np.ndarray | None]:
    """The index in a folder or at a URL, and its samples."""
    if source == "pipe:":
        return None, None
    if not is_remote(source):
        index = read_index(Path(source) / INDEX_FILE)
        return index, index and read_samples(Path(source) / SAMPLES_FILE, index)
    content = read_small(join_url(source, INDEX_FILE))
    if content is None:
        return None, None
    index = read_index(join_url(source, INDEX_FILE), content)
    return index, remote_samples(source, content, index, caching)


def _faults(places: Sequence[str], expected: Sequence[int | None]) -> tuple[str, ...]:
    """A line for each local shard that is missing, empty or of another size than expected."""
    pairs = [(Path(place), size) for place, size in zip(places, expected, strict=True) if not is_remote(place)]
    with ThreadPoolExecutor(THREADS) as pool:
        return tuple(fault for fault in pool.map(lambda pair: _size_problem(*pair), pairs) if fault)


def _size_problem(path: Path, expected: int | None) -> str | None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return f"{path}: the shard is missing"
    except OSError as error:
        return f"{path}: the shard cannot be read ({error.strerror})"
    if not path.is_file():
        return f"{path}: not a file"
    if size == 0:
        return f"{path}: the shard is empty"
    if expected is not None and size != expected:
        return f"{path}: the shard has {size} bytes where its index says {expected}"
    return None


def _pick(samples: np.ndarray, index: dict, numbers: list[int]) -> np.ndarray:
    """The rows of some shards, numbered anew in the order given; all of them in their order are not copied."""
    if numbers == list(range(len(index["shards"]))):
        return samples
    starts = np.cumsum([0, *(shard["samples"] for shard in index["shards"])])
    parts = []
    for new, old in enumerate(numbers):
        part = np.array(samples[starts[old] : starts[old + 1]])
        part["shard"] = new
        parts.append(part)
    return np.concatenate(parts)


def _join(sets: Sequence[ShardSet]) -> ShardSet:
    """Shards of several folders as one set; without labels where some have none. Raises `DataError` where their
    pictures differ in kind."""
    first, labelled = sets[0], all(one.classes for one in sets)
    for other in sets[1:]:
        for what in ("resolution", "channels", *(["classes"] if labelled else [])):
            mine, theirs = getattr(first, what), getattr(other, what)
            if mine != theirs:
                raise DataError(
                    f"data.shards: {what} {_listed(theirs)} in {other.name}, but {_listed(mine)} in {first.name}; name "
                    "shards of one kind, or prepare them together"
                )
    parts, before = [], 0
    for one in sets:
        part = np.array(one.samples)
        part["shard"] += before
        part["label"] = part["label"] if labelled else -1
        before += len(one.shards)
        parts.append(part)
    shards = tuple(shard for one in sets for shard in one.shards)
    classes = first.classes if labelled else ()
    faults = tuple(fault for one in sets for fault in one.faults)
    return ShardSet(shards, np.concatenate(parts), first.resolution, first.channels, classes, faults)


def _listed(value: object) -> str:
    return ", ".join(value[:12]) if isinstance(value, tuple) else str(value)
