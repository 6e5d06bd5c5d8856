"""Indexes of tars from elsewhere: made once, by reading them whole, and kept.

The index lies beside the tars where they are all the tars of one folder that can be written; otherwise in the cache's
folder, under a name that changes when a tar does.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distgan.data.cache import RemoteShard, ShardCache, default_folder
from distgan.data.index_file import INDEX_FILE, SAMPLES_FILE, read_index, read_samples, samples_name, write_index
from distgan.data.progress import Progress
from distgan.data.remote import download
from distgan.data.scan import SAMPLE, form_of, scan_tar
from distgan.data.specs import locate
from distgan.data.urls import is_remote, join_url, shown
from distgan.errors import DataError
from distgan.files import new_file, sha256_of

THREADS = 16  # that read tars at once: enough to hide a network file system's latency


class Caching(NamedTuple):
    """Where remote shards and indexes are kept on this machine."""

    folder: Path
    limit: int
    """Most bytes of shards."""
    allow_shell: bool = False
    """Whether `pipe:` commands may be run."""

    def open(self) -> ShardCache:
        return ShardCache(self.folder, self.limit, allow_shell=self.allow_shell)


def default_caching() -> Caching:
    """The user's own cache, of 100 GB."""
    return Caching(default_folder(), 100 * 10**9)


class Indexed(NamedTuple):
    """What an index says: `head` has count, resolution, channels and classes, `shards` an entry a tar."""

    head: dict
    shards: list[dict]
    samples: np.ndarray


Kind = tuple[int | None, int | None, tuple[str, ...]]
"""Resolution, channels and classes."""


def index_once(places: Sequence[str], caching: Caching, kind: Kind | None = None) -> Indexed:
    """The index of tars that have none, made at the first call on this machine; processes wait for each other.

    `kind` is known where an older index has said it. Raises `DataError` naming the shard that cannot be indexed.
    """
    kept = caching.folder / "indexes" / _name_of(places)
    with _alone(kept.with_suffix(".lock")):
        beside = _folder_of_all(places)
        for folder in (beside, kept):  # another process may have made it by now
            found = folder and _read(folder, places)
            if found is not None:
                return found
        indexed = build_index(places, caching, kind)
        target = beside if beside and _is_free(beside, places) else kept
        with contextlib.suppress(OSError):  # it is as good in memory; the next start makes it again
            target.mkdir(parents=True, exist_ok=True)
            store_index(target, places, indexed)
        return indexed


def build_index(places: Sequence[str], caching: Caching, kind: Kind | None = None) -> Indexed:
    """Reads every tar from end to end. Raises `DataError` naming the shard that cannot be indexed."""
    cache = caching.open() if any(map(is_remote, places)) else None
    with Progress("index", len(places), unit="shards") as progress:

        def read(place: str) -> tuple[dict, np.ndarray, tuple | None]:
            entry, rows, form = _index_one(place, cache, kind is None)
            progress.advance(1)
            return entry, rows, form

        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            try:
                parts = list(pool.map(read, places))
            except BaseException:
                if cache is not None:
                    cache.close()  # nobody waits for what is still being fetched
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    for number, (_, rows, _) in enumerate(parts):
        rows["shard"] = number
    samples = np.concatenate([rows for _, rows, _ in parts]) if parts else np.empty(0, SAMPLE)
    if kind is None:
        form = next((form for _, _, form in parts if form is not None), (None, None))
        kind = *form, _classes(samples)
    head = dict(zip(("resolution", "channels", "classes"), (*kind[:2], list(kind[2])), strict=True))
    return Indexed({"source": "index", "count": len(samples), **head}, [entry for entry, _, _ in parts], samples)


def store_index(folder: Path, places: Sequence[str], indexed: Indexed) -> None:
    """Writes an index into a folder; tars beside it are named by their file alone."""
    here = os.path.abspath(folder)
    entries = []
    for place, entry in zip(places, indexed.shards, strict=True):
        inside = not is_remote(place) and os.path.dirname(place) == here
        entries.append({**entry, "name": os.path.basename(place) if inside else place})
    write_index(folder, indexed.head, entries, indexed.samples)


