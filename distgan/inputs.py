"""What an update works on, for one process: pictures, and all that is random about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class Noise(NamedTuple):
    """What is random about the images of one update of one process, or of several updates one after the other."""

    keys: Tensor
    """Image keys int64 [n], of which all else is a function."""
    latent: Tensor | None
    """[n, latent]; None where an update is made in several micro-batches, each of which draws its own."""
    mirrored: Tensor | None
    """Whether a real picture is, bool [n]; None where none is."""

    def split(self, size: int) -> list[Noise]:
        """Of each update of `size` images."""
        parts = [[None] * (len(self.keys) // size) if part is None else part.split(size) for part in self]
        return [Noise(*each) for each in zip(*parts, strict=True)]


class Inputs(NamedTuple):
    """What one update of one process works on; row i is one position of the global batch."""

    real: Tensor
    """Pictures [n, C, H, W] in [-1, 1]."""
    labels: Tensor | None
    """int64 [n], or None without classes."""
    keys: Tensor
    """Image keys int64 [n]: all that is random about an image follows from its key."""
    latent: Tensor | None = None
    """[n, latent], or None where they are still to be drawn by the keys."""

    def seen(self) -> dict[str, Tensor | None]:
        """What both objectives take of it."""
        return {"real": self.real, "labels": self.labels, "keys": self.keys}

    def split(self, size: int) -> Iterator[Inputs]:
        """Micro-batches of at most `size` images."""
        for start in range(0, len(self.keys), size):
            yield Inputs(*(None if part is None else part[start : start + size] for part in self))
