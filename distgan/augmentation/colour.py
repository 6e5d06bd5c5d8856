"""Brightness, contrast, luma turned round, hue and saturation: one affine map of colours a picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distgan.augmentation.draws import Draws

BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.5, 1.0
"""Standard deviations: of what is added, and of the logarithms to base 2 of the factors."""


def tint(pictures: Tensor, draws: Draws) -> Tensor:
    """Pictures [N, C, H, W] around zero, each with its own colours (ADA, appendix B, colour transformations); values
    may leave [-1, 1]. Of one channel hue and saturation change nothing.

    A picture to which nothing happens keeps its bits."""
    brighter, contrasted = draws.happens("brightness"), draws.happens("contrast")
    turned, hued, saturated = draws.happens("luma"), draws.happens("hue"), draws.happens("saturation")
    tinted = coloured(
        pictures,
        torch.where(brighter, draws.normal("brightness", BRIGHTNESS), 0.0),
        torch.where(contrasted, draws.normal("contrast", CONTRAST), 0.0).exp2(),
        1.0 - 2.0 * (turned & draws.choice("luma", 2).bool()),
        torch.where(hued, draws.uniform("hue", -math.pi, math.pi), 0.0),
        torch.where(saturated, draws.normal("saturation", SATURATION), 0.0).exp2(),
    )
    any_of_them = brighter | contrasted | turned | hued | saturated
    return torch.where(any_of_them[:, None, None, None], tinted, pictures)


def coloured(pictures: Tensor, add: Tensor, contrast: Tensor, luma: Tensor, hue: Tensor, saturation: Tensor) -> Tensor:
    """Pictures [N, C, H, W] after x + `add`, times `contrast`, the grey part times `luma`, the rest turned by the angle
    `hue` about the grey axis and times `saturation`, all [N].

    The grey part of a colour is its mean, so that each of these acts on it or on the rest, and one formula is all of
    them."""
    add, contrast, luma, hue, saturation = (v[:, None, None, None] for v in (add, contrast, luma, hue, saturation))
    grey = pictures.mean(1, keepdim=True)
    turned = (pictures.roll(1, 1) - pictures.roll(-1, 1)) / math.sqrt(3)  # (1, 1, 1)/sqrt(3) x colour
    rest = hue.cos() * (pictures - grey) + hue.sin() * turned
    return contrast * (luma * (grey + add) + saturation * rest)
