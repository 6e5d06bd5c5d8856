"""Whether a PNG is sound, found out without a decoder.

torchvision's decoder (0.29 and before) jumps out of libpng over C++ objects at any error among the pixels, which ends
the whole process with a segmentation fault. So what is not known to be sound must not be given to it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by type of colour
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_LAST_FILTER = 4


def is_png(data: bytes | memoryview) -> bool:
    """Whether these bytes begin as a PNG does."""
    return bytes(data[:8]) == b"\x89PNG\r\n\x1a\n"


def check_png(data: bytes | memoryview) -> None:
    """Raises ValueError where a chunk that matters, or the stream of pixels in them, is damaged or cut short.

    Takes about as long as decoding. The size that the header promises must have been looked at before.
    """
    header, compressed = None, []
    for name, body in _chunks(data):
        if name == b"IHDR":
            header = struct.unpack(">IIBBBBB", body) if len(body) == 13 else None
        elif name == b"IDAT":
            compressed.append(body)
    if header is None or not compressed:
        raise ValueError("a PNG without a header or without pixels")
    passes = _passes(*header)
    _check_filters(_inflated(compressed, passes), passes)


def _chunks(data: bytes | memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Name and content of each chunk up to the last that holds pixels."""
    data, place, seen = memoryview(data), 8, False
    while place < len(data):
        if place + 12 > len(data):
            raise ValueError("a PNG that is cut short")
        length, name = int.from_bytes(data[place : place + 4], "big"), bytes(data[place + 4 : place + 8])
        if name == b"IEND" or (seen and name != b"IDAT"):
            return
        end = place + 8 + length
        if end + 4 > len(data):
            raise ValueError("a PNG that is cut short")
        matters = name[:1].isupper()
        if matters and zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"a damaged PNG: wrong checksum in its {name.decode('latin1')}")
        seen = name == b"IDAT"
        yield name, data[place + 8 : end]
        place = end + 4


def _passes(width: int, height: int, depth: int, colour: int, *rest: int) -> list[tuple[int, int]]:
    """Rows and bytes of a row, its filter's included, of each pass over the picture."""
    if colour not in _SAMPLES or rest[:2] != (0, 0) or rest[2] > 1 or not width or not height:
        raise ValueError("a PNG of no known form")
    bits = depth * _SAMPLES[colour]
    grids = _ADAM7 if rest[2] else ((0, 0, 1, 1),)
    sizes = [(-(-(width - left) // across), -(-(height - top) // down)) for left, top, across, down in grids]
    return [(rows, 1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0]


def _inflated(compressed: list[memoryview], passes: list[tuple[int, int]]) -> bytes:
    """The rows of all passes, with the window that the stream itself asks for, and row by row where that is a small
    one: so does libpng, to which a distance that reaches farther back is damage."""
    wanted = sum(rows * length for rows, length in passes)
    whole = compressed[0] if len(compressed) == 1 else memoryview(b"".join(compressed))
    small = len(whole) > 0 and whole[0] >> 4 < 7
    if small and len(passes) > 1:
        raise ValueError("an interlaced PNG with a small window, which cannot be checked")
    stream, parts, found = zlib.decompressobj(wbits=0), [], 0
    step, piece = (passes[0][1], 4096) if small else (wanted, len(whole))
    try:
        for start in range(0, len(whole), max(piece, 1)):
            rest = whole[start : start + piece]
            while len(rest) and found < wanted:
                parts.append(stream.decompress(rest, min(step, wanted - found)))
                found, rest = found + len(parts[-1]), stream.unconsumed_tail
            more = b"" if stream.eof or not len(rest) else stream.decompress(rest, 1)  # its checksum comes last
            if more:
                break
    except zlib.error as error:
        raise ValueError(f"a damaged PNG ({error})") from None
    pixels = b"".join(parts)
    if len(pixels) < wanted:
        raise ValueError(f"a PNG with {len(pixels)} bytes of pixels where {wanted} are due")
    if more or not stream.eof:
        raise ValueError("a PNG whose stream of pixels does not end where it should")
    return pixels


def _check_filters(pixels: bytes, passes: list[tuple[int, int]]) -> None:
    place = 0
    for rows, length in passes:
        filters = np.frombuffer(pixels, np.uint8, rows * length, place)[::length]
        if filters.max() > _LAST_FILTER:
            raise ValueError("a damaged PNG: a row of it is filtered in no known way")
        place += rows * length
