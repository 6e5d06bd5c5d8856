"""Grids of pictures, and how the same latents change over a run."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from distgan.files import new_file
from distgan.run_folder import grids_in
from distgan.tracking.picture_files import opened

_GAP = 2
_SMALLEST_TILE = 32
_MOST_FRAMES = 120
_LONGEST_SIDE = 1024
"""Of a frame of an animation, pixels."""
_MOST_PIXELS = 40 * 10**6
"""Of all frames of an animation: they are in memory together, and a byte of each is about what they take on the
disk."""


def columns(count: int, classes: int) -> int:
    """Pictures in a row: a square grid, or with classes one row each."""
    return max(1, count // classes) if classes else math.ceil(math.sqrt(count))


def pixels(images: Tensor) -> Tensor:
    """Pictures in [-1, 1] as uint8 on the host, of the same shape."""
    return images.detach().float().cpu().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def grid(images: Tensor, per_row: int) -> np.ndarray:
    """The `sheet` of pictures [N, C, H, W] in [-1, 1]."""
    return sheet(pixels(images), per_row)


def sheet(tiles: Tensor, per_row: int) -> np.ndarray:
    """Pictures uint8 [N, C, H, W] as one picture [H', W', 3] uint8; small ones are enlarged by whole numbers."""
    tiles = enlarged(tiles, _SMALLEST_TILE * 2)
    tiles = torch.nn.functional.pad(tiles, (0, _GAP, 0, _GAP))
    missing = -tiles.shape[0] % per_row
    tiles = torch.cat([tiles, tiles.new_zeros(missing, *tiles.shape[1:])])
    joined = rearrange(tiles, "(rows cols) c h w -> (rows h) (cols w) c", cols=per_row)
    return joined.expand(-1, -1, 3).numpy()


def sheet_pixels(count: int, per_row: int, resolution: int) -> int:
    """How many pixels a `sheet` has."""
    side = resolution * _factor(resolution, _SMALLEST_TILE * 2) + _GAP
    return -(-count // per_row) * per_row * side**2


def enlarged(tiles: Tensor, side: int) -> Tensor:
    """Pictures [..., H, W], each pixel repeated as often as leaves them within `side` pixels."""
    factor = _factor(tiles.shape[-1], side)
    return tiles.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def _factor(resolution: int, side: int) -> int:
    return max(1, side // resolution)


def save(picture: np.ndarray, path: Path) -> None:
    """Writes a PNG under its final name only when it is whole."""
    write(encoded(picture), path)


def encoded(picture: np.ndarray) -> bytes:
    """A PNG."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, format="PNG")
    return data.getvalue()


def write(data: bytes, path: Path) -> None:
    """The bytes under their final name only when they are whole."""
    with new_file(path) as file:
        file.write(data)


def save_evolution(samples: Path, path: Path) -> None:
    """An animation of the sample grids of a folder in their order: evenly chosen ones, at most 120 and 40 megapixels in
    all, of at most 1024 pixels a side."""
    files = list(grids_in(samples).values())
    first = next((frame for frame in map(_frame, files) if frame is not None), None)
    if first is None:
        return
    most = max(2, min(_MOST_FRAMES, _MOST_PIXELS // (first.width * first.height)))
    chosen = np.unique(np.linspace(0, len(files) - 1, min(len(files), most)).round().astype(int))
    frames = [_frame(files[i]) for i in chosen]
    save_animation([frame for frame in frames if frame is not None], path, 150)


def _frame(path: Path) -> Image.Image | None:
    """A grid within the longest side; None where the file is damaged."""
    try:
        with opened(path) as file:
            return within(file.convert("RGB"), _LONGEST_SIDE)
    except (OSError, SyntaxError):
        return None


def within(frame: Image.Image, side: int) -> Image.Image:
    """The picture, made smaller where it is larger than `side` pixels."""
    if max(frame.size) <= side:
        return frame
    scale = side / max(frame.size)
    size = tuple(max(1, round(length * scale)) for length in frame.size)
    return frame.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def animation_side(count: int, width: int, height: int) -> int:
    """The longest side at which `count` frames of this size are within the bounds of an animation, pixels."""
    scale = min(1.0, math.sqrt(_MOST_PIXELS / (count * width * height)))
    return min(_LONGEST_SIDE, max(1, int(scale * max(width, height))))


def save_animation(frames: Sequence[Image.Image], path: Path, milliseconds: int) -> None:
    """A GIF without end of RGB frames, each shown for `milliseconds` (GIF counts in tens).

    All frames share one palette, so that what does not move does not flicker: the 256 greys where there are only greys,
    else 256 colours of all frames."""
    if all(_is_grey(frame) for frame in frames):
        indexed = [frame.convert("L") for frame in frames]
    else:
        palette = _palette(frames)
        indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    with new_file(path) as file:
        indexed[0].save(
            file, format="GIF", save_all=True, append_images=indexed[1:], duration=milliseconds, loop=0, optimize=False
        )


def _is_grey(frame: Image.Image) -> bool:
    red, green, blue = (np.asarray(band) for band in frame.split())
    return np.array_equal(red, green) and np.array_equal(green, blue)


def _palette(frames: Sequence[Image.Image]) -> Image.Image:
    """256 colours of all frames, from a few of each one's pixels."""
    each = max(1, 10**6 // len(frames))
    parts = []
    for frame in frames:
        colours = np.asarray(frame).reshape(-1, 3)
        parts.append(colours[:: max(1, len(colours) // each)])
    together = np.concatenate(parts)
    return Image.fromarray(together[None]).quantize(256, Image.Quantize.MEDIANCUT)
