"""Reads a tar once from end to end: where each picture lies, its label, its checksum.

A damaged tar is refused, never taken for a shorter one. Imports no torch.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from distgan.data.headers import npy_picture, picture_size
from distgan.errors import DataError

SAMPLE = np.dtype(
    [("shard", "<i4"), ("offset", "<i8"), ("size", "<i4"), ("label", "<i4"), ("crc", "<u4"), ("kind", "u1")]
)
"""One picture: number of its shard, first byte and bytes of what is decoded, label (-1: none), CRC-32 of these bytes,
and `Kind`. Packed to 25 bytes, so that ten million are a quarter of a gigabyte."""

PICTURES = ("png", "jpg", "jpeg", "webp", "npy", "raw")
LABELS = ("cls", "json", "txt")
# webdataset's rule: the key of a sample ends at the base name's first dot.
MEMBER = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)")
BLOCK = 512
LARGEST_LABEL = 1_000_000  # a larger number is no class but a mistake
LARGEST_FILE = 2**29  # bytes of one picture: more is a bomb, not a picture


class Kind(IntEnum):
    """How the bytes of a sample become a picture."""

    ENCODED = 0
    """PNG, JPEG or WebP."""
    HWC = 1
    """Bare uint8 pixels, row after row, the channels of a pixel side by side."""
    CHW = 2
    """Bare uint8 pixels, channel after channel."""
    NPY = 3
    """A whole .npy file: of pixels that are not square, so that their shape would be lost without its header."""


class Form(NamedTuple):
    """Resolution (None where not square) and channels (1 or 3) of a picture; None where not known."""

    resolution: int | None
    channels: int | None


def scan_tar(
    path: Path | int, advance: Callable[[int], None] = lambda pictures: None, called: str | None = None
) -> np.ndarray:
    """One row of dtype `SAMPLE` for each picture of a tar, in order; `shard` is 0.

    A sample is a run of members with one key. Its label comes from `.cls` (an integer), from "label" in `.json`, or
    from a `.txt` that is an integer and nothing else; other members are passed over. `path` may be a descriptor, which
    then needs a name in messages, `called`. `advance` is called with the number of pictures read since the call before.
    Raises `DataError` naming shard and member where the tar is compressed, truncated or damaged, where a name leads out
    of a folder, where a label is no class number, and where a .npy holds no pixels.
    """
    where = called or str(path)
    rows, key, picture, label = [], None, None, -1
    for name, offset, data in _members(path, where):
        match = MEMBER.fullmatch(name)
        if match is None:
            continue
        if match[1] != key:
            rows += [_row(picture, label)] if picture else []
            key, picture, label = match[1], None, -1
        extension = match[2].lower()
        if extension in PICTURES and picture is None:
            picture = picture_in(where, name, extension, offset, data)
            advance(1)
        elif extension in LABELS:
            label = max(label, label_of(where, name, extension, data))
    rows += [_row(picture, label)] if picture else []
    return np.array(rows, SAMPLE)


def member_at(path: Path | str | int, offset: int) -> str:
    """The name of the tar's member that has byte `offset` in its data, "?" where there is none. For messages."""
    try:
        with open(path, "rb", closefd=not isinstance(path, int)) as file:
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.offset_data <= offset < member.offset_data + max(member.size, 1):
                        return printable(member.name)
                    archive.members.clear()
    except (tarfile.TarError, OSError, ValueError):
        pass
    return "?"


def form_of(path: Path | str | int, sample: np.void, called: str) -> Form:
    """Resolution and channels of one picture, from its header. Raises `DataError` naming shard and member."""
    if sample["kind"] == Kind.ENCODED:
        with open(path, "rb", closefd=not isinstance(path, int)) as file:
            data = os.pread(file.fileno(), int(sample["size"]), int(sample["offset"]))
        try:
            return _encoded_form(data)
        except ValueError as error:
            name = member_at(path, int(sample["offset"]))
            raise DataError(f"{called}: {name}: the first picture cannot be read ({error}); make it again") from None
    for channels in (1, 3):
        side = round((int(sample["size"]) / channels) ** 0.5)
        if side * side * channels == sample["size"]:
            return Form(side, channels)
    return Form(None, None)


