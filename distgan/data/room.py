"""Room in the folder of a cache: who has set how much of it aside, and what makes way for others.

Every decision is made from what lies in the folder (cache.py says what that is), by one process at a time.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OURS = re.compile(r"((?:sha256|url)-[0-9a-f]{64})\.(tar|part|lock)")  # nothing else in the folder is ever touched


class NoRoom(Exception):
    """What others use leaves too little; args[0] is the bytes in use."""


class Room:
    """The room in `folder`, of which at most `limit` bytes may be taken. From any thread and process."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def set_aside(self, part: Path, lock: int, size: int) -> None:
        """Makes `size` bytes this download's own, evicting others. Raises `NoRoom` where all else is in use."""
        with self.deciding():
            used, idle = self._survey(part.stem)
            for path, bytes_ in idle:
                if used + size <= self.limit:
                    break
                used -= bytes_ if self._remove(path) else 0
            if used + size > self.limit:
                raise NoRoom(used)
            os.pwrite(lock, b"%20d" % size, 0)

    def evict(self, bytes_: int, part: Path) -> bool:
        """Frees at least `bytes_` of a full disk as far as possible. Whether anything was freed."""
        with self.deciding():
            freed = 0
            for path, size in self._survey(part.stem)[1]:
                freed += size if freed < bytes_ and self._remove(path) else 0
            return freed > 0

    def _survey(self, own: str) -> tuple[int, list[tuple[Path, int]]]:
        """Bytes in use, the part and the room of `own` left out; and what may be evicted, least recent first."""
        sizes: dict[str, int] = {}
        idle, used = [], 0
        for entry in os.scandir(self.folder):
            ours = OURS.fullmatch(entry.name)
            if ours is None or (ours[1] == own and ours[2] != "tar"):
                continue
            try:
                status = entry.stat()
                room = self._under(Path(entry.path)) if ours[2] == "lock" else status.st_size
            except FileNotFoundError:
                continue
            if ours[2] != "lock":
                idle.append((status.st_mtime_ns, Path(entry.path), room))
            if ours[2] == "tar":
                used += room
            else:
                sizes[ours[1]] = max(sizes.get(ours[1], 0), room)  # a part lies within the room set aside for it
        return used + sum(sizes.values()), [(path, size) for _, path, size in sorted(idle)]

    def _under(self, path: Path) -> int:
        """Bytes set aside under a shard's lock; 0, and no lock any more, where its holder is dead."""
        descriptor = os.open(path, os.O_RDWR)
        try:
            if lock_at_once(descriptor):
                if is_at(descriptor, path):  # else it is another's by now
                    path.unlink()
                return 0
            return int(os.pread(descriptor, 20, 0) or 0)
        finally:
            os.close(descriptor)

    def _remove(self, path: Path) -> bool:
        """Removes a shard that nobody has open, or a part that nobody is fetching. Whether it did."""
        lock = path if path.suffix == ".tar" else path.with_suffix(".lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | (os.O_CREAT if lock != path else 0), 0o666)
        except FileNotFoundError:
            return False
        try:
            free = lock_at_once(descriptor) and is_at(descriptor, lock)
            if free:
                path.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
            return free
        finally:
            os.close(descriptor)

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """For what only one process may do at a time."""
        descriptor = os.open(self.folder / "room.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still is the one at a path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def lock_at_once(descriptor: int) -> bool:
    """Takes the lock of an open file for itself alone; False where another has it."""
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
