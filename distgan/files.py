"""Files that are under their final name only when they are whole and on the disk."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name when all of it is on the disk, and vanishes when that fails."""
    part = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.part")  # another machine may write it too
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def with_usual_mode(path: Path) -> Iterator[None]:
    """Around the writing of a file by a library that gives it a mode of its own, such as 0600: it gets the one that
    the umask gives any new file."""
    path.touch()
    mode = path.stat().st_mode
    yield
    if path.stat().st_mode != mode:
        path.chmod(mode)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder last through a power cut; not every file system allows it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def sha256_of(path: Path | int) -> str:
    """SHA-256 of a file, given by name or descriptor, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb", closefd=not isinstance(path, int)) as file:
        file.seek(0)
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def nearest(path: Path) -> Path:
    """The path itself, or the first above it that is there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def refused(path: Path) -> OSError | None:
    """Why nothing can be written in a folder, or where it would be made; None where it can be. Leaves nothing."""
    try:
        with tempfile.TemporaryFile(dir=nearest(path)) as file:  # without a name, where the system has that
            file.write(b"x")
            file.flush()
    except OSError as error:
        return error
    return None
