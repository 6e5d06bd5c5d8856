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
from einops import rearrange
from torch import Tensor, nn

from distgan.networks.equalised import EqualisedConv2d
from distgan.networks.precision import as_given

TAPS = (1.0, 3.0, 3.0, 1.0)

_MANY = 2**21
"""Values from which on CUDA four shifted copies are added: cuDNN takes 1.3 to 4 times as long for a depthwise
convolution in channels_last (bf16, H200, torch 2.11; docs/log.md); for few values launching takes the time."""


def _filter(maps: int) -> Tensor:
    """[maps, 1, 4, 4], a depthwise convolution; its sum is 1."""
    taps = torch.tensor(TAPS) / sum(TAPS)
    return (taps[:, None] * taps).repeat(maps, 1, 1, 1)


class Blur(nn.Module):
    """[N, maps, H, W] filtered. With `stride` 1 [N, maps, H + 1, W + 1], for a 3 x 3 convolution of stride 2 without
    padding; with 2, every second pixel of that: [N, maps, H/2, W/2], centred on 2 x 2 pixels."""

    def __init__(self, maps: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("filter", _filter(maps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return _blurred(x, self.filter, self.stride, 3 - self.stride)


def _blurred(x: Tensor, kernels: Tensor, stride: int, padding: int) -> Tensor:
    if torch.compiler.is_compiling():  # which, differentiating twice, would leave `_Filtered` out without a word
        return _mean(x, stride, padding)
    return _Filtered.apply(x, kernels, stride, padding)


def filtered(x: Tensor, kernels: Tensor, stride: int, padding: int | None = None) -> Tensor:
    """What `Blur` makes of `x`, with its `filter`; in the dtype of `x`. Around the image are `padding` zeros (those of
    `Blur`)."""
    padding = 3 - stride if padding is None else padding
    if x.is_cuda and (torch.compiler.is_compiling() or x.numel() >= _MANY):
        return shifted_and_added(x, stride, padding)
    with as_given(x):
        return F.conv2d(x, kernels.to(x.dtype), stride=stride, padding=padding, groups=len(kernels))


def spread(gradient: Tensor, kernels: Tensor, stride: int, padding: int | None = None) -> Tensor:
    """The gradient by the input of `filtered`, from that by its output: its adjoint."""
    padding = 3 - stride if padding is None else padding
    with as_given(gradient):
        kernels = kernels.to(gradient.dtype)
        return F.conv_transpose2d(gradient, kernels, stride=stride, padding=padding, groups=len(kernels))


def shifted_and_added(x: Tensor, stride: int, padding: int) -> Tensor:
    """`filtered` by sums of four shifted copies, along one axis after the other."""
    x = F.pad(x, (padding,) * 4)
    for axis in (2, 3):
        kept = range(0, x.shape[axis] - 3, stride)
        index = (slice(None),) * axis
        first, second, third, fourth = (x[(*index, slice(i, i + kept[-1] + 1, stride))] for i in range(4))
        x = torch.lerp(first + fourth, second + third, 0.75) / 2  # no sum of eight: float16 ends at 65504
    return x


def _mean(x: Tensor, stride: int, padding: int) -> Tensor:
    """`filtered` by three means over 2 x 2 pixels, which a compiler fuses."""
    for zeros in (1, padding - 1):
        x = F.avg_pool2d(x, 2, stride=1, padding=zeros)
    return F.avg_pool2d(x, 2, stride=stride)


class _Filtered(torch.autograd.Function):
    """`filtered`, whose derivatives of any order are `spread` and itself. Torch's double backward of a depthwise
    convolution has a convolution for each map, for the gradient of a weight that has none."""

    @staticmethod
    def forward(x: Tensor, kernels: Tensor, stride: int, padding: int) -> Tensor:
        return filtered(x, kernels, stride, padding)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.how = inputs[1:]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _Spread.apply(gradient, *ctx.how), None, None, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(gradient: Tensor, kernels: Tensor, stride: int, padding: int) -> Tensor:
        return spread(gradient, kernels, stride, padding)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.how = inputs[1:]

    @staticmethod
    def backward(ctx, u: Tensor) -> tuple[Tensor | None, ...]:
        return _Filtered.apply(u, *ctx.how), None, None, None


class BlurredUpConv2d(EqualisedConv2d):
    """Zeros between the pixels, an equalised 3 x 3 convolution, its weight turned by half a turn, then the filter with
    gain 4: [N, I, H, W] to [N, O, 2H, 2W]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)
        self.register_buffer("filter", _filter(outputs), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        turned = (self.weight * (4 * self.scale)).transpose(0, 1)  # the filter's gain
        blurred = _blurred(F.conv_transpose2d(x, turned, stride=2), self.filter, 1, padding=1)
        return blurred + rearrange(self.bias, "c -> c 1 1").to(blurred.dtype)


def enlarged_smoothly(images: Tensor) -> Tensor:
    """[N, C, H, W] to [N, C, 2H, 2W] by the same filter with gain 4, border pixels repeated outside (bilinear)."""
    return F.interpolate(images, scale_factor=2.0, mode="bilinear", align_corners=False)
