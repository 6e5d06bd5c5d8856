"""What says that a checkpoint is whole: a list of its files with their checksums, and the checksum of that list."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from distgan.errors import UserError
from distgan.files import sha256_of, sync_folder

MANIFEST = "manifest.json"
"""The name, bytes and SHA-256 of every other file of the checkpoint, and the SHA-256 of all this; written last."""
PAUSES = (0.5, 2.0, 5.0)
"""Seconds before a file is read again of which a disk says that it cannot be read now."""
_FORMAT = 1


class Damaged(UserError):
    """A checkpoint that is not as its manifest says, or has none."""


def seal(part: Path, step: int) -> None:
    """Writes the manifest; then all files and their names are on the disk."""
    others = sorted(path for path in part.iterdir() if path.name != MANIFEST)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in others}
    entries = {"format": _FORMAT, "step": step, "files": files}
    (part / MANIFEST).write_text(json.dumps({**entries, "sha256": _checksum(entries)}, indent=1) + "\n")
    for path in part.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    sync_folder(part)


def verify(folder: Path) -> None:
    """Raises Damaged, naming the file, unless all files are there with the bytes of the manifest; UserError for a
    format of later versions, and for what a disk does not let us read now: it may be whole."""
    for name, about in _files(folder).items():
        path = folder / name
        size = _patiently(os.path.getsize, path)
        if size != about["bytes"]:
            raise Damaged(f"checkpoint {path}: damaged: {size} bytes instead of {about['bytes']}")
        if _patiently(sha256_of, path) != about["sha256"]:
            raise _changed(path)


def _files(folder: Path) -> dict[str, dict]:
    """What the manifest says of each file."""
    path = folder / MANIFEST
    try:
        entries = json.loads(_patiently(Path.read_bytes, path))
        whole = entries.pop("sha256") == _checksum(entries)
    except (ValueError, TypeError, KeyError, AttributeError):  # no JSON, or not of an object
        whole = False
    if not whole:
        raise _changed(path)
    if entries["format"] > _FORMAT:
        raise UserError(
            f"checkpoint {folder}: a newer version of distgan wrote it (format {entries['format']}); use that one"
        )
    return entries["files"]


def _changed(path: Path) -> Damaged:
    return Damaged(f"checkpoint {path}: damaged: its contents are not those that were written")


def _checksum(entries: dict) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _patiently(read: Callable, path: Path):
    """What `read` returns of a file. Raises Damaged where there is none, and UserError when it cannot be read, a few
    times on end."""
    for pause in (*PAUSES, None):
        try:
            return read(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise Damaged(f"checkpoint {path.parent}: incomplete: it has no {path.name}") from None
        except OSError as error:
            if pause is None:
                raise UserError(
                    f"checkpoint {path}: cannot be read: {error.strerror or error}; it may be whole, so none before it "
                    f"is used. Start again when the disk is well, or move {path.parent} away to use the one before"
                ) from None
            time.sleep(pause)
