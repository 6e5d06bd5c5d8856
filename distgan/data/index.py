"""Which pictures lie where in the shards: `index.json` and `samples.npy`, or a scan of foreign tars.

Imports neither torch nor webdataset, so that shards which do not fit a config are refused in under a second.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distgan.data.scan import SAMPLE, picture_header, scan_tar
from distgan.errors import DataError

INDEX_FILE = "index.json"
SAMPLES_FILE = "samples.npy"
JOURNAL_FILE = ".prepare.json"  # there only while a prepare has not finished
VERSION = 1
THREADS = 16  # that ask for sizes or scan tars at once: enough to hide a network file system's latency


@dataclass(frozen=True)
class ShardSet:
    """The shards of one training set, opened and checked.

    `samples` has dtype `scan.SAMPLE`, one row a picture in input order: `shard` is a place in `paths`,
    `offset` and `size` are bytes of the encoded picture in that tar, `label` is -1 without labels.
    `resolution` and `channels` are those of the pictures (foreign tars: of the first; a resolution of
    None means that it is not square). `classes` holds a name for each label, or nothing.
    """

    paths: tuple[Path, ...]
    samples: np.ndarray
    resolution: int | None
    channels: int | None
    classes: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.samples)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that sets of the same pictures in the same order share, wherever they lie."""
        content = np.stack([self.samples["size"], self.samples["label"]])
        return hashlib.blake2b(content.tobytes(), digest_size=8).hexdigest()


def open_shards(spec: str | os.PathLike | Sequence[str | os.PathLike]) -> ShardSet:
    """Opens shards by folder, tar, brace pattern (`x-{00000..00007}.tar`), glob, or a list of these.

    Where `index.json` lies beside the tars it is read and each shard's presence and size are compared
    with it; other tars are scanned once. Raises `DataError` for a shard that is missing, damaged or
    named twice, for a spec that names nothing, for remote shards, and for sets that do not go together.
    """
    paths = shard_paths(spec)
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        by_folder[path.parent].append(path)
    sets = [_open_folder(folder, tuple(members)) for folder, members in by_folder.items()]
    opened = sets[0] if len(sets) == 1 else _join(sets)
    if not opened.count:
        raise DataError(f"{paths[0]}: no pictures (.png, .jpg, .jpeg, .webp) in the shards; give other tars")
    return opened


def check_against(shards: ShardSet, resolution: int, channels: int, classes: int) -> None:
    """Compares shards with the config's `data.resolution`, `data.channels` and `data.classes`.

    `classes` 0 means unconditional and always fits. Raises one `DataError` that lists all that differs.
    """
    found = {
        "data.resolution": (resolution, shards.resolution),
        "data.channels": (channels, shards.channels),
        "data.classes": (classes, len(shards.classes) if classes else 0),
    }
    wrong = [(key, asked, has) for key, (asked, has) in found.items() if has is not None and asked != has]
    if not wrong:
        return
    listed = "; ".join(f"{key} is {asked} but the shards have {has}" for key, asked, has in wrong)
    mend = ", ".join(f"{key}: {has}" for key, _, has in wrong)
    raise DataError(
        f"{shards.paths[0].parent}: the shards do not fit the config: {listed}. "
        f"Set {mend}, or make other shards with `distgan prepare`"
    )


def shard_paths(spec: str | os.PathLike | Sequence[str | os.PathLike]) -> tuple[Path, ...]:
    """The tars that a spec names, in order, each once. Nothing is opened but an index."""
    parts = [spec] if isinstance(spec, (str, os.PathLike)) else list(spec)
    paths = [Path(os.path.abspath(path)) for part in parts for path in _expand(os.fspath(part))]
    if not paths:
        raise DataError("data.shards names nothing; give a folder of shards, a tar, a pattern, or a list")
    seen = set()
    for path in paths:
        if path in seen:
            raise DataError(f"{path}: named twice in data.shards; name each shard once")
        seen.add(path)
    return tuple(paths)


def read_index(folder: Path) -> dict | None:
    """The `index.json` of a folder, or None. Raises `DataError` where it is damaged or of another version."""
    file = folder / INDEX_FILE
    try:
        index = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); prepare again with --overwrite") from None
    try:
        if index["version"] != VERSION:
            version = index["version"]
            raise DataError(f"{file}: version {version}, this program reads {VERSION}; prepare the shards again")
        [(str(s["name"]), int(s["samples"]), int(s["bytes"])) for s in index["shards"]]
        int(index["resolution"]), int(index["channels"]), list(index["classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not an index of shards ({error!r}); prepare the shards again") from None
    return index


def _expand(spec: str) -> list[Path]:
    if "://" in spec or spec.startswith("pipe:"):
        raise DataError(f"{spec}: remote shards are not supported yet; copy them here and give their folder")
    path = Path(spec).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if not path.exists() and path.suffix != ".tar" and not any(mark in spec for mark in "{*?["):
        raise DataError(f"{spec}: no such folder; make it with `distgan prepare SOURCE INPUT --out {spec}`")
    if path.exists() or not any(mark in spec for mark in "{*?["):
        return [path]
    paths = [found for name in _braces(str(path)) for found in _globbed(name)]
    if not paths:
        raise DataError(f"{spec}: no shard has such a name; look at the folder and the pattern")
    return paths


def _in_folder(folder: Path) -> list[Path]:
    index = read_index(folder)
    if index is not None:
        return [folder / shard["name"] for shard in index["shards"]]
    if (folder / JOURNAL_FILE).exists():
        raise DataError(f"{folder}: its prepare has not finished; run the same command again, it goes on")
    tars = sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))
    if not tars:
        make = f"distgan prepare SOURCE INPUT --out {folder}"
        raise DataError(f"{folder}: no shards (.tar) here; make them with `{make}`")
    return tars


