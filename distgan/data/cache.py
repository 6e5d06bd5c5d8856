"""Shards from far away on this node's disk: fetched once for all its processes, checked, and bounded in size.

In the folder lie, for each shard, `NAME.tar` (whole and checked), or `NAME.part` (a beginning) and, while it is being
fetched, `NAME.lock`, whose text is the room set aside for it in bytes. All locks are `flock`s, which die with their
process, so nothing that a killed process leaves behind counts for ever: a `.part` is gone on with or evicted, and room
set aside under a lock that nobody holds is free. `room.lock` guards what must be decided by one process at a time.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from distgan.data.failures import LostThere, RemoteError, Stopped
from distgan.data.remote import download, size_of
from distgan.data.room import NoRoom, Room, is_at, lock_at_once
from distgan.data.urls import check_url, shown
from distgan.files import sha256_of, sync_folder

GIVE_UP_SECONDS = 60.0  # waited for others to release what they use
POLL = 0.05  # seconds between two looks at what others hold
STEP = 64 * 2**20  # bytes set aside at a time for a shard whose size is not known
FULL = (errno.ENOSPC, errno.EDQUOT)
WAYS_OUT = {
    FULL: "make room on this disk, or give another data.cache",
    (errno.EMFILE, errno.ENFILE): "raise `ulimit -n`, or lower data.window",
    (errno.ENOENT,): "it has been removed meanwhile: start again",
    (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS): "it knows no file locks: give a data.cache on a local disk",
}


def default_folder() -> Path:
    """Where the cache lies unless told otherwise: $DISTGAN_CACHE, else `distgan` in the user's cache folder, or among
    the temporary files for a user without a home."""
    if named := os.environ.get("DISTGAN_CACHE"):
        return Path(named).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "distgan"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"distgan-{os.getuid()}"


@dataclass(frozen=True)
class RemoteShard:
    """A tar at a URL, or at a path of a slower file system. `bytes` and `sha256` (hexadecimal) are those that its index
    gives, None where there is none."""

    url: str
    bytes: int | None = None
    sha256: str | None = None

    @property
    def key(self) -> str:
        """Its name in a cache: equal for equal content where the sha256 is known, else for equal URL and size.

        Raises `DataError` for a sha256 that is none."""
        if self.sha256 is None:
            return "url-" + hashlib.sha256(f"{self.bytes} {self.url}".encode("utf-8", "surrogateescape")).hexdigest()
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256.lower()):
            raise RemoteError(f"{shown(self.url)}: {self.sha256!r} is no sha256; index the shards again")
        return f"sha256-{self.sha256.lower()}"


class ShardCache:
    """Shards in `folder`, of at most `limit` bytes together, those being fetched by any process included.

    May be used by many threads and processes at once, and after a fork. `allow_shell` admits `pipe:` shards.
    `bytes_downloaded` and `seconds_downloading` (summed over threads) are those of this process.
    Raises `DataError` where the folder cannot be made."""

    def __init__(
        self, folder: Path, limit: int, *, allow_shell: bool = False, give_up: float = GIVE_UP_SECONDS
    ) -> None:
        self.folder, self.limit, self.allow_shell, self.give_up = Path(folder), limit, allow_shell, give_up
        self._room = Room(self.folder, limit)
        self.seconds_downloading, self.bytes_downloaded = 0.0, 0
        self._counting, self._stop = threading.Lock(), threading.Event()
        with self._disk_errors():
            self.folder.mkdir(parents=True, exist_ok=True)

    def open(self, shard: RemoteShard) -> int:
        """A descriptor for reading the whole shard; fetches it first where it is not there, and blocks meanwhile.

        While the descriptor (or a copy of it in a forked process) is open, nobody evicts the shard. Raises
        `DataError` when the shard cannot be had, is not what its index says, or finds no room within `give_up`
        seconds; `remote.Stopped` after `close`."""
        self._refuse_larger(shard, shard.bytes)
        part, patience = self.folder / f"{shard.key}.part", None
        with self._disk_errors():
            while (descriptor := self._opened(shard)) is None:
                try:
                    with self._held(part.with_suffix(".lock")) as lock:
                        descriptor = self._opened(shard)  # another may have fetched it while this one waited
                        return self._fetched(shard, part, lock) if descriptor is None else descriptor
                except NoRoom as full:  # holding nothing now, so that two who wait never wait for each other
                    patience = patience or time.monotonic() + self.give_up
                    if time.monotonic() > patience:
                        self._refuse_full(shard, full.args[0])
                self._rest()
            return descriptor

    def close(self) -> None:
        """Makes every `open` that is still fetching or waiting raise `Stopped`. Open descriptors stay good."""
        self._stop.set()

    def _rest(self) -> None:
        if self._stop.wait(POLL):
            raise Stopped

    def settle(self, shard: RemoteShard, sha256: str) -> None:
        """Gives a shard that was fetched without a sha256, and is open, the name by which it is asked for with one."""
        known = replace(shard, sha256=sha256)
        with suppress(FileNotFoundError):  # evicted, or settled by another process
            os.replace(self.folder / f"{shard.key}.tar", self.folder / f"{known.key}.tar")

    def _opened(self, shard: RemoteShard) -> int | None:
        """A descriptor of the shard under a shared lock, or None where it is not in the cache."""
        path = self.folder / f"{shard.key}.tar"
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return None
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            present = is_at(descriptor, path)  # else it was evicted between the two calls
            if present and shard.bytes in (None, os.fstat(descriptor).st_size):
                os.utime(path)  # what "recently used" goes by
                return descriptor
            os.close(descriptor)
            if present:  # cut off by somebody: fetched again, and replaced
                return None

    def _fetched(self, shard: RemoteShard, part: Path, lock: int) -> int:
        """Fetches a shard, under its lock, and opens it."""
        check_url(shard.url, self.allow_shell)
        size = shard.bytes if shard.bytes is not None else size_of(shard.url, self._stop)
        self._refuse_larger(shard, size)
        if size is None and shard.sha256 is None:
            part.unlink(missing_ok=True)  # nothing would tell whether it is a beginning of what is there today
        begun = part.stat().st_size if part.exists() else 0
        self._room.set_aside(part, lock, begun if size is None else size)
        for _ in range(2):  # once more from scratch: a part may have been spoilt, or be of an older file
            self._download(shard, part, lock, size)
            if shard.sha256 is None or shard.sha256.lower() == sha256_of(part):
                return self._publish(part, lock)
            part.unlink()
        reason = f"fetched twice, and its sha256 is not {shard.sha256[:12]}..."
        raise LostThere(shown(shard.url), reason, "the shard has changed since it was indexed, so index it again")

    def _download(self, shard: RemoteShard, part: Path, lock: int, size: int | None) -> None:
        """Brings the part to its end and to the disk; makes room when the disk is full."""
        while True:
            started, file = time.monotonic(), _Part(part, "ab")
            if size is None:
                file.grow = lambda end: self._grow(shard, part, lock, end)
            try:
                download(shard.url, file, size=size, allow_shell=self.allow_shell, stop=self._stop)
                return os.fsync(file.fileno())
            except OSError as error:
                missing = STEP if size is None else size - file.tell()
                if error.errno not in FULL or not self._room.evict(missing, part):
                    raise
            finally:
                file.close()
                with self._counting:
                    self.seconds_downloading += time.monotonic() - started
                    self.bytes_downloaded += file.written

    def _publish(self, part: Path, lock: int) -> int:
        """Gives a checked part its final name. A descriptor of it."""
        descriptor = os.open(part, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # before it has its name, so that it cannot be evicted at once
        with self._room.deciding():  # both, so that nobody counts its bytes twice
            os.replace(part, part.with_suffix(".tar"))
            os.ftruncate(lock, 0)
        sync_folder(self.folder)
        return descriptor

    def _grow(self, shard: RemoteShard, part: Path, lock: int, end: int) -> int:
        """Makes room for a part of unknown size to grow to `end` bytes. To how many it may grow now."""
        self._refuse_larger(shard, end)
        room = min(end + min(STEP, self.limit // 8), self.limit)
        self._room.set_aside(part, lock, room)
        return room

    @contextmanager
    def _held(self, path: Path) -> Iterator[int]:
        """The lock of a shard. Its file is gone afterwards, so whoever waited has to look for the new one."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                while not lock_at_once(descriptor):
                    self._rest()
                if is_at(descriptor, path):
                    break
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        try:
            yield descriptor
        finally:
            if is_at(descriptor, path):
                path.unlink()
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process forked meanwhile holds a copy of the descriptor
            os.close(descriptor)

    def _refuse_larger(self, shard: RemoteShard, size: int | None) -> None:
        if size is not None and size > self.limit:
            raise RemoteError(
                f"{shown(shard.url)}: {size} bytes, more than the whole cache may hold ({self.limit} bytes); "
                "raise data.cache_size, or make smaller shards"
            )

    def _refuse_full(self, shard: RemoteShard, used: int) -> NoReturn:
        raise RemoteError(
            f"{shown(shard.url)}: no room in the cache {self.folder}: {used} of its {self.limit} bytes are in use; "
            "raise data.cache_size, or lower data.window, or raise data.partitions"
        )

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turns what a disk can do to the cache into one clear line."""
        try:
            yield
        except OSError as error:
            matching = (words for codes, words in WAYS_OUT.items() if error.errno in codes)
            way_out = next(matching, "give another data.cache")
            raise RemoteError(f"{self.folder}: {error.strerror or error}; {way_out}") from None


class _Part(io.FileIO):
    """A part file, open for appending: counts what is written, and asks for room before it grows."""

    written, room = 0, 0
    grow: Callable[[int], int] | None = None

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        if self.grow is not None and self.tell() + len(view) > self.room:
            self.room = self.grow(self.tell() + len(view))
        while len(view):  # a disk that is nearly full takes less than it is given
            taken = super().write(view)
            self.written += taken
            view = view[taken:]
        return len(data)
