"""Scaled, turned, stretched and shifted by parts of a pixel: one affine map a picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distgan.augmentation.draws import Draws
from distgan.augmentation.resampling import resample

SCALE, STRETCH, SHIFT = 0.2, 0.2, 0.125
"""Standard deviations: of the logarithm to base 2 of both scalings, and of the shift as a share of the side."""


def deform(pictures: Tensor, draws: Draws) -> Tensor:
    """Squares [N, C, S, S], each seen through its own map (ADA, appendix B, general geometric transformations).

    Forwards: scaled, turned, stretched one way and squeezed the other, turned again, shifted. A picture to which
    nothing happens keeps its bits."""
    scales = torch.where(scaled := draws.happens("scale"), draws.normal("scale", SCALE), 0.0)
    stretches = torch.where(stretched := draws.happens("stretch"), draws.normal("stretch", STRETCH), 0.0)
    before = draws.happens_before_or_after("turn before")
    after = draws.happens_before_or_after("turn after")
    first = torch.where(before, draws.uniform("turn before", -math.pi, math.pi), 0.0)
    second = torch.where(after, draws.uniform("turn after", -math.pi, math.pi), 0.0)
    shifted = draws.happens("fractional shift")
    shifts = torch.where(shifted[:, None], draws.normal("fractional shift", SHIFT, (2,)), 0.0)
    any_of_them = scaled | stretched | before | after | shifted
    seen = resample(pictures, inverse_map(scales, first, stretches, second, shifts))
    return torch.where(any_of_them[:, None, None, None], seen, pictures)


def inverse_map(scale: Tensor, first: Tensor, stretch: Tensor, second: Tensor, shift: Tensor) -> Tensor:
    """S^-1 R1^-1 A^-1 R2^-1 T^-1, from the result back into the picture, [N, 2, 3] in coordinates from -1 to 1.

    `scale`, `stretch`: [N], logarithms to base 2; `first`, `second`: angles [N], radians, clockwise as the rows of a
    picture go down; `shift`: [N, 2], right and down, shares of the side."""
    wide, high = torch.exp2(-scale - stretch), torch.exp2(-scale + stretch)
    cos1, sin1, cos2, sin2 = first.cos(), first.sin(), second.cos(), second.sin()
    a = cos1 * wide * cos2 - sin1 * high * sin2
    b = cos1 * wide * sin2 + sin1 * high * cos2
    c = -sin1 * wide * cos2 - cos1 * high * sin2
    d = -sin1 * wide * sin2 + cos1 * high * cos2
    x, y = (2 * shift).unbind(1)
    rows = [torch.stack([a, b, -a * x - b * y], 1), torch.stack([c, d, -c * x - d * y], 1)]
    return torch.stack(rows, 1)
