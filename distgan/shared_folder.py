"""Whether the processes of a run see one and the same folder, which they may know by a path that means another one."""

from __future__ import annotations

import contextlib
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from distgan.files import nearest

PATIENCE = 60.0
"""Seconds in which a file that one machine has made is seen on all others: as long as NFS may remember a folder."""


def blind(path: Path, rank: int, world_size: int, union: Callable[[frozenset[str]], frozenset[str]]) -> frozenset[str]:
    """The processes that do not see what the main process writes in a folder, or where it would be made; none where
    that cannot be written. All of them call it, each with its own `rank`; `union` gives what any of them holds."""
    if world_size == 1:
        return frozenset()
    mark = _make(path) if rank == 0 else None
    try:
        found = union(frozenset([mark.name] if mark else []))
        sees = all(_appears(path, name) for name in found)
        return union(frozenset() if sees else frozenset([f"process {rank} on {platform.node()}"]))
    finally:
        if mark:
            with contextlib.suppress(OSError):
                mark.unlink()


def not_shared(path: Path, names: Iterable[str]) -> str:
    """The line for it."""
    return (
        f"run_dir {path}: {', '.join(sorted(names))} cannot see what the main process writes in it; give a full path "
        "on a file system that all machines share"
    )


def _make(path: Path) -> Path | None:
    """A file of a name that was never there."""
    try:
        mark = nearest(path) / f".seen-{uuid.uuid4().hex}.part"
        mark.touch()
    except OSError:
        return None
    return mark


def _appears(path: Path, name: str) -> bool:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            if name in os.listdir(
                nearest(path)
            ):  # opening a folder makes NFS ask its server, a look at one name may not
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(min(0.5, PATIENCE))
