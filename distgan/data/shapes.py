"""The embedded data set `shapes`: 64 known modes, drawn by the program, so that nothing is downloaded.

A picture is one of 4 shapes in one of 4 colours in one of 4 quadrants on a plain grey ground, with a slight
jitter of size and place. It is a function of (seed, index) alone. Because the modes are known, mode
collapse can be counted: `read_mode` recognises the mode of any picture, a generated one too.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {"red": (214, 56, 56), "green": (52, 176, 86), "blue": (64, 112, 232), "yellow": (240, 206, 64)}
GREYS = (72, 112, 152, 192)  # the four "colours" of one-channel pictures, apart from either ground
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
GROUNDS = {"dark": 24, "light": 240}
ARM = 0.34  # half the width of a cross's arm, in radii
# Of a shape with radius 1 (half its box): its area, and how far its centroid lies below its middle.
AREAS = {"circle": (np.pi, 0), "square": (4, 0), "triangle": (2, 1 / 3), "cross": (8 * ARM - 4 * ARM**2, 0)}
MODES = len(SHAPES) * len(COLOURS) * len(QUADRANTS)
SMALLEST, LARGEST = 16, 1024


def mode_of(seed: int, index: int) -> int:
    """The mode (0..63) of picture `index`: each run of 64 pictures holds every mode once, shuffled.

    mode = shape * 16 + colour * 4 + quadrant, in the order of `SHAPES`, `COLOURS`, `QUADRANTS`.
    """
    block, place = divmod(index, MODES)
    return _shuffled_modes(seed, block)[place]


def mode_parts(mode: int) -> tuple[int, int, int]:
    """A mode number taken apart: (shape, colour, quadrant), each 0..3. A picture's label is its shape."""
    return mode // 16, mode // 4 % 4, mode % 4


def draw(
    seed: int,
    index: int,
    resolution: int,
    channels: int = 3,
    background: str = "dark",
    mode: int | None = None,
) -> Image.Image:
    """Picture `index` of the data set of `seed`.

    Returns a PIL picture, `resolution` x `resolution` (16..1024), mode "RGB" or, for one channel, "L".
    `background` is a key of `GROUNDS`; `mode` overrides the mode that (seed, index) gives.
    """
    shape, colour, quadrant = mode_parts(mode_of(seed, index) if mode is None else mode)
    size, right, down = (_unit(seed, "jitter", index, axis) for axis in range(3))
    radius = resolution * (0.15 + 0.05 * size)
    centre_x = resolution * (0.25 + 0.5 * (quadrant % 2) + 0.06 * (right - 0.5))
    centre_y = resolution * (0.25 + 0.5 * (quadrant // 2) + 0.06 * (down - 0.5))
    mask = _mask(SHAPES[shape], centre_x, centre_y, radius, resolution)
    ground = GROUNDS[background]
    if channels == 1:
        picture, ink = Image.new("L", mask.size, ground), GREYS[colour]
    else:
        picture, ink = Image.new("RGB", mask.size, (ground,) * 3), list(COLOURS.values())[colour]
    picture.paste(ink, mask=mask)
    return picture


def read_mode(pixels: np.ndarray) -> int:
    """The mode (0..63) seen in a picture, or -1 where no shape can be made out.

    `pixels` is uint8 and square, `[H, H]` or `[H, H, C]` with 1 or 3 channels. The ground is taken from the
    border. Of the data set's own pictures every one is recognised, from 16 pixels a side.
    """
    image = np.atleast_3d(np.asarray(pixels)).astype(np.float64)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    ground = np.median(border, axis=0)
    distance = np.linalg.norm(image - ground, axis=-1)
    if distance.max() < 24:
        return -1
    cover = np.clip(distance / np.percentile(distance[distance > distance.max() / 2], 75), 0, 1)
    cover[cover < 0.1] = 0
    colour = _nearest_colour(image[cover > 0.9].mean(axis=0) if (cover > 0.9).any() else ground)
    return _shape_of(cover) * 16 + colour * 4 + _quadrant_of(cover)


def _mask(shape: str, x: float, y: float, radius: float, resolution: int) -> Image.Image:
    """How much of each pixel the shape covers (mode "L"), by drawing it 4 or 8 times larger."""
    factor = 8 if resolution <= 256 else 4
    large = Image.new("L", (resolution * factor,) * 2, 0)
    pen = ImageDraw.Draw(large)
    left, top, right, bottom = ((v * factor) for v in (x - radius, y - radius, x + radius, y + radius))
    if shape == "circle":
        pen.ellipse((left, top, right, bottom), fill=255)
    elif shape == "square":
        pen.rectangle((left, top, right, bottom), fill=255)
    elif shape == "triangle":
        pen.polygon([(x * factor, top), (right, bottom), (left, bottom)], fill=255)
    else:
        arm = radius * factor * ARM
        pen.rectangle((x * factor - arm, top, x * factor + arm, bottom), fill=255)
        pen.rectangle((left, y * factor - arm, right, y * factor + arm), fill=255)
    return large.reduce(factor)


def _nearest_colour(colour: np.ndarray) -> int:
    known = np.array(GREYS)[:, None] if len(colour) == 1 else np.array(list(COLOURS.values()))
    return int(np.argmin(np.linalg.norm(known - colour, axis=1)))


def _quadrant_of(cover: np.ndarray) -> int:
    height, width = cover.shape
    x, y = _centroid(cover)
    return 2 * int(y >= height / 2) + int(x >= width / 2)


def _shape_of(cover: np.ndarray) -> int:
    """The shape which, drawn with the weight and at the centre of what is seen, comes closest to it."""
    x, y = _centroid(cover)
    errors = []
    for shape in SHAPES:
        area, low = AREAS[shape]
        radius = float(np.sqrt(cover.sum() / area))
        drawn = np.asarray(_mask(shape, x, y - low * radius, radius, len(cover))) / 255
        errors.append(np.square(drawn - cover).sum())
    return int(np.argmin(errors))


def _centroid(cover: np.ndarray) -> tuple[float, float]:
    weight = cover.sum()
    x = (cover.sum(axis=0) * (np.arange(cover.shape[1]) + 0.5)).sum() / weight
    y = (cover.sum(axis=1) * (np.arange(cover.shape[0]) + 0.5)).sum() / weight
    return float(x), float(y)


@lru_cache(maxsize=16)
def _shuffled_modes(seed: int, block: int) -> list[int]:
    return sorted(range(MODES), key=lambda mode: _digest(seed, "mode", block, mode))


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()


def _unit(*parts: object) -> float:
    """A number in [0, 1) from a hash: no library's generator, whose stream may change between versions."""
    return struct.unpack("<Q", _digest(*parts))[0] / 2**64
