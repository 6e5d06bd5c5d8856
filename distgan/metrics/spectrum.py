"""Checkerboards, the artefact of transposed convolutions (Odena, Dumoulin and Olah 2016, "Deconvolution and
checkerboard artifacts"), measured in the power spectrum."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

_PERIOD = 4
"""Of what two layers of stride 2 leave, in px; it holds the period of one."""
_APART = (-3, -2, 2, 3)
"""Bins of the spectrum from a frequency to its neighbours; a sharp peak reaches one bin far through Hann's window."""
_SMALLEST = 16
_PIXELS_AT_ONCE = 2**22


def checkerboard(pixels: Tensor) -> float:
    """How far the frequencies of period 2 and 4 px stand above those around them, in pictures uint8 [N, C, H, W]:
    a ratio of energies, 1 where no pattern repeats every 2 or 4 px, more where one does, without an upper bound.

    A transposed convolution of stride 2 whose kernel overlaps unevenly repeats even a plain area every 2 px, two of
    them every 4 px: lines in the spectrum at the multiples of 1/4 cycle a px. The power spectrum is the mean over
    all pictures and channels of |FFT|^2 of the pictures without their mean under Hann's window. At each of the 15
    frequencies (i/4, j/4) but 0, its power is divided by that around it: the mean power 2 and 3 bins away along the
    one axis or along the other, whichever is greater, so that the ridges along the axes that edges of real pictures
    have count for nothing. To both the power of rounding to whole numbers is added, and a ratio below 1 counts as 1.
    The result is the mean of the 15. Compare it with that of as many real pictures, which need not have 1: JPEG's
    blocks repeat every 8 px, and few pictures leave chance in the spectrum (some 0.4 / sqrt(N C)).

    Sides are cut to multiples of 4 px. Raises ValueError where one is shorter than 16 px or there is no picture.
    """
    if pixels.ndim != 4 or not len(pixels) or min(pixels.shape[2:]) < _SMALLEST:
        raise ValueError(
            f"pictures [N, C, H, W] of {_SMALLEST} px a side or more have a spectrum, not {list(pixels.shape)}"
        )
    height, width = (side - side % _PERIOD for side in pixels.shape[2:])
    power, rounding = _power(pixels[:, :, :height, :width])
    ratios = []
    for i, j in itertools.product(range(_PERIOD), repeat=2):
        if (i, j) != (0, 0):
            y, x = i * height // _PERIOD, j * width // _PERIOD
            along_y = torch.stack([power[(y + step) % height, x] for step in _APART]).mean()
            along_x = torch.stack([power[y, (x + step) % width] for step in _APART]).mean()
            ratios.append((power[y, x] + rounding) / (torch.maximum(along_y, along_x) + rounding))
    return torch.stack(ratios).clamp(min=1).mean().item()


def _power(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(the mean power spectrum float64 [H, W], the power of an error of rounding at each frequency)."""
    height, width = pixels.shape[2:]
    options = {"dtype": torch.float64, "device": pixels.device}
    window = torch.hann_window(height, **options)[:, None] * torch.hann_window(width, **options)
    power = torch.zeros(height, width, **options)
    for block in pixels.flatten(0, 1).split(max(1, _PIXELS_AT_ONCE // (height * width))):
        wide = block.to(torch.float64)
        power += torch.fft.fft2((wide - wide.mean((1, 2), keepdim=True)) * window).abs().square().sum(0)
    return power / (pixels.shape[0] * pixels.shape[1]), window.square().sum() / 12