def _encoded_form(data: bytes) -> Form:
    import io

    from PIL import Image, UnidentifiedImageError

    height, width = picture_size(data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            channels = 1 if image.mode in ("1", "L", "LA") or image.mode.startswith("I") else 3
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from None
    return Form(width if width == height else None, channels)


def _row(picture: tuple, label: int) -> tuple:
    offset, size, crc, kind = picture
    return 0, offset, size, label, crc, kind


def picture_in(where: str, name: str, extension: str, offset: int, data: bytes) -> tuple[int, int, int, int]:
    """Offset, bytes, CRC-32 and kind of what is to be decoded of a member, whose `data` begins at `offset`.

    Raises `DataError` for a .npy that holds no picture."""
    if extension == "raw":
        return offset, len(data), zlib.crc32(data), Kind.HWC
    if extension != "npy":
        return offset, len(data), zlib.crc32(data), Kind.ENCODED
    try:
        height, width, channels_last, head = npy_picture(data)
    except ValueError as error:
        raise DataError(f"{where}: {printable(name)}: {error}; make the shard again") from None
    if height != width:
        return offset, len(data), zlib.crc32(data), Kind.NPY
    kind = Kind.HWC if channels_last else Kind.CHW
    return offset + head, len(data) - head, zlib.crc32(data[head:]), kind


def _members(path: Path | int, where: str) -> Iterator[tuple[str, int, bytes]]:
    """Name, offset and bytes of each file in a tar that may hold a picture or a label."""
    try:
        file = open(path, "rb", closefd=not isinstance(path, int))
        file.seek(0)  # a descriptor may stand anywhere
        with file, tarfile.open(fileobj=file, mode="r:") as archive:
            end = 0
            for member in archive:
                end = archive.offset  # where the next header is to be
                archive.members.clear()  # tarfile keeps every header: gigabytes for large shards
                if not member.isreg() or member.issparse():
                    continue
                _check_name(where, member)
                if member.name.rpartition(".")[2].lower() in (*PICTURES, *LABELS):
                    yield member.name, member.offset_data, _data(where, file, member)
            _check_end(where, file, end)
    except tarfile.TarError as error:
        raise DataError(
            f"{where}: not a sound plain tar ({error}); unpack it if it is compressed, else copy it again"
        ) from None
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error}); copy it again") from None


def _check_name(where: str, member: tarfile.TarInfo) -> None:
    """A member that would be unpacked outside of its folder is an attack on whoever unpacks the tar."""
    if member.name.startswith("/") or ".." in member.name.split("/"):
        name = printable(member.name)
        raise DataError(f"{where}: {name}: a name that leads out of its folder; do not use this shard")


def _data(where: str, file: BinaryIO, member: tarfile.TarInfo) -> bytes:
    if member.size > LARGEST_FILE:
        raise DataError(f"{where}: {printable(member.name)}: {member.size} bytes are no picture; make the shard again")
    data = os.pread(file.fileno(), member.size, member.offset_data)
    if len(data) < member.size:
        raise DataError(f"{where}: {printable(member.name)}: the shard ends within it; copy it again")
    return data


def _check_end(where: str, file: BinaryIO, end: int) -> None:
    """After the last member only zeros may follow, one block at least.

    tarfile takes a damaged header for the end of the archive, and would lose all that comes after it.
    """
    file.seek(end)
    rest = 0
    while chunk := file.read(1 << 20):
        if chunk.count(0) != len(chunk):
            raise DataError(f"{where}: damaged at byte {end}: data that no header announces; copy it again")
        rest += len(chunk)
    if rest < BLOCK:
        raise DataError(f"{where}: truncated: no end mark after byte {end}; copy it again")


def label_of(where: str, name: str, extension: str, data: bytes) -> int:
    """The class that a member with an extension of `LABELS` names; -1 for none. Raises `DataError` for nonsense."""
    try:
        if extension == "cls":
            label = int(data)
        elif extension == "txt":  # mostly a caption
            text = data.strip()
            if not text.isdigit() or len(text) > 7:
                return -1
            label = int(text)
        else:
            content = json.loads(data)
            if not isinstance(content, dict) or not isinstance(content.get("label"), int):
                return -1
            label = content["label"]
    except ValueError:
        label = -1
    if not 0 <= label <= LARGEST_LABEL:
        raise DataError(f"{where}: {printable(name)} holds {data[:40]!r}, not a class number; make the shard again")
    return label


def printable(name: str) -> str:
    """A member's name as a message may show it."""
    return name if name.isprintable() else ascii(name)