def _braces(pattern: str) -> list[str]:
    from braceexpand import UnbalancedBracesError, braceexpand

    try:
        return list(braceexpand(pattern))
    except UnbalancedBracesError as error:
        example = "name-{00000..00007}.tar"
        raise DataError(f"{pattern}: braces do not close ({error}); write for example {example}") from None


def _globbed(name: str) -> list[Path]:
    if not any(mark in name for mark in "*?["):
        return [Path(name)]
    return [Path(found) for found in sorted(glob.glob(name))]


def _open_folder(folder: Path, paths: tuple[Path, ...]) -> ShardSet:
    index = read_index(folder)
    listed = {shard["name"]: shard for shard in index["shards"]} if index else {}
    if not index or any(path.name not in listed for path in paths):
        _check_sizes(paths, [None] * len(paths))
        return _scanned(paths)
    wanted = [listed[path.name] for path in paths]
    _check_sizes(paths, [shard["bytes"] for shard in wanted])
    samples = _read_samples(folder, index)
    if samples is None:
        samples = _scan_all(paths)
    else:
        samples = _pick(samples, [list(listed).index(path.name) for path in paths])
    return ShardSet(paths, samples, index["resolution"], index["channels"], tuple(index["classes"]))


def _check_sizes(paths: Sequence[Path], expected: Sequence[int | None]) -> None:
    """Raises `DataError` naming the first shard that is missing, empty or of another size than expected."""
    with ThreadPoolExecutor(THREADS) as pool:
        problems = [p for p in pool.map(_size_problem, paths, expected) if p]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{more}; copy it again, or prepare the shards again")


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


def _read_samples(folder: Path, index: dict) -> np.ndarray | None:
    """`samples.npy` where it agrees with the index in every way that can be seen, otherwise None."""
    try:
        samples = np.load(folder / SAMPLES_FILE, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    shards = index["shards"]
    if samples.dtype != SAMPLE or samples.ndim != 1 or len(samples) != index["count"]:
        return None
    numbers = samples["shard"]
    if len(samples) and not 0 <= numbers.min() <= numbers.max() < len(shards):
        return None
    if np.bincount(numbers, minlength=len(shards)).tolist() != [shard["samples"] for shard in shards]:
        return None
    ends = np.array([shard["bytes"] for shard in shards])[numbers]
    inside = (samples["offset"] >= 0) & (samples["size"] > 0) & (samples["offset"] + samples["size"] <= ends)
    known = (samples["label"] >= -1) & (samples["label"] < max(len(index["classes"]), 1))
    return samples if inside.all() and known.all() else None


def _pick(samples: np.ndarray, numbers: list[int]) -> np.ndarray:
    """The rows of some shards, numbered anew in the order given."""
    if numbers == list(range(len(numbers))) and (not len(samples) or samples["shard"].max() < len(numbers)):
        return samples
    parts = []
    for new, old in enumerate(numbers):
        part = samples[samples["shard"] == old].copy()
        part["shard"] = new
        parts.append(part)
    return np.concatenate(parts)


def _scan_all(paths: Sequence[Path]) -> np.ndarray:
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        parts = list(pool.map(scan_tar, paths))
    for number, part in enumerate(parts):
        part["shard"] = number
    return np.concatenate(parts)


def _scanned(paths: tuple[Path, ...]) -> ShardSet:
    samples = _scan_all(paths)
    if not len(samples):
        return ShardSet(paths, samples, None, None, ())
    first = samples[0]
    resolution, channels = picture_header(paths[first["shard"]], int(first["offset"]), int(first["size"]))
    labelled = samples["label"].min() >= 0
    classes = tuple(str(i) for i in range(samples["label"].max() + 1)) if labelled else ()
    return ShardSet(paths, samples, resolution, channels, classes)


def _join(sets: Sequence[ShardSet]) -> ShardSet:
    """Shards of several folders as one set. Raises `DataError` where their pictures differ in kind."""
    first = sets[0]
    for other in sets[1:]:
        for what in ("resolution", "channels", "classes"):
            mine, theirs = getattr(first, what), getattr(other, what)
            if mine != theirs:
                raise DataError(
                    f"{other.paths[0].parent}: {what} {theirs}, but {mine} in {first.paths[0].parent}; "
                    "give shards of one kind"
                )
    parts, before = [], 0
    for one in sets:
        part = one.samples.copy()
        part["shard"] += before
        before += len(one.paths)
        parts.append(part)
    paths = tuple(path for one in sets for path in one.paths)
    return ShardSet(paths, np.concatenate(parts), first.resolution, first.channels, first.classes)
