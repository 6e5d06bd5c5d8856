"""Convolutions that halve or double the side of an image.

The mean pool that follows a convolution in the critics of WGAN-GP (Gulrajani et al. 2017) is folded into it:
the mean of four neighbouring outputs of a k x k convolution is one output of a (k+1) x (k+1) convolution with
stride 2. Exact, about half of the multiplications for k = 3, and it avoids the zero-filled double backward of
average pooling.

The nearest-neighbour upsampling that precedes a convolution in the generators is folded into it in the same way: of the
pixels that a k x k convolution sees, (k+1)/2 x (k+1)/2 are different ones, and the whole is a (k+1) x (k+1) transposed
convolution with stride 2. Exact, 4/9 of the multiplications for k = 3.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FOLDED_SIDE = 8
"""Side of the smallest maps whose upsampling is folded: on smaller ones the larger weights cost more than is saved."""


def fold_mean_pool(weight: Tensor) -> Tensor:
    """The weight [O, I, k+1, k+1] of the stride-2 convolution that equals a convolution with `weight` [O, I,
    k, k] followed by the mean over 2 x 2 pixels: the average of the four one-pixel shifts. Linear,
    differentiable."""
    padded = F.pad(weight, (1, 1, 1, 1))
    rows = padded[:, :, 1:] + padded[:, :, :-1]
    return (rows[..., 1:] + rows[..., :-1]) / 4


def unfold_mean_pool(gradient: Tensor) -> Tensor:
    """The gradient [O, I, k, k] by a weight, from that [O, I, k+1, k+1] by what `fold_mean_pool` makes of it: its
    adjoint."""
    rows = gradient[:, :, 1:] + gradient[:, :, :-1]
    return (rows[..., 1:] + rows[..., :-1]) / 4


class PooledConv2d(nn.Conv2d):
    """Convolution (stride 1, odd `kernel`, same padding), then mean pool over 2 x 2: [N, I, H, W] to
    [N, O, H/2, W/2] for even H and W. With kernel 1 this is also a mean pool followed by the convolution.

    Parameters and checkpoint names are those of the plain convolution: weight [O, I, k, k], bias [O].
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, fold_mean_pool(self.weight), self.bias, stride=2, padding=self.padding)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1 x 1 convolution of [N, I, H, W] by `weight` [O, I, 1, 1] as a matrix product over pixels, whose maps lie
    together in channels_last: libraries are slow at convolutions to three maps, most of all at their weight's
    gradient."""
    return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def upsample(x: Tensor) -> Tensor:
    """[N, C, H, W] to [N, C, 2H, 2W], each pixel repeated (nearest neighbour)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def fold_upsampling(weight: Tensor) -> Tensor:
    """The weight [I, O, k+1, k+1] of the stride-2 transposed convolution that equals nearest-neighbour upsampling by 2
    followed by a convolution with `weight` [O, I, k, k]: the sum of the four one-pixel shifts, turned by half a turn.
    Linear, differentiable."""
    rows = _shifts_added(weight.permute(2, 3, 1, 0), 0)  # channels last: additions of whole planes
    return _shifts_added(rows, 1).permute(2, 3, 0, 1)


def _shifts_added(weight: Tensor, axis: int) -> Tensor:
    taps = weight.unbind(axis)
    pairs = [one + next_one for one, next_one in pairwise(taps)]
    return torch.stack([taps[-1], *reversed(pairs), taps[0]], axis)


class UpsampledConv2d(nn.Conv2d):
    """Nearest-neighbour upsampling by 2, then a convolution (stride 1, odd `kernel`, same padding): [N, I, H,
    W] to [N, O, 2H, 2W].

    Parameters and checkpoint names are those of the plain convolution: weight [O, I, k, k], bias [O]. A 1 x 1
    convolution commutes with the upsampling and is done first, on a quarter of the pixels. Others are folded on maps of
    FOLDED_SIDE or more.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel_size == (1, 1):
            return upsample(super().forward(x))
        if min(x.shape[2:]) < FOLDED_SIDE:
            return super().forward(upsample(x))
        return F.conv_transpose2d(x, fold_upsampling(self.weight), self.bias, stride=2, padding=self.padding)
