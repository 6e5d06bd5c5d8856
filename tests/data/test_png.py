"""A PNG that would end the whole process in torchvision's decoder is known before."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgan.data.png import check_png, is_png

MODES = ("RGB", "L", "P", "LA", "RGBA", "1", "I;16")
FUZZ = """
import sys, numpy as np, torch
from distgan.data.decode import Decoder
from distgan.data.png import check_png
from distgan.data.headers import picture_size
sys.path[:0] = ["tests", "tests/data"]
from test_png import MODES, mended, picture
draw, decoder = np.random.default_rng(0), Decoder(16, 3, "crop")
refused = decoded = 0
for trial in range(3000):
    data = bytearray(picture(MODES[trial % len(MODES)]))
    for _ in range(1 + trial % 3):
        data[draw.integers(len(data))] ^= int(draw.integers(1, 256))
    data = mended(data) if trial % 4 else data
    try:
        height, width = picture_size(data)
        if height * width < 10**6:
            check_png(data)
            decoder.decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0, np.empty((16, 16, 3), np.uint8))
            decoded += 1
    except (ValueError, RuntimeError):
        refused += 1
print(refused, decoded)
"""


def picture(mode: str, side: int = 20) -> bytes:
    levels = (np.add.outer(np.arange(side), np.arange(side)) * 5 % 256).astype(np.uint8)
    image = Image.fromarray(levels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(levels).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(pixels: bytes, *, width=4, height=4, depth=8, colour=0, interlaced=0, parts=1) -> bytes:
    data = zlib.compress(pixels)
    step = -(-len(data) // parts)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    body = b"".join(chunk(b"IDAT", data[at : at + step]) for at in range(0, len(data), step))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


def mended(data: bytes | bytearray) -> bytes:
    """With the right checksum for each chunk, as an encoder at fault would write it."""
    found, place = bytes(data[:8]), 8
    while place + 12 <= len(data):
        length = struct.unpack_from(">I", data, place)[0]
        name, body = bytes(data[place + 4 : place + 8]), bytes(data[place + 8 : place + 8 + length])
        found += struct.pack(">I", length) + name + body + struct.pack(">I", zlib.crc32(name + body))
        place += 12 + length
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", [1, 7, 20])
def test_what_pillow_writes_is_sound(mode, side):
    assert is_png(picture(mode, side)) and not is_png(b"\xff\xd8 a JPEG")
    check_png(picture(mode, side))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("width, height, passes", [(4, 4, [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4)]), (1, 1, [(1, 1)])])
def test_an_interlaced_picture_is_sound_whose_passes_are_all_there(width, height, passes, parts):
    pixels = b"".join((b"\0" + bytes(columns)) * rows for rows, columns in passes)
    data = png(pixels, width=width, height=height, interlaced=1, parts=parts)
    check_png(data)
    assert Image.open(io.BytesIO(data)).load() is not None
    with pytest.raises(ValueError, match="bytes of pixels where"):
        check_png(png(pixels[:-1], width=width, height=height, interlaced=1))


@pytest.mark.parametrize(
    "data, said",
    [
        (png(bytes(20))[:-30], "cut short"),
        (png(bytes(19)), "19 bytes of pixels where 20 are due"),
        (png(bytes(21)), "does not end where it should"),
        (png(b"\x05" + bytes(19)), "filtered in no known way"),
        (png(bytes(20), colour=5), "no known form"),
        (png(bytes(20)).replace(b"IDAT", b"IDOT"), "wrong checksum"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""), "without a header"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_told(data, said):
    with pytest.raises(ValueError, match=said):
        check_png(data)


@pytest.mark.parametrize("mend", [bytes, mended])
def test_no_changed_byte_of_the_pixels_is_missed(mend):
    whole = picture("RGB")
    start = whole.index(b"IDAT") + 4
    for at in range(start, start + struct.unpack(">I", whole[start - 8 : start - 4])[0]):
        changed = bytearray(whole)
        changed[at] ^= 255
        with pytest.raises(ValueError):
            check_png(mend(changed))


def test_thousands_of_damaged_pictures_end_no_process():
    done = subprocess.run(
        [sys.executable, "-c", FUZZ], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr[-2000:]
    refused, decoded = map(int, done.stdout.split())
    assert refused > 1000 and decoded > 100


def test_a_stream_that_reaches_behind_its_own_window_is_refused():
    """libpng takes the window that the stream names; what reaches farther back would end the process."""
    row = np.random.default_rng(0).integers(0, 256, 300, np.uint8).tobytes()
    pixels = b"".join(b"\0" + row for _ in range(8))
    sound = zlib.compress(pixels, 9)
    for bits, ok in ((15, True), (8, False)):
        first = (bits - 8) << 4 | 8
        second = next(n for n in range(0, 256) if (first * 256 + n) % 31 == 0 and not n & 0x20)
        stream = bytes([first, second]) + sound[2:]
        header = struct.pack(">IIBBBBB", 100, 8, 8, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
        if ok:
            check_png(data)
        else:
            with pytest.raises(ValueError, match="damaged PNG"):
                check_png(data)


def test_a_small_window_that_suffices_is_sound():
    pixels = b"".join(b"\0" + bytes(range(60)) for _ in range(20))
    compressor = zlib.compressobj(9, zlib.DEFLATED, 9)
    stream = compressor.compress(pixels) + compressor.flush()
    header = struct.pack(">IIBBBBB", 20, 20, 8, 2, 0, 0, 0)
    check_png(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b""))
