"""Moves of whole pixels: mirrored, turned by quarters, shifted. No value changes."""

from __future__ import annotations

import torch
from torch import Tensor

from distgan.augmentation.draws import Draws

MOST_SHIFTED = 0.125
"""Of the side, in each direction."""


def blit(pictures: Tensor, draws: Draws) -> Tensor:
    """Squares [N, C, S, S] with the pixels of each elsewhere (ADA, appendix B, pixel blitting)."""
    mirrored = draws.happens("mirror") & draws.choice("mirror", 2).bool()
    turns = draws.choice("quarter turns", 4) * draws.happens("quarter turns")
    shifts = (draws.uniform("shift", -MOST_SHIFTED, MOST_SHIFTED, (2,)) * pictures.shape[-1]).round().long()
    shifts = shifts * draws.happens("shift")[:, None]
    moved = _each(mirrored, pictures.flip(-1), pictures)
    return shift(shift(quarter_turns(moved, turns), shifts[:, 0], -1), shifts[:, 1], -2)


def quarter_turns(pictures: Tensor, turns: Tensor) -> Tensor:
    """Each of [N, C, S, S] turned anticlockwise by its number [N] of quarters, 0 to 3, as `torch.rot90` does."""
    turned = _each(turns % 2 == 1, pictures.transpose(-1, -2), pictures)
    turned = _each((turns == 1) | (turns == 2), turned.flip(-2), turned)
    return _each(turns >= 2, turned.flip(-1), turned)


def shift(pictures: Tensor, pixels: Tensor, dim: int) -> Tensor:
    """Each of [N, C, S, S] moved along `dim` by its number [N] of pixels, less than S; what comes in is reflected.

    Along one dimension at a time a pixel is taken twice at most, so its gradient is a sum of two, the same in either
    order."""
    side = pictures.shape[dim]
    source = torch.arange(side, device=pictures.device) - pixels[:, None]
    source = torch.where(source < 0, -1 - source, torch.where(source >= side, 2 * side - 1 - source, source))
    index = source[:, None, None, :] if dim == -1 else source[:, None, :, None]
    return pictures.gather(dim, index.expand(pictures.shape))


def _each(which: Tensor, changed: Tensor, kept: Tensor) -> Tensor:
    return torch.where(which[:, None, None, None], changed, kept)
