"""Grids of pictures, and how the same latents change over a run."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from distgan.files import new_file
from distgan.run_folder import grids_in

_GAP = 2
_MOST_FRAMES = 120
_SMALLEST_TILE = 32


def columns(count: int, classes: int) -> int:
    """Pictures in a row: a square grid, or with classes one row each."""
    return max(1, count // classes) if classes else math.ceil(math.sqrt(count))


def grid(images: Tensor, per_row: int) -> np.ndarray:
    """Pictures [N, C, H, W] in [-1, 1] as one picture [H', W', 3] uint8; small ones are enlarged by whole numbers."""
    pixels = images.detach().float().cpu().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    enlarge = max(1, _SMALLEST_TILE * 2 // pixels.shape[-1])
    pixels = pixels.repeat_interleave(enlarge, -1).repeat_interleave(enlarge, -2)
    pixels = torch.nn.functional.pad(pixels, (0, _GAP, 0, _GAP))
    missing = -pixels.shape[0] % per_row
    pixels = torch.cat([pixels, pixels.new_zeros(missing, *pixels.shape[1:])])
    sheet = rearrange(pixels, "(rows cols) c h w -> (rows h) (cols w) c", cols=per_row)
    return sheet.expand(-1, -1, 3).numpy()


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
    """An animation of the sample grids of a folder in their order, of at most 120 of them evenly chosen."""
    files = list(grids_in(samples).values())
    if not files:
        return
    chosen = np.unique(np.linspace(0, len(files) - 1, min(len(files), _MOST_FRAMES)).round().astype(int))
    frames = [Image.open(files[i]).convert("P", palette=Image.Palette.ADAPTIVE) for i in chosen]
    with new_file(path) as file:
        frames[0].save(file, format="GIF", save_all=True, append_images=frames[1:], duration=150, loop=0)
