"""Halving and doubling the side of an image without aliasing: a low-pass filter where pixels are left out or put in.

The filter is [1, 3, 3, 1] along each axis, as in StyleGAN2 (Karras et al. 2020; after Zhang 2019): three means over two
neighbours. Around the image there are zeros, which the filter takes in: at a border maps fade to 7/8 (stride 2) or
a half (stride 1, whose first pixel lies half outside), as theirs do.

It is not folded into the convolution beside it, as a mean pool is in `resampling.py`: a 3 x 3 convolution of stride 2
would become one of 6 x 6, with four times the multiplications, while the filter alone costs 16 a value, whatever the
number of maps. Where the convolution is pointwise the filter goes first, and makes only the pixels that are kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.networks.equalised import EqualisedConv2d
from distgan.networks.precision import as_given

TAPS = (1.0, 3.0, 3.0, 1.0)


def _filter(maps: int, gain: float = 1.0) -> Tensor:
    """[maps, 1, 4, 4], a depthwise convolution; its sum is `gain`."""
    taps = torch.tensor(TAPS) / sum(TAPS)
    return (gain * taps[:, None] * taps).repeat(maps, 1, 1, 1)


class Blur(nn.Module):
    """[N, maps, H, W] filtered. With `stride` 1 [N, maps, H + 1, W + 1], for a 3 x 3 convolution of stride 2 without
    padding; with 2, every second pixel of that: [N, maps, H/2, W/2], centred on 2 x 2 pixels."""

    def __init__(self, maps: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("filter", _filter(maps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # which, differentiating twice, would leave `_Filtered` out without a word
            return _mean(x, self.stride)
        return _Filtered.apply(x, self.filter, self.stride)


def filtered(x: Tensor, kernels: Tensor, stride: int) -> Tensor:
    """What `Blur` makes of `x`, with its `filter`; in the dtype of `x`."""
    with as_given(x):
        return F.conv2d(x, kernels.to(x.dtype), stride=stride, padding=3 - stride, groups=len(kernels))


def spread(gradient: Tensor, kernels: Tensor, stride: int) -> Tensor:
    """The gradient by the input of `filtered`, from that by its output: its adjoint."""
    with as_given(gradient):
        kernels = kernels.to(gradient.dtype)
        return F.conv_transpose2d(gradient, kernels, stride=stride, padding=3 - stride, groups=len(kernels))


def _mean(x: Tensor, stride: int) -> Tensor:
    """`filtered` by three means over 2 x 2 pixels, which a compiler fuses."""
    for padding in (1, 2 - stride):
        x = F.avg_pool2d(x, 2, stride=1, padding=padding)
    return F.avg_pool2d(x, 2, stride=stride)


class _Filtered(torch.autograd.Function):
    """`filtered`, whose derivatives of any order are `spread` and itself. Torch's double backward of a depthwise
    convolution has a convolution for each map, for the gradient of a weight that has none."""

    @staticmethod
    def forward(x: Tensor, kernels: Tensor, stride: int) -> Tensor:
        return filtered(x, kernels, stride)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        _, ctx.kernels, ctx.stride = inputs

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _Spread.apply(gradient, ctx.kernels, ctx.stride), None, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(gradient: Tensor, kernels: Tensor, stride: int) -> Tensor:
        return spread(gradient, kernels, stride)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        _, ctx.kernels, ctx.stride = inputs

    @staticmethod
    def backward(ctx, u: Tensor) -> tuple[Tensor | None, ...]:
        return _Filtered.apply(u, ctx.kernels, ctx.stride), None, None


class BlurredUpConv2d(EqualisedConv2d):
    """Zeros between the pixels, an equalised 3 x 3 convolution, its weight turned by half a turn, then the filter with
    gain 4: [N, I, H, W] to [N, O, 2H, 2W]. For generators: differentiated twice it is slow."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)
        self.register_buffer("filter", _filter(outputs, gain=4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        turned = (self.weight * self.scale).transpose(0, 1)
        between = F.conv_transpose2d(x, turned, stride=2)
        return F.conv2d(between, self.filter.to(between.dtype), self.bias, padding=1, groups=len(self.filter))


def enlarged_smoothly(images: Tensor) -> Tensor:
    """[N, C, H, W] to [N, C, 2H, 2W] by the same filter with gain 4, border pixels repeated outside (bilinear)."""
    return F.interpolate(images, scale_factor=2.0, mode="bilinear", align_corners=False)
