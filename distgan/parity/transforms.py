"""What augmentation must do to pictures: the paper's matrices, picture after picture, in float64 (Karras et al. 2020,
"Training generative adversarial networks with limited data", appendix B).

It shares nothing with `distgan.augmentation` but the draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distgan import randomness


def augmented(pictures: Tensor, keys: Tensor, role: str, *, classes: Sequence[str], strength: float) -> Tensor:
    """Pictures [N, C, S, S] as the critic is to see them; `keys` [N], `role` "real" or "fake"."""
    subkeys = randomness.subkeys(keys, f"augment {role}")
    return torch.stack(
        [_one(picture, _Chance(key[None], strength), classes) for picture, key in zip(pictures, subkeys, strict=True)]
    )


class _Chance:
    """The draws of one picture."""

    def __init__(self, key: Tensor, strength: float) -> None:
        self._key, self._strength = key, torch.tensor(strength, dtype=torch.float32, device=key.device)

    def happens(self, name: str, share: Tensor | None = None) -> bool:
        return bool(randomness.uniform(self._key, f"{name}?") < (self._strength if share is None else share))

    def is_turned(self, name: str) -> bool:
        return self.happens(name, 1 - (1 - self._strength).sqrt())

    def unit(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform on [0, 1), float64."""
        return randomness.uniform(self._key, name, shape, torch.float64)[0]

    def normal(self, name: str, shape: tuple[int, ...] = ()) -> Tensor:
        return randomness.normal(self._key, name, shape, torch.float64)[0]

    def angle(self, name: str) -> Tensor:
        return (2 * self.unit(name) - 1) * math.pi


def _one(picture: Tensor, chance: _Chance, classes: Sequence[str]) -> Tensor:
    for name, change in (("blit", _blitted), ("geometry", _deformed), ("colour", _tinted)):
        picture = change(picture, chance) if name in classes else picture
    return picture


def _at(picture: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels at whole places, also outside, where the picture goes on as its reflection."""
    side = picture.shape[-1]
    rows, columns = (torch.where(i % (2 * side) < side, i % side, side - 1 - i % side) for i in (rows, columns))
    return picture[:, rows, columns]


def _places(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every pixel, [S, S] each."""
    counted = torch.arange(picture.shape[-1], device=picture.device)
    return torch.meshgrid(counted, counted, indexing="ij")


def _blitted(picture: Tensor, chance: _Chance) -> Tensor:
    side = picture.shape[-1]
    if chance.happens("mirror") and chance.unit("mirror") >= 0.5:
        picture = picture[:, :, torch.arange(side - 1, -1, -1, device=picture.device)]
    if chance.happens("quarter turns"):
        picture = torch.rot90(picture, int(4 * chance.unit("quarter turns")), (1, 2))
    if chance.happens("shift"):
        right, down = ((2 * chance.unit("shift", (2,)) - 1) / 8 * side).round().long()
        rows, columns = _places(picture)
        picture = _at(picture, rows - down, columns - right)
    return picture


def _plane(rows: list[list[float | Tensor]], like: Tensor) -> Tensor:
    return torch.tensor([[float(entry) for entry in row] for row in rows], dtype=like.dtype, device=like.device)


def _rotation(angle: Tensor, like: Tensor) -> Tensor:
    cos, sin = torch.cos(angle), torch.sin(angle)
    return _plane([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], like)


def _scaling(x: Tensor, y: Tensor, like: Tensor) -> Tensor:
    return _plane([[x, 0, 0], [0, y, 0], [0, 0, 1]], like)


def _deformed(picture: Tensor, chance: _Chance) -> Tensor:
    side = picture.shape[-1]
    steps = []
    if chance.happens("scale"):
        scale = 2 ** (0.2 * chance.normal("scale"))
        steps.append(_scaling(scale, scale, picture))
    if chance.is_turned("turn before"):
        steps.append(_rotation(chance.angle("turn before"), picture))
    if chance.happens("stretch"):
        stretch = 2 ** (0.2 * chance.normal("stretch"))
        steps.append(_scaling(stretch, 1 / stretch, picture))
    if chance.is_turned("turn after"):
        steps.append(_rotation(chance.angle("turn after"), picture))
    if chance.happens("fractional shift"):
        right, down = side * 0.125 * chance.normal("fractional shift", (2,))
        steps.append(_plane([[1, 0, right], [0, 1, down], [0, 0, 1]], picture))
    if not steps:
        return picture
    forward = torch.eye(3, dtype=picture.dtype, device=picture.device)
    for step in steps:
        forward = step @ forward
    rows, columns = _places(picture)
    middle = (side - 1) / 2
    there = torch.stack([columns - middle, rows - middle, torch.ones_like(rows)]).to(picture.dtype)
    x, y, _ = torch.einsum("ij,jrc->irc", torch.linalg.inv(forward), there) + middle
    return _between(picture, y, x)


def _between(picture: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Interpolated between the four pixels around each place."""
    top, left = y.floor(), x.floor()
    down, right = y - top, x - left
    rows, columns = top.long(), left.long()
    above = (1 - right) * _at(picture, rows, columns) + right * _at(picture, rows, columns + 1)
    below = (1 - right) * _at(picture, rows + 1, columns) + right * _at(picture, rows + 1, columns + 1)
    return (1 - down) * above + down * below


def _tinted(picture: Tensor, chance: _Chance) -> Tensor:
    """x -> S R L (c (x + b)), with v = (1, 1, 1) / sqrt(3) the grey axis."""
    one = torch.eye(3, dtype=picture.dtype, device=picture.device)
    grey = torch.full_like(one, 1 / 3)
    colours = picture.expand(3, *picture.shape[1:])
    if chance.happens("brightness"):
        colours = colours + 0.2 * chance.normal("brightness")
    if chance.happens("contrast"):
        colours = colours * 2 ** (0.5 * chance.normal("contrast"))
    matrix = one
    if chance.happens("luma") and chance.unit("luma") >= 0.5:
        matrix = (one - 2 * grey) @ matrix
    if chance.happens("hue"):
        cross = _plane([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], picture) / math.sqrt(3)
        angle = chance.angle("hue")
        matrix = (one + angle.sin() * cross + (1 - angle.cos()) * cross @ cross) @ matrix  # Rodrigues
    if chance.happens("saturation"):
        matrix = (grey + (one - grey) * 2 ** chance.normal("saturation")) @ matrix
    return torch.einsum("ij,jrc->irc", matrix, colours)[: len(picture)]
