"""From a picture, wherever it lies, to the bytes of a square one: the work of prepare's worker processes.

Imports no torch: a worker process must start in a fraction of a second.
"""

from __future__ import annotations

import errno
import io
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from distgan.data import shapes
from distgan.data.encodings import encoding_named
from distgan.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})
# Only these decoders: PIL would hand a ".png" that is really PostScript to an outside program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
LARGEST_FILE = 512 * 2**20  # bytes of one picture inside a zip: more is a bomb, not a picture
MACHINE_TROUBLE = (errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # no fault of the picture
SHRINK_IN_DECODER = 3  # a JPEG may be decoded at a reduced scale of at least this many times the target


class Picture(Protocol):
    """Where a picture lies: cheap to pickle, opened in the worker."""

    def open(self) -> Image.Image: ...


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A picture in a file of its own."""

    path: str

    def open(self) -> Image.Image:
        return Image.open(self.path, formats=FORMATS)


@dataclass(frozen=True, slots=True)
class ZipPicture:
    """A picture in a zip, which is read where it lies and never unpacked."""

    archive: str
    member: str

    def open(self) -> Image.Image:
        archive = _open_zip(self.archive)
        size = archive.getinfo(self.member).file_size
        if size > LARGEST_FILE:
            raise ValueError(f"{size} bytes unpacked, more than the {LARGEST_FILE} allowed")
        return Image.open(io.BytesIO(archive.read(self.member)), formats=FORMATS)


@dataclass(frozen=True, slots=True, eq=False)
class RawPicture:
    """A picture that is a row of an array; its pixels travel to the worker."""

    pixels: np.ndarray  # uint8, [H, W] or [H, W, 3]

    def open(self) -> Image.Image:
        return Image.fromarray(self.pixels)


@dataclass(frozen=True, slots=True)
class DrawnPicture:
    """A picture of the data set `shapes`, drawn in the worker."""

    seed: int
    index: int
    resolution: int
    channels: int
    background: str

    def open(self) -> Image.Image:
        return shapes.draw(self.seed, self.index, self.resolution, self.channels, self.background)


@dataclass(frozen=True, slots=True)
class Item:
    """One picture of a source. `name` is what a message calls it; `label` is -1 without labels."""

    name: str
    picture: Picture
    label: int = -1


@dataclass(frozen=True, slots=True)
class Recipe:
    """What every picture becomes: square, `resolution` pixels a side, 1 or 3 channels, in an encoding named as in
    `encoding_named`.

    With `pad` a picture that is no larger than the target is framed in black instead of being enlarged; with
    `skip_small` one that would have to be enlarged is left out.
    """

    resolution: int
    channels: int
    pad: bool = False
    encoding: str = "png"
    skip_small: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class Rendered:
    """What became of an item: the bytes of a file, or None and the reason why the picture cannot be read, or None and
    `small`: left out by `skip_small`."""

    name: str
    label: int
    data: bytes | None
    upscaled: bool = False
    reason: str = ""
    small: bool = False


def render_all(items: Sequence[Item], recipe: Recipe) -> list[Rendered]:
    """`render` for each item, in order: one task of a worker process."""
    return [render(item, recipe) for item in items]


def render(item: Item, recipe: Recipe) -> Rendered:
    """Opens, squares and encodes one picture. A picture that cannot be read is reported, not raised."""
    name = item.name if item.name.isprintable() else ascii(item.name)
    try:
        with warnings.catch_warnings():
            # PIL warns of large pictures, and refuses those twice as large: only the refusal counts here.
            warnings.simplefilter("ignore")
            with item.picture.open() as image:
                upscaled = not recipe.pad and min(image.size) < recipe.resolution
                if upscaled and recipe.skip_small:
                    return Rendered(name, item.label, None, small=True)
                data = encoding_named(recipe.encoding).encode(square(image, recipe))
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise almost anything on damaged bytes
        if isinstance(error, OSError) and error.errno in MACHINE_TROUBLE:
            raise UserError(f"{name}: cannot be read: {error.strerror}; run the same command again") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        return Rendered(name, item.label, None, reason=reason)
    return Rendered(name, item.label, data, upscaled)


def square(image: Image.Image, recipe: Recipe) -> Image.Image:
    """The largest centred square of a picture, resized with Lanczos, in the channels asked for.

    An EXIF orientation is applied first; transparency is laid over white; 16 bits become 8. What is to be made less
    than a sixth of its size goes through a box filter (of a JPEG: its decoder's) first, to three times the target or
    more.
    """
    side = recipe.resolution
    image.draft("RGB" if recipe.channels == 3 else "L", (side * SHRINK_IN_DECODER,) * 2)
    image.load()
    _turn_upright(image)
    if recipe.pad and max(image.size) <= side:
        return _framed(_in_channels(image, recipe.channels), side)
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    # Cropped first: resize(box=...) would let the pixels around the box into its edges.
    image = _in_channels(image.crop((left, top, left + edge, top + edge)), recipe.channels)
    return image.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)


def is_picture(name: str) -> bool:
    """Whether a relative path (with `/`) is a picture to read: no hidden part, none that climbs out."""
    path = PurePosixPath(name)
    if path.is_absolute() or path.suffix.lower() not in SUFFIXES:
        return False
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _turn_upright(image: Image.Image) -> None:
    """In place: a photograph without an orientation is not copied."""
    with suppress(Exception):  # damaged EXIF beside sound pixels: the pixels are what is wanted
        ImageOps.exif_transpose(image, in_place=True)


def _in_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating point pixels have no known range; save the picture with 8 bits")
    if image.mode.startswith("I"):  # 16 bits: PIL's own conversion would clip them at 255
        image = Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "RGB" if channels == 3 else "L"
    return image if image.mode == mode else image.convert(mode)


def _framed(image: Image.Image, side: int) -> Image.Image:
    frame = Image.new(image.mode, (side, side))
    frame.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return frame


@lru_cache(maxsize=4)
def _open_zip(path: str) -> zipfile.ZipFile:
    """Open archives are kept: reading the directory of 200,000 members takes a second."""
    return zipfile.ZipFile(path)
