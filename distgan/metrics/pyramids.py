"""The sliced Wasserstein distance of patches on the Laplacian pyramid (Karras et al. 2018, "Progressive growing of GANs
for improved quality, stability, and variation", section 5): how far the local structure of two sets of pictures is
apart, at each scale. It needs no network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from distgan.randomness import image_keys, key, normal, uniform

DIRECTIONS = 512
"""Directions of one distance: 4 repeats of 128 in the paper's code, and the mean over them is that over all."""
PATCHES = 128
"""Of each picture, at each level."""
SIDE = 7
"""Of a patch, in px."""
COARSEST = 16
"""Shortest side of a level, in px."""
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_PICTURE_BYTES = 16 * 10**6
"""Of the pictures whose pyramids are made at once, as float64."""
_PROJECTION_BYTES = 128 * 10**6
"""Of the projections of one set that are held at once."""
_ROWS = 2**12
"""Patches that are normalised and projected at once."""


def level_sides(side: int) -> list[int]:
    """The sides in px of the levels of pictures of `side` px, the finest first: each half the one before, rounded up,
    down to the last of 16 or more. One level, the picture itself, where half of it would be less."""
    sides = [side]
    while (half := (sides[-1] + 1) // 2) >= COARSEST:
        sides.append(half)
    return sides


def descriptors(pixels: Tensor, keys: Tensor) -> list[Tensor]:
    """The patches of pictures, uint8 [n, C, H, W]: for each level of `level_sides(min(H, W))`, float32
    [n, 128, C * 49] in the unit of the pixels, not normalised.

    Where the patches are taken is a function of each picture's key (int64 [n], of `randomness.image_keys`) and of the
    level; a picture has the same patches, bit for bit, whatever others are beside it. The finest levels hold what the
    next coarser one lacks, the coarsest the blurred picture.

    Raises ValueError where a side is shorter than a patch, or where there is not one key a picture.
    """
    if pixels.ndim != 4 or min(pixels.shape[2:]) < SIDE:
        raise ValueError(f"pictures [n, C, H, W] of {SIDE} px a side or more are taken, not {list(pixels.shape)}")
    if keys.shape != pixels.shape[:1]:
        raise ValueError(f"{len(pixels)} pictures take {len(pixels)} keys, not {list(keys.shape)}")
    rows = max(1, _PICTURE_BYTES // (8 * pixels[:1].numel()))
    blocks = zip(pixels.split(rows), keys.split(rows), strict=True)
    parts = [
        [_patches(level, some, f"patches {number}") for number, level in enumerate(laplacian_pyramid(block))]
        for block, some in blocks
    ]
    return [torch.cat(level) for level in zip(*parts, strict=True)]


def laplacian_pyramid(pictures: Tensor) -> list[Tensor]:
    """The levels of pictures [n, C, H, W], float32, the finest first (Burt and Adelson 1983), by the binomial filter of
    5 x 5 px with mirrored borders, as cv2.pyrDown and cv2.pyrUp have it; a side that is odd is halved upwards.

    The products are float64, in which those of 8 bits are exact for four halvings: no bit depends on other pictures."""
    levels, coarse = [], pictures.to(torch.float64)
    for _ in level_sides(min(pictures.shape[2:]))[1:]:
        fine = coarse
        down, right = (_filter(side).to(fine.device) for side in fine.shape[2:])
        coarse = down[::2] @ fine @ right[::2].T
        levels.append(fine - 4 * (down[:, ::2] @ coarse @ right[:, ::2].T))
    return [level.float() for level in [*levels, coarse]]


def _filter(side: int) -> Tensor:
    """float64 [side, side], which filters a line of `side` px. Every second row of it, from the first, halves one;
    every second column, twice, enlarges one with zeros between."""
    places = functional.pad(torch.arange(side, dtype=torch.float64)[None], (2, 2), mode="reflect")[0].long()
    lines = torch.eye(side, dtype=torch.float64)[places]
    return sum(weight * lines[i : i + side] for i, weight in enumerate(_BINOMIAL))


def _patches(level: Tensor, keys: Tensor, purpose: str) -> Tensor:
    """[n, 128, C * 49] of a level [n, C, H, W]: every place where a patch fits whole is as likely."""
    places = level.unfold(2, SIDE, 1).unfold(3, SIDE, 1)
    draws = uniform(keys, purpose, (PATCHES, 2), torch.float64)
    down, right = ((draws[..., i] * places.shape[2 + i]).long() for i in range(2))
    pictures = torch.arange(len(level), device=level.device)[:, None]
    return places[pictures, :, down, right].flatten(2)


def sliced_wasserstein(a: Tensor, b: Tensor, channels: int, directions: range, seed: int) -> Tensor:
    """1000 times the Wasserstein distance of patches a, b, float32 [N, P, K], projected onto each of `directions`:
    float64 [len(directions)]. The mean over range(DIRECTIONS) is the distance of a level (x 1e3, as the paper has it),
    and the mean over the levels is the SWD.

    Each set is first normalised by its own mean and standard deviation in each of the `channels`, over all patches and
    pixels, as in the paper's code: what remains is structure, not brightness and contrast. A channel without any
    contrast is 0. A direction is a function of (seed, number) alone, so that processes may share out the numbers; the
    distance is exact along it (the mean difference of the sorted projections), but for rounding to float32.

    Raises ValueError where the shapes differ: take as many pictures of the one as of the other.
    """
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"patches [N, P, K] of as many pictures are compared, not {list(a.shape)}, {list(b.shape)}")
    vectors = _directions(directions, a.shape[2], seed).to(a.device)
    a, b = (x.flatten(0, 1) for x in (a, b))
    moments = _moments(a, channels), _moments(b, channels)
    few = max(1, _PROJECTION_BYTES // (4 * len(a)))
    found = []
    for some in vectors.split(few):
        x, y = (_sorted(_projections(set_, *own, some)) for set_, own in zip((a, b), moments, strict=True))
        found.append(x.sub_(y).abs_().mean(1, dtype=torch.float64))
    return 1e3 * torch.cat(found)


def _directions(numbers: range, size: int, seed: int) -> Tensor:
    """Vectors [len(numbers), size] of length 1, uniform on the sphere: drawn on the CPU, the same for every device."""
    keys = image_keys(key(seed, "sliced wasserstein"), torch.tensor(numbers, dtype=torch.int64))
    return functional.normalize(normal(keys, "direction", (size,), torch.float64), dim=1)


def _moments(patches: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """(means, factors), float64 [K] both: what is taken from each component, and what it is then multiplied by."""
    total, squares = (torch.zeros(patches.shape[1], dtype=torch.float64, device=patches.device) for _ in range(2))
    for block in patches.split(_ROWS):
        wide = block.to(torch.float64)
        total += wide.sum(0)
        squares += wide.square().sum(0)
    mean, square = (x.view(channels, -1).mean(1) / len(patches) for x in (total, squares))
    variance = square - mean.square()
    factor = torch.where(variance > 1e-12 * square, variance.rsqrt(), 0)  # else it is rounding
    pixels = patches.shape[1] // channels
    return mean.repeat_interleave(pixels), factor.repeat_interleave(pixels)


def _projections(patches: Tensor, mean: Tensor, factor: Tensor, directions: Tensor) -> Tensor:
    """float32 [D, M] of patches [M, K], normalised, onto directions [D, K]. The products are float64: neither TF32 nor
    autocast touches those, and once rounded they are the same for every device."""
    scaled = directions * factor
    found = patches.new_empty(len(directions), len(patches))
    for start in range(0, len(patches), _ROWS):
        block = patches[start : start + _ROWS].to(torch.float64)
        found[:, start : start + _ROWS] = scaled @ block.T - (scaled @ mean)[:, None]
    return found


def _sorted(values: Tensor) -> Tensor:
    """The rows of [D, M] sorted. On the CPU in place by numpy, which takes a tenth of the time: torch sorts the numbers
    of the places too."""
    if values.device.type != "cpu":
        return values.sort(1).values
    values.numpy().sort(axis=1)
    return values
