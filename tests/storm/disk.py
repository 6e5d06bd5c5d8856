"""The disk that a storm's run lies on, which can be full: a tmpfs of its own, or where that may not be mounted a limit
on the size of files that the live processes write."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

from storm.starts import Start

_IN_NAMESPACE = "STORM_NAMESPACE"


class Tmpfs:
    """A tmpfs, which goes with the name space of this process."""

    can_stay_full = True
    """Whether a start, too, finds it full."""

    def __init__(self, folder: Path, megabytes: int = 64) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "storm", str(folder)], check=True)
        self._filler = folder / "filler"

    def fill(self, start: Start) -> None:
        block = bytes(1 << 16)
        with open(self._filler, "ab", buffering=0) as file:
            while block:
                try:
                    file.write(block)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    block = block[: len(block) // 2]

    def free(self, start: Start) -> None:
        self._filler.unlink(missing_ok=True)


class Limited:
    """No disk is full, but no file of the processes may grow beyond some kilobytes."""

    can_stay_full = False

    def __init__(self, folder: Path, kilobytes: int = 96) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._limit = kilobytes << 10

    def fill(self, start: Start) -> None:
        self._set(start, self._limit)

    def free(self, start: Start) -> None:
        self._set(start, resource.RLIM_INFINITY)

    def _set(self, start: Start, most: int) -> None:
        for member in start.members():
            with contextlib.suppress(ProcessLookupError):
                hard = resource.prlimit(member.pid, resource.RLIMIT_FSIZE)[1]
                resource.prlimit(member.pid, resource.RLIMIT_FSIZE, (most, hard))


def make_disk(folder: Path) -> Tmpfs | Limited:
    """A tmpfs where `enter_namespace` has found a way to mount one."""
    return Tmpfs(folder) if os.environ.get(_IN_NAMESPACE) else Limited(folder)


def enter_namespace() -> None:
    """Starts this script again where it may mount; stays where that is not allowed."""
    if _IN_NAMESPACE in os.environ:
        return
    for flags in (["-m"], ["-rm"]):
        probe = ["unshare", *flags, "mount", "-t", "tmpfs", "storm", "/mnt"]
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run(probe, capture_output=True).returncode == 0:
                os.environ[_IN_NAMESPACE] = "1"
                os.execvp("unshare", ["unshare", *flags, sys.executable, *sys.argv])
