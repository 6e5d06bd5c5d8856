"""What the first bytes of a picture say: its size, before anything is decoded."""

from __future__ import annotations

import math
import re
import struct

LARGEST_PICTURE = 2**26
"""Pixels of the largest picture that is decoded; a header that promises more is a bomb (decoded: 192 MiB and more)."""

_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length


def picture_size(data: bytes | memoryview) -> tuple[int, int]:
    """(height, width) in pixels that the header of a PNG, JPEG, WebP or .npy promises, EXIF orientation not applied.

    Raises ValueError for other bytes.
    """
    head = bytes(data[:32])
    try:
        if head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", head, 16)
            return height, width
        if head[:2] == b"\xff\xd8":
            return _jpeg_size(data)
        if head[:6] == b"\x93NUMPY":
            return npy_picture(data)[:2]
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp_size(head)
    except (struct.error, IndexError):
        raise ValueError("its header is cut short") from None
    raise ValueError("neither PNG, JPEG nor WebP")


_NPY_KEYS = tuple(
    re.compile(rf"""['"]{key}['"]\s*:\s*{value}""")
    for key, value in (
        ("descr", r"""['"]([^'"]*)['"]"""),
        ("fortran_order", "(True|False)"),
        ("shape", r"\(([\d\s,]*)\)"),
    )
)
"""Of the header, which is in Python's notation. Python's parser is not used: in 3.11 threads share its count of
recursion, and two that parse at once fail now and then (SystemError: AST constructor recursion depth mismatch)."""


def npy_picture(data: bytes | memoryview) -> tuple[int, int, bool, int]:
    """Height, width, whether the channels come last, and the bytes before the pixels, of a picture in a .npy file
    (numpy's format 1 to 3): uint8 in C order, [H, W], [H, W, C] or [C, H, W] with C 1 or 3. Raises ValueError
    otherwise."""
    shape, head = npy_form(data)
    if len(shape) not in (2, 3) or (len(shape) == 3 and not {1, 3} & {shape[0], shape[2]}) or not math.prod(shape):
        raise ValueError(f"shape {shape} is no picture; must be [H, W], [H, W, C] or [C, H, W] with C 1 or 3")
    if len(data) - head != math.prod(shape):
        raise ValueError(f"{len(data) - head} bytes of pixels for shape {shape}")
    last = len(shape) == 2 or shape[2] in (1, 3)
    height, width = shape[:2] if last else shape[1:]
    return height, width, last, head


def npy_form(data: bytes | memoryview) -> tuple[tuple[int, ...], int]:
    """Shape, and bytes of the header, of a .npy file of uint8 in C order. Raises ValueError otherwise."""
    head = bytes(data[:12])
    if head[:6] != b"\x93NUMPY" or len(head) < 12:
        raise ValueError("not a .npy file")
    start, length = (10, int.from_bytes(head[8:10], "little"))
    if head[6] > 1:
        start, length = (12, int.from_bytes(head[8:12], "little"))
    text = bytes(data[start : start + min(length, 4096)]).decode("latin1")
    descr, fortran, shape = (pattern.search(text) for pattern in _NPY_KEYS)
    if not (descr and fortran and shape):
        raise ValueError("its .npy header cannot be read")
    if descr[1] not in ("|u1", "u1", "<u1", ">u1") or fortran[1] == "True":
        order = " in Fortran order" if fortran[1] == "True" else ""
        raise ValueError(f"an array of {descr[1]}{order}; must be uint8 in C order")
    return tuple(int(size) for size in re.findall(r"\d+", shape[1])), start + length


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int]:
    place = 2
    while True:
        while data[place] != 0xFF:
            place += 1
        while data[place] == 0xFF:
            place += 1
        marker = data[place]
        place += 1
        if marker == 0 or marker in _JPEG_ALONE:  # 0: no marker at all, as libjpeg has it
            continue
        if marker in _JPEG_FRAMES:
            return struct.unpack_from(">HH", data, place + 3)
        place += struct.unpack_from(">H", data, place)[0]


def _webp_size(head: bytes) -> tuple[int, int]:
    form = head[12:16]
    if form == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return height & 0x3FFF, width & 0x3FFF
    if form == b"VP8L":
        bits = struct.unpack_from("<I", head, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if form == b"VP8X":
        return int.from_bytes(head[27:30], "little") + 1, int.from_bytes(head[24:27], "little") + 1
    raise ValueError("a WebP of no known form")
