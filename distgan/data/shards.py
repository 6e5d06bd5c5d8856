"""Writes shards so that nothing half-written ever bears a final name, and a killed prepare can go on.

Every file is written as `.NAME.part`, flushed to the disk and renamed. A journal remembers which shards are
complete; it is removed when the index, the last file of all, is in place.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from distgan.data.encodings import encoding_named
from distgan.data.headers import npy_form
from distgan.data.index_file import INDEX_FILE, JOURNAL_FILE, SAMPLES_FILE
from distgan.data.pictures import Rendered
from distgan.data.scan import BLOCK, SAMPLE, Kind
from distgan.errors import DataError, UserError
from distgan.files import new_file, sha256_of

DEFAULT_SHARD_SIZE = 2048
FEWEST_SHARDS = 8  # so that readers, and people with plain webdataset, have something to share out ...
WORTH_A_SHARD = 128  # ... but no shard smaller than this for that reason
OURS = re.compile(r"[a-z0-9]+-\d{5}\.tar")


@dataclass(frozen=True)
class Slot:
    """A shard to be: its name, and the items `start` to `stop` that go into it."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class ShardRecord:
    """A shard that is complete. `skipped` holds (name, reason) of each picture that could not be read; `upscaled` were
    enlarged, `small` left out because they would have to be."""

    samples: int
    bytes: int
    sha256: str
    skipped: tuple[tuple[str, str], ...] = ()
    upscaled: int = 0
    small: int = 0


def plan_slots(source: str, count: int, shard_size: int) -> list[Slot]:
    """Shards of at most `shard_size` items whose counts differ by at most 1."""
    shards = max(-(-count // shard_size), min(FEWEST_SHARDS, count // WORTH_A_SHARD), 1)
    edges = [count * i // shards for i in range(shards + 1)]
    return [Slot(f"{source}-{i:05d}.tar", edges[i], edges[i + 1]) for i in range(shards)]


class ShardWriter:
    """Writes the samples of one shard, all in one encoding: `add` each, `finish` once, inside `new_file`."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        from webdataset import TarWriter  # imports torch: only where shards are really written

        self._file, self._encoding = _Hashed(file), encoding_named(encoding)
        # mtime=0: any other time writes a second header, 2 KiB more a sample and twice the reading.
        owner = {"user": "distgan", "group": "distgan", "mode": 0o444}
        self._tar = TarWriter(self._file, encoder=False, mtime=0, **owner)
        self._rows: list[tuple] = []
        self._skipped: list[tuple[str, str]] = []
        self._upscaled = self._small = 0

    def add(self, number: int, rendered: Rendered) -> None:
        """Writes the picture with global number `number`, or notes that it is left out."""
        if rendered.small:
            self._small += 1
            return
        if rendered.data is None:
            self._skipped.append((rendered.name, rendered.reason))
            return
        sample = {"__key__": f"{number:08d}", self._encoding.extension: rendered.data}
        if rendered.label >= 0:
            sample["cls"] = str(rendered.label).encode()
        self._tar.write(sample)
        # Members are written in order of their extension, so the picture is the last of its sample.
        self._rows.append(self._row(rendered.data, self._tar.tarstream.offset, rendered.label))
        self._upscaled += rendered.upscaled

    def _row(self, data: bytes, end: int, label: int) -> tuple:
        """The row of a picture whose last block of the tar ends at byte `end`."""
        kind = self._encoding.kind
        head = 0 if kind == Kind.ENCODED else npy_form(data)[1]  # before the bare pixels
        offset = end - -(-len(data) // BLOCK) * BLOCK + head
        return 0, offset, len(data) - head, label, zlib.crc32(memoryview(data)[head:]), kind

    def finish(self) -> tuple[ShardRecord, np.ndarray]:
        """Ends the tar. Returns its record, and its rows of dtype `SAMPLE` with shard 0."""
        self._tar.close()
        record = ShardRecord(
            samples=len(self._rows),
            bytes=self._file.bytes,
            sha256=self._file.digest.hexdigest(),
            skipped=tuple(self._skipped),
            upscaled=self._upscaled,
            small=self._small,
        )
        return record, np.array(self._rows, SAMPLE)


class _Hashed:
    """A file that counts and hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        if self.file.closed:  # tarfile writes once more when an abandoned tar is garbage-collected
            return len(data)
        self.digest.update(data)
        self.bytes += len(data)
        return self.file.write(data)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what a disk can do to a writer into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(
                f"{folder}: no space left; make room and run the same command, it goes on (or another --out)"
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT, errno.EEXIST):
            raise DataError(f"{folder}: cannot be written ({error.strerror}); give another --out") from None
        reason = error.strerror or error
        raise UserError(f"{folder}: writing failed ({reason}); run the same command again, it goes on") from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second prepare out of the folder. Where the file system knows no locks, does nothing."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: another prepare is writing here; wait, or give another --out") from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


class Journal:
    """What a prepare has finished so far, kept in `.prepare.json` under the hash of its arguments."""

    def __init__(self, folder: Path, plan: str) -> None:
        self.file, self.plan = folder / JOURNAL_FILE, plan
        self.done: dict[str, ShardRecord] = {}

    def load(self) -> bool:
        """Reads the records of an earlier start of the same plan. False where there was none."""
        try:
            content = json.loads(self.file.read_text())
            if content["plan"] != self.plan:
                return False
            for name, record in content["shards"].items():
                self.done[name] = ShardRecord(**{**record, "skipped": tuple(map(tuple, record["skipped"]))})
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return False
        return True

    def keep_sound(self) -> None:
        """Forgets shards that are not on the disk as they were written."""
        folder = self.file.parent
        self.done = {name: record for name, record in self.done.items() if _is_sound(folder / name, record)}

    def add(self, name: str, record: ShardRecord) -> None:
        self.done[name] = record
        self.save()

    def save(self) -> None:
        content = {"plan": self.plan, "shards": {name: asdict(r) for name, r in self.done.items()}}
        with new_file(self.file) as file:
            file.write(json.dumps(content, indent=1).encode())

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)


def holds_shards(folder: Path) -> bool:
    """Whether a folder holds shards, an index, or a prepare that has not finished."""
    names = (INDEX_FILE, SAMPLES_FILE, JOURNAL_FILE)
    return any((folder / name).exists() for name in names) or any(folder.glob("*.tar"))


def remove_shards(folder: Path) -> None:
    """Removes what a prepare has made in a folder, and nothing else; the index first."""
    for name in (INDEX_FILE, SAMPLES_FILE, JOURNAL_FILE):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("*.tar"):
        if OURS.fullmatch(path.name):
            path.unlink()
    remove_parts(folder)


def remove_parts(folder: Path) -> None:
    """Removes the half-written files that a killed prepare left behind."""
    for path in folder.glob(".*.part"):
        path.unlink()


def _is_sound(path: Path, record: ShardRecord) -> bool:
    if not record.samples:
        return not path.exists()
    try:
        return path.stat().st_size == record.bytes and sha256_of(path) == record.sha256
    except OSError:
        return False
