"""What is random about the augmentation of a picture."""

from __future__ import annotations

import torch
from torch import Tensor

from distgan import randomness


class Draws:
    """Functions of image keys [N], of a role ("real" or "fake") and of the name of what is drawn."""

    def __init__(self, keys: Tensor, role: str, strength: Tensor, dtype: torch.dtype) -> None:
        """`strength`: the probability of each transformation, a scalar tensor in [0, 1]; `dtype`: of the numbers."""
        self._keys = randomness.subkeys(keys, f"augment {role}")
        self._strength, self._dtype = strength, dtype

    def happens(self, name: str) -> Tensor:
        """With the probability `strength`: bool [N]."""
        return randomness.uniform(self._keys, f"{name}?") < self._strength

    def happens_before_or_after(self, name: str) -> Tensor:
        """Two of these, of which one or both happen with the probability `strength`: bool [N]."""
        return randomness.uniform(self._keys, f"{name}?") < 1 - (1 - self._strength).sqrt()

    def uniform(self, name: str, low: float, high: float, shape: tuple[int, ...] = ()) -> Tensor:
        """[N, *shape]."""
        return low + (high - low) * randomness.uniform(self._keys, name, shape, self._dtype)

    def normal(self, name: str, deviation: float, shape: tuple[int, ...] = ()) -> Tensor:
        """[N, *shape], around zero."""
        return deviation * randomness.normal(self._keys, name, shape, self._dtype)

    def choice(self, name: str, count: int) -> Tensor:
        """One of 0 .. count - 1, int64 [N]."""
        return (randomness.uniform(self._keys, name) * count).long()
