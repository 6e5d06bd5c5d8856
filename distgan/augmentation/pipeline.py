"""All classes of augmentation, one after the other, as the objectives apply them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distgan.augmentation.blitting import blit
from distgan.augmentation.colour import tint
from distgan.augmentation.draws import Draws
from distgan.augmentation.geometry import deform

CLASSES = {"blit": blit, "geometry": deform, "colour": tint}
"""In the order in which they are applied (Karras et al. 2020, "Training generative adversarial networks with limited
data", appendix B)."""


class Augmentation(nn.Module):
    """T(x): every transformation of the classes happens to a picture with the probability `strength`, a scalar buffer
    that may be changed at any time without anything being compiled anew."""

    def __init__(self, classes: Sequence[str], strength: float) -> None:
        super().__init__()
        self._changes = [change for name, change in CLASSES.items() if name in classes]
        self.register_buffer("strength", torch.tensor(strength, dtype=torch.float32), persistent=False)

    def forward(self, pictures: Tensor, keys: Tensor, role: str) -> Tensor:
        """Pictures [N, C, S, S] in [-1, 1] as the critic is to see them, in float32 at least; differentiable once.

        `keys`: image keys [N]; `role`: "real" or "fake", of which each has its own draws."""
        with torch.autocast(pictures.device.type, enabled=False):
            wide = pictures if pictures.dtype == torch.float64 else pictures.float()
            draws = Draws(keys, role, self.strength, wide.dtype)
            for change in self._changes:
                wide = change(wide, draws)
            return wide.contiguous(memory_format=torch.channels_last)
