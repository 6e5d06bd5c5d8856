"""How prepared pictures are stored: bare pixels, or files of a form of `ENCODINGS`, some with a quality.

Imports no torch: a worker process must start in a fraction of a second.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, features

from distgan.data.scan import Kind
from distgan.errors import ConfigError

RAW_UP_TO = 64  # pixels a side: decoding such pictures costs more than reading their pixels
WEBP_FROM = 256  # pixels a side: of colour pictures so large lossless WebP is smaller than PNG and decoded sooner
QUALITIES = range(50, 101)
JPEG_QUALITY = 95  # where none is given
MOST_BYTES_A_PIXEL = 8  # of a JPEG: noise at quality 100 takes 4


class Encoding(NamedTuple):
    """How pictures are stored: extension of their files, kind of their rows in the index, and the encoder, whose bytes
    are the same for the same pixels."""

    extension: str
    kind: Kind
    encode: Callable[[Image.Image], bytes]


def _encode_raw(image: Image.Image) -> bytes:
    """A .npy file: uint8 [H, W, C] behind a header of 128 bytes."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(image).reshape(image.height, image.width, -1), allow_pickle=False)
    return buffer.getvalue()


def _encoder(form: str, **options: object) -> Callable[[Image.Image], bytes]:
    def encode(image: Image.Image) -> bytes:
        clean = Image.frombytes(image.mode, image.size, image.tobytes())  # no date, no profile, no text
        buffer = io.BytesIO()
        clean.save(buffer, form, **options)
        return buffer.getvalue()

    return encode


def _jpeg(quality: int) -> Encoding:
    """With colour at full resolution, and codes made for each picture: a sixth smaller, for the same pixels."""
    write = _encoder("JPEG", quality=quality, subsampling=0, optimize=True)

    def encode(image: Image.Image) -> bytes:
        block = ImageFile.MAXBLOCK
        # Pillow's own guess of what such a file can take is too small for noise, and writing it would fail.
        ImageFile.MAXBLOCK = max(block, MOST_BYTES_A_PIXEL * image.width * image.height)
        try:
            return write(image)
        finally:
            ImageFile.MAXBLOCK = block

    return Encoding("jpg", Kind.ENCODED, encode)


def _lossy_webp(quality: int) -> Encoding:
    return Encoding("webp", Kind.ENCODED, _encoder("WEBP", quality=quality))


ENCODINGS = {
    "raw": Encoding("npy", Kind.HWC, _encode_raw),
    "png": Encoding("png", Kind.ENCODED, _encoder("PNG")),
    "jpeg": _jpeg(JPEG_QUALITY),
    "webp": Encoding("webp", Kind.ENCODED, _encoder("WEBP", lossless=True)),
}
"""What is stored when no quality is given; all but jpeg keep every pixel as it is."""
LOSSY = {"jpeg": _jpeg, "webp": _lossy_webp}
"""The forms that take a quality."""


@lru_cache
def encoding_named(name: str) -> Encoding:
    """The encoding that `--encoding` names: a key of `ENCODINGS`, or one of `LOSSY` with a colon and a quality behind
    it. Raises `ConfigError` for anything else, and for what this Pillow cannot write."""
    form, colon, quality = name.partition(":")
    if form not in ENCODINGS:
        raise ConfigError(
            f"--encoding {name}: {', '.join(ENCODINGS)} are possible, and jpeg:98 or webp:95 with a quality"
        )
    library = {"jpeg": "jpg", "webp": "webp"}.get(form)
    if library and not features.check(library):
        raise ConfigError(
            f"--encoding {name}: this Pillow was built without {form}; install its own wheel, or take png"
        )
    if not colon:
        return ENCODINGS[form]
    if form not in LOSSY:
        raise ConfigError(
            f"--encoding {name}: {form} keeps every pixel and has no quality; {' and '.join(LOSSY)} have one"
        )
    if not quality.isascii() or not quality.isdigit() or int(quality) not in QUALITIES:
        raise ConfigError(f"--encoding {name}: a quality is a whole number from {QUALITIES[0]} to {QUALITIES[-1]}")
    return LOSSY[form](int(quality))


def chosen_encoding(name: str | None, resolution: int, channels: int) -> str:
    """The name under which an encoding is remembered; with None, what is stored when nothing is said: bare pixels of
    small pictures, PNGs of others, lossless WebPs of large ones in colour. Raises `ConfigError`."""
    if name is None and resolution >= WEBP_FROM and channels == 3 and features.check("webp"):
        return "webp"
    if name is None:
        return "raw" if resolution <= RAW_UP_TO else "png"
    encoding_named(name)
    form, _, quality = name.partition(":")
    if form == "webp" and channels == 1:
        raise ConfigError(f"--encoding {name}: WebP knows no grey pictures; take png or raw for --channels 1")
    return form if form == "jpeg" and quality and int(quality) == JPEG_QUALITY else name
