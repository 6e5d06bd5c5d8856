"""Reads a tar's headers once: where each picture lies, and its label.

A damaged tar is refused, never taken for a shorter one.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from distgan.errors import DataError

SAMPLE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("size", "<i4"), ("label", "<i4")])
PICTURES = ("png", "jpg", "jpeg", "webp")
LABELS = ("cls", "json")
# webdataset's rule: the key of a sample ends at the base name's first dot.
MEMBER = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)")
BLOCK = 512
LARGEST_LABEL = 1_000_000  # a larger number is no class but a mistake


def scan_tar(path: Path) -> np.ndarray:
    """One row of dtype `SAMPLE` for each picture of a tar, in order; `shard` is 0.

    A sample is a run of members with one key. Its label comes from `.cls` (an integer) or from "label"
    in `.json`; other members are passed over. Raises `DataError` where the tar is compressed,
    truncated or damaged, and where a label is no class number.
    """
    rows, key, picture, label = [], None, None, -1
    for name, offset, size, data in _members(path):
        match = MEMBER.fullmatch(name)
        if match is None:
            continue
        if match[1] != key:
            rows += [(0, *picture, label)] if picture else []
            key, picture, label = match[1], None, -1
        extension = match[2].lower()
        if extension in PICTURES and picture is None:
            picture = (offset, size)
        elif extension in LABELS:
            label = max(label, _label(path, name, extension, data))
    rows += [(0, *picture, label)] if picture else []
    return np.array(rows, SAMPLE)


def picture_header(path: Path, offset: int, size: int) -> tuple[int | None, int]:
    """Resolution (None where not square) and channels (1 or 3) of one picture in a tar."""
    from PIL import Image, UnidentifiedImageError

    with open(path, "rb") as file:
        data = os.pread(file.fileno(), size, offset)
    try:
        with Image.open(io.BytesIO(data)) as image:
            channels = 1 if image.mode in ("1", "L", "LA") or image.mode.startswith("I") else 3
            return (image.width if image.width == image.height else None), channels
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise DataError(f"{path}: its first picture cannot be read ({error}); make the shard again") from None


def _members(path: Path):
    """Name, offset and size of each file in a tar, and the bytes of those that may hold a label."""
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            end = 0
            for member in archive:
                end = archive.offset  # where the next header is to be
                if member.isreg() and not member.issparse():
                    held = b""
                    if member.name.rpartition(".")[2].lower() in LABELS:
                        held = os.pread(file.fileno(), member.size, member.offset_data)
                    yield member.name, member.offset_data, member.size, held
                archive.members.clear()  # tarfile keeps every header: gigabytes for large shards
            _check_end(path, file, end)
    except tarfile.TarError as error:
        raise DataError(
            f"{path}: not a sound plain tar ({error}); unpack it if it is compressed, else copy it again"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); copy it again") from None


def _check_end(path: Path, file: BinaryIO, end: int) -> None:
    """After the last member only zeros may follow, one block at least.

    tarfile takes a damaged header for the end of the archive, and would lose all that comes after it.
    """
    file.seek(end)
    rest = 0
    while chunk := file.read(1 << 20):
        if chunk.count(0) != len(chunk):
            raise DataError(f"{path}: damaged at byte {end}: data that no header announces; copy it again")
        rest += len(chunk)
    if rest < BLOCK:
        raise DataError(f"{path}: truncated: no end mark after byte {end}; copy it again")


def _label(path: Path, name: str, extension: str, data: bytes) -> int:
    try:
        if extension == "cls":
            label = int(data)
        else:
            content = json.loads(data)
            if not isinstance(content, dict) or not isinstance(content.get("label"), int):
                return -1
            label = content["label"]
    except ValueError:
        label = -1
    if not 0 <= label <= LARGEST_LABEL:
        raise DataError(f"{path}: {name} holds {data[:40]!r}, not a class number; make the shard again")
    return label
