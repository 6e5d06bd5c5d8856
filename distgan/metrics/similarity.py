"""MS-SSIM, the multi-scale structural similarity of two pictures (Wang, Simoncelli and Bovik 2003, "Multi-scale
structural similarity for image quality assessment"), as Progressive GAN measures the variety of generated pictures
with it (Karras et al. 2018): the mean over pairs of them is high where they are all alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, the finest first; as in the paper, and in the public code, where they are not made to sum to 1."""
_WINDOW, _SIGMA = 11, 1.5
"""Of the Gaussian window, in px."""
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
"""(K1 L)^2 and (K2 L)^2 of pictures of L = 255."""
SMALLEST = 2 ** (len(_WEIGHTS) - 1)
"""Side in px below which the coarsest scale has no pixel."""
_PIXELS_AT_ONCE = 2**20


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """The similarity float64 [n] of each pair of pictures a, b, uint8 [n, C, H, W]; 1 where they are the same, else
    less, and 0 or more.

    Channels are compared one by one, and the mean is over pixels and channels alike. A window of 11 px with sigma 1.5
    is laid where it fits whole; in a picture of less than 11 px it has the picture's shorter side, and sigma is
    smaller in proportion. Each next scale has the means of 2 x 2 px, without the last row or column of an odd side.

    Raises ValueError where the shapes differ or a side is shorter than `SMALLEST`.
    """
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"pictures [n, C, H, W] of the same shape are compared, not {list(a.shape)}, {list(b.shape)}")
    if min(a.shape[2:]) < SMALLEST:
        raise ValueError(f"MS-SSIM takes pictures of {SMALLEST} px a side or more, not {a.shape[2]} x {a.shape[3]}")
    rows = max(1, _PIXELS_AT_ONCE // a[:1].numel())
    pairs = zip(a.split(rows), b.split(rows), strict=True)
    return torch.cat([_of_block(x.to(torch.float64), y.to(torch.float64)) for x, y in pairs])


def _of_block(a: Tensor, b: Tensor) -> Tensor:
    product = torch.ones(len(a), dtype=torch.float64, device=a.device)
    for scale, weight in enumerate(_WEIGHTS):
        last = scale == len(_WEIGHTS) - 1
        product *= _mean_similarity(a, b, luminance=last).clamp(min=0) ** weight
        if not last:
            a, b = functional.avg_pool2d(a, 2), functional.avg_pool2d(b, 2)
    return product


def _mean_similarity(a: Tensor, b: Tensor, *, luminance: bool) -> Tensor:
    """[n], the mean over each picture of contrast times structure (eq. 2 and 3), or with luminance (eq. 1) too."""
    window = _window(min(_WINDOW, *a.shape[2:]), a)
    mean_a, mean_b = _blur(a, window), _blur(b, window)
    both = mean_a * mean_b
    squares = mean_a.square() + mean_b.square()
    covariance = _blur(a * b, window) - both
    variances = _blur(a.square() + b.square(), window) - squares
    similarity = (2 * covariance + _C2) / (variances + _C2)
    if luminance:
        similarity *= (2 * both + _C1) / (squares + _C1)
    return similarity.mean((1, 2, 3))


def _window(size: int, like: Tensor) -> Tensor:
    """The Gaussian window [size] in one direction; it sums to 1."""
    places = torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
    weights = torch.exp(-0.5 * (places / (_SIGMA * size / _WINDOW)).square())
    return weights / weights.sum()


def _blur(pictures: Tensor, window: Tensor) -> Tensor:
    """The windowed means of pictures [n, C, H, W] where the window fits whole: [n, C, H - size + 1, W - size + 1]."""
    down, right = (_places(side, window) for side in pictures.shape[2:])
    return down @ pictures @ right.T


def _places(side: int, window: Tensor) -> Tensor:
    """[side - size + 1, side]: in each row the window, one px further than in the row above."""
    rows = torch.arange(side - len(window) + 1, device=window.device)[:, None]
    found = window.new_zeros(len(rows), side)
    return found.scatter_(1, rows + torch.arange(len(window), device=window.device), window.expand(len(rows), -1))
