"""Dropout whose mask is a function of the image's key, so that it is the same on whichever process the image
falls."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distgan import randomness


@torch.library.custom_op("distgan::keep", mutates_args=())
def _keep(keys: Tensor, name: str, shape: list[int], p: float) -> Tensor:
    """Which features stay: bool [N, *shape], True with probability 1 - p, from image keys [N].

    An operator of its own because the compiler can neither trace the hash of the name nor represent the
    wrapping int64 products (inductor: "too big to convert to int64_t").
    """
    return randomness.uniform(keys, name, tuple(shape)) >= p


@_keep.register_fake
def _(keys: Tensor, name: str, shape: list[int], p: float) -> Tensor:
    return keys.new_empty((keys.shape[0], *shape), dtype=torch.bool)


class KeyedDropout(nn.Module):
    """Sets each feature of `x` [N, ...] to zero with probability `p` and divides the others by 1 - p.

    `name` tells this layer's masks from those of other layers. `keys` [N] int64 are the image keys of
    `randomness.image_keys`. Nothing is dropped, and no keys are needed, in evaluation mode or with p = 0.

    Raises ValueError when training without one key an image, or for p outside [0, 1).
    """

    def __init__(self, p: float, name: str) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"the dropout probability must be in [0, 1), got {p}")
        self.p, self.name = p, name

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if keys is None or keys.shape != x.shape[:1]:
            found = "none" if keys is None else f"keys of shape {tuple(keys.shape)}"
            raise ValueError(f"dropout in training needs a key for each of {x.shape[0]} images, got {found}")
        keep = _keep(keys, self.name, x.shape[1:], self.p)
        return torch.where(keep, x / (1.0 - self.p), torch.zeros_like(x))

    def extra_repr(self) -> str:
        return f"p={self.p}, name={self.name!r}"