def remote_samples(source: str, content: bytes, index: dict, caching: Caching) -> np.ndarray | None:
    """The samples of an index at a URL, whose `index.json` is `content`: copied once into the cache's folder."""
    kept = caching.folder / "indexes" / f"{samples_name(content)}.npy"
    with _alone(kept.with_suffix(".lock")):
        if not kept.exists():
            try:
                with new_file(kept) as file:
                    download(join_url(source, SAMPLES_FILE), file, size=None)
            except OSError as error:
                raise DataError(
                    f"data.cache {caching.folder}: cannot be written ({error.strerror}); name a folder that can"
                ) from None
        samples = read_samples(kept, index)
        if samples is None:
            kept.unlink(missing_ok=True)
            if index["version"] > 1:
                raise DataError(f"{shown(source)}: its {SAMPLES_FILE} does not fit its {INDEX_FILE}; copy both again")
        return samples


def forget(places: Sequence[str], caching: Caching) -> None:
    """Removes what is kept of an index of these tars, which may have changed."""
    shutil.rmtree(caching.folder / "indexes" / _name_of(places), ignore_errors=True)


def _index_one(place: str, cache: ShardCache | None, wants_form: bool) -> tuple[dict, np.ndarray, tuple | None]:
    if not is_remote(place):
        return _index_open(place, place, wants_form)
    shard = RemoteShard(place, None, None)
    descriptor = cache.open(shard)
    try:
        entry, rows, form = _index_open(descriptor, shown(place), wants_form)
        cache.settle(shard, entry["sha256"])
        return entry, rows, form
    finally:
        os.close(descriptor)


def _index_open(file: str | int, called: str, wants_form: bool) -> tuple[dict, np.ndarray, tuple | None]:
    """Entry, rows, and resolution and channels of the first picture."""
    rows = scan_tar(file, called=called)
    form = tuple(form_of(file, rows[0], called)) if wants_form and len(rows) else None
    size = os.stat(file).st_size
    return {"name": called, "samples": len(rows), "bytes": size, "sha256": sha256_of(file)}, rows, form


def _classes(samples: np.ndarray) -> tuple[str, ...]:
    if not len(samples) or samples["label"].min() < 0:
        return ()
    return tuple(str(i) for i in range(samples["label"].max() + 1))


def _folder_of_all(places: Sequence[str]) -> Path | None:
    """The one local folder that all tars lie in."""
    folders = {None if is_remote(place) else os.path.dirname(place) for place in places}
    folder = folders.pop()
    return None if folders or folder is None else Path(folder)


def _is_free(folder: Path, places: Sequence[str]) -> bool:
    """Whether these are all tars of the folder, it has no index and can be written."""
    tars = {str(path) for path in folder.glob("*.tar") if not path.name.startswith(".")}
    return tars == set(places) and not (folder / INDEX_FILE).exists() and os.access(folder, os.W_OK)


def _name_of(places: Sequence[str]) -> str:
    """A name for the index of these tars that changes when one of them does, as far as can be seen from here."""
    lines = []
    for place in places:
        status = None if is_remote(place) else os.stat(place)
        lines.append(f"{place} {status.st_size} {status.st_mtime_ns}" if status else place)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _read(folder: Path, places: Sequence[str]) -> Indexed | None:
    """A kept index, where it is whole and of these tars."""
    try:
        index = read_index(folder / INDEX_FILE)
    except DataError:
        return None
    if index is None or [locate(str(folder), shard["name"]) for shard in index["shards"]] != list(places):
        return None
    samples = read_samples(folder / SAMPLES_FILE, index)
    return None if samples is None else Indexed(index, index["shards"], samples)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Only one process of a machine at a time; where that cannot be had, each for itself."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = open(lock, "ab")
    except OSError:
        yield
        return
    with handle:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
