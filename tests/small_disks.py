"""Disks that are really full."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Mounted:
    """A tmpfs of 256 KB, which only root may mount. The last page of a file has some room even when all others are
    taken, so that a line ends in its middle."""

    reason = "No space left on device"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, path: Path) -> None:
        with open(self._filler, "ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC

    def make_room(self) -> None:
        self._filler.unlink()


class Limited:
    """No file of this process may grow beyond what `path` has and half a line."""

    reason = "File too large"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, path: Path) -> None:
        room = path.stat().st_size + 30 if path.exists() else 30
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))

    def make_room(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextmanager
def mounted(folder: Path) -> Iterator[Mounted | None]:
    """None where nothing may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        done = os.geteuid() == 0 and subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except OSError:
        done = False
    try:
        yield Mounted(folder) if done else None
    finally:
        if done:
            subprocess.run(["umount", "-l", str(folder)], check=True, timeout=20)


@contextmanager
def limited(folder: Path) -> Iterator[Limited]:
    folder.mkdir()
    disk = Limited(folder)
    try:
        yield disk
    finally:
        disk.make_room()
