"""What a seed means: a latent that is a function of it alone, truncated or not, and the way from one to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distgan import randomness

_PARALLEL = 1e-9
"""Sine of an angle at which two latents have no great circle of their own between them."""


def latents(seeds: Sequence[int], dimension: int, truncation: float | None = None) -> Tensor:
    """Latents of seeds, float64 [N, dimension]: each a function of its seed.

    `truncation` is the threshold of BigGAN's truncation trick (Brock et al. 2019, section 3.1): normals that are not
    beyond so many standard deviations. Theirs are drawn again until they are; here each is the same quantile of the
    truncated normal as it was of the whole one, so that a latent moves smoothly as the threshold does.
    """
    keys = randomness.image_keys(randomness.key("sample"), torch.tensor(list(seeds), dtype=torch.int64))
    drawn = randomness.normal(keys, "latent", (dimension,), torch.float64)
    if truncation is None:
        return drawn
    # The quantile of x is 1/2 + erf(x / sqrt 2) / 2, and of the truncated normal the same with erf over its largest.
    largest = math.erf(truncation / math.sqrt(2))
    return math.sqrt(2) * torch.erfinv(torch.erf(drawn / math.sqrt(2)) * largest)


def on_way(keyframes: Tensor, frames: int, number: int) -> Tensor:
    """The latent of frame `number`, float64 [D], where `frames` frames lead from each of `keyframes` [K, D] to the next
    and from the last back to the first. The keyframes themselves are among them, to the bit."""
    which, place = divmod(number, frames)
    share = torch.tensor([place / frames], dtype=torch.float64)
    return slerp(keyframes[which], keyframes[(which + 1) % len(keyframes)], share)[0]


def slerp(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985; of latents: White 2016) from `start` [D] to `end` [D]: at each share of
    the way the direction has turned by that share of the angle between them, and the length has changed by that share;
    [n, D]. Share 0 is `start` itself."""
    lengths = start.norm(), end.norm()
    directions = start / lengths[0], end / lengths[1]
    angle = torch.acos((directions[0] @ directions[1]).clamp(-1, 1))
    shares = shares[:, None]
    if angle.sin() < _PARALLEL:
        turned = torch.lerp(*directions, shares)
    else:
        turned = ((1 - shares) * angle).sin() * directions[0] + (shares * angle).sin() * directions[1]
        turned = turned / angle.sin()
    between = turned * torch.lerp(*lengths, shares)
    return torch.where(shares == 0, start, between)
