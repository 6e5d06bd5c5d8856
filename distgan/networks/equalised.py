"""Layers with an equalised learning rate (Karras et al. 2018, "Progressive Growing of GANs", section 4.1).

Weights start from N(0, 1) and are multiplied by gain / sqrt(fan in) in every forward (He et al. 2015), biases start at
0. The function is that of a usual layer with He's initial weights; an optimiser that divides by the size of the
gradient, as Adam does, so moves all layers at the same relative speed.

Parameters and checkpoint names are those of the plain layers: weight, bias. The resampling layers fold as
`resampling.py` does, after the multiplication.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from distgan.networks.conditioning import Score
from distgan.networks.resampling import FOLDED_SIDE, fold_mean_pool, fold_upsampling, upsample

GAIN = math.sqrt(2.0)
"""Of a layer that a ReLU, or nearly one, follows; 1 where nothing does."""


class EqualisedConv2d(nn.Conv2d):
    """Convolution with an equalised learning rate: [N, I, H, W] to [N, O, H', W']; of the same side unless `stride` or
    `padding` say otherwise (odd `kernel`)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        gain: float = GAIN,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        padding = kernel // 2 if padding is None else padding
        super().__init__(inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=bias)
        self.scale = gain / math.sqrt(inputs // groups * kernel**2)

    def reset_parameters(self) -> None:
        _start(self)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.scale, self.bias)


class EqualisedPooledConv2d(EqualisedConv2d):
    """Equalised convolution (stride 1, odd `kernel`, same padding), then mean pool over 2 x 2: [N, I, H, W] to
    [N, O, H/2, W/2] for even H and W, folded into one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, fold_mean_pool(self.weight * self.scale), self.bias, stride=2, padding=self.padding)


class EqualisedUpsampledConv2d(EqualisedConv2d):
    """Nearest-neighbour upsampling by 2, then an equalised convolution (stride 1, odd `kernel`, same padding):
    [N, I, H, W] to [N, O, 2H, 2W], folded into one on maps of FOLDED_SIDE or more."""

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) < FOLDED_SIDE:
            return super().forward(upsample(x))
        folded = fold_upsampling(self.weight * self.scale)
        return F.conv_transpose2d(x, folded, self.bias, stride=2, padding=self.padding)


class EqualisedLinear(nn.Linear):
    """Linear layer with an equalised learning rate: [N, I] to [N, O]."""

    def __init__(self, inputs: int, outputs: int, gain: float = GAIN, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.scale = gain / math.sqrt(inputs)

    def reset_parameters(self) -> None:
        _start(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


class EqualisedScore(Score):
    """`Score` with an equalised learning rate, its gain 1: features [N, F] to scores [N]."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.scale = 1 / math.sqrt(features)
        _start(self.linear)

    def direction(self, labels: Tensor | None) -> Tensor:
        return super().direction(labels) * self.scale


def _start(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.normal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
