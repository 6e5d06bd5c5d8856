"""The networks of Progressive GAN (Karras et al. 2018, appendix A, table 2, and networks.py of the authors' public
code), for 8 to 1024 pixels.

With w, the most maps, 512 as in the paper, and N the side in the end:

| generator                        | maps x side |  | critic                               | maps x side     |
|----------------------------------|-------------|--|--------------------------------------|-----------------|
| 4 x 4 from the latent; 3 x 3     | 512 x 4     |  | 1 x 1 from colours                   | maps(N) x N     |
| twice the side; 3 x 3; 3 x 3     | 512 x 8     |  | at each side r from N to 8: 3 x 3;   | maps(r) x r     |
|   and so at each side r up to N: | maps(r) x r |  |   3 x 3 to the next, half the side   | maps(r/2) x r/2 |
| 1 x 1 to colours                 | C x N       |  | minibatch std; 3 x 3                 | 512 x 4         |
|                                  |             |  | 4 x 4                                | 512             |
|                                  |             |  | linear                               | 1               |

maps(r) is 512 up to 32 pixels, then halves at each side: 16 at 1024. Each 3 x 3 and 4 x 4 convolution is followed by a
LeakyReLU, in the generator also by a norm of each pixel over its maps, which the latent goes through first; so is the
critic's 1 x 1 by a LeakyReLU. All layers have an equalised learning rate; the generator's pictures are not bounded.

Every side has its 1 x 1 layers to and from colours. A network that grows uses those of its side of now and of the one
before, blended by `Growth`; one that does not, those of the full side alone. At 1024 pixels, with three channels and
latents of 512, what table 2 lists are 23,071,507 parameters of the generator and 23,077,137 of the critic; the 1 x 1
layers of the lower sides are 7,608 and 10,112 more, with which, too, it is 23.1 million each.

As in the code, and other than in the table, the critic halves the side before the LeakyReLU, so that mean and
convolution are one; and the generator's first layer has one bias for each map. Other than in both, the groups of
the minibatch statistic are consecutive images and its root is smooth (`MinibatchStd`), labels enter beside the
latent by a learned embedding (the code: one-hot) and in the score by projection (the code: a classifier's loss).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from distgan.networks.activations import LeakyReLU
from distgan.networks.choices import require
from distgan.networks.conditioning import LatentInput
from distgan.networks.equalised import (
    GAIN,
    EqualisedConv2d,
    EqualisedLinear,
    EqualisedPooledConv2d,
    EqualisedScore,
    EqualisedUpsampledConv2d,
)
from distgan.networks.growth import SMALLEST, Growth, enlarged
from distgan.networks.minibatch import MinibatchStd
from distgan.networks.precision import as_given
from distgan.networks.recomputing import kept_or_recomputed
from distgan.networks.resampling import pointwise, upsample

RESOLUTIONS = (8, 16, 32, 64, 128, 256, 512, 1024)

WIDEST = 32
"""Side up to which there is the most number of maps."""

EPSILON = 1e-8
"""Added to the mean square of a pixel's maps."""


def maps(resolution: int, width: int) -> list[int]:
    """The number of feature maps at the sides 4, 8, ..., resolution."""
    sides = [SMALLEST * 2**level for level in range(_level(resolution) + 1)]
    return [max(1, min(width, width * WIDEST // side)) for side in sides]


def _level(side: int) -> int:
    """How often the smallest side doubles to this one."""
    return (side // SMALLEST).bit_length() - 1


def pixel_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + 1e-8), the mean over the maps: [N, C, H, W] or [N, C] (ibid. section 4.2).

    In float32 at least, returned in the input's dtype."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * (wide.square().mean(dim=1, keepdim=True) + EPSILON).rsqrt()).to(x.dtype)


class _FirstBlock(nn.Module):
    """[N, inputs] to [N, outputs, 4, 4]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # The code scales its 4 x 4 layer as a convolution, of inputs * 16 values; the norm takes that out again.
        self.linear = EqualisedLinear(inputs, outputs * SMALLEST**2, GAIN / SMALLEST, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.conv = EqualisedConv2d(outputs, outputs, 3)
        self.activation = LeakyReLU()

    def forward(self, latent: Tensor) -> Tensor:
        x = rearrange(self.linear(latent), "n (c h w) -> n c h w", h=SMALLEST, w=SMALLEST)
        x = pixel_norm(self.activation(x + rearrange(self.bias, "c -> c 1 1")))
        return pixel_norm(self.activation(self.conv(x)))


class _BlockUp(nn.Module):
    """[N, inputs, H, W] to [N, outputs, 2H, 2W]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = EqualisedUpsampledConv2d(inputs, outputs, 3)
        self.conv2 = EqualisedConv2d(outputs, outputs, 3)
        self.activation = LeakyReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = pixel_norm(self.activation(self.conv1(x)))
        return pixel_norm(self.activation(self.conv2(x)))


class ToColours(EqualisedConv2d):
    """[N, inputs, H, W] to [N, channels, H, W], in the parameters' precision also under autocast: bfloat16
    would round bright and dark pixels to half a step of an 8-bit picture. `pointwise` as a matrix product."""

    def __init__(self, inputs: int, channels: int, gain: float = 1.0) -> None:
        super().__init__(inputs, channels, 1, gain)

    def forward(self, x: Tensor) -> Tensor:
        with as_given(x):
            return pointwise(x.to(self.weight.dtype), self.weight * self.scale, self.bias)


class ProgressiveGenerator(nn.Module):
    """[N, latent] to [N, C, r, r], r being the side of now, in evaluation mode enlarged to the full one, after the
    module's table. Not bounded: pictures are meant to be in [-1, 1].

    Raises ConfigError for a resolution that is not offered, ValueError for labels missing or unwanted.
    """

    def __init__(
        self, *, resolution: int, channels: int, classes: int = 0, latent: int = 512, width: int = 512
    ) -> None:
        super().__init__()
        require("data.resolution", resolution, RESOLUTIONS, within="generator.name progressive")
        self.latent, self.growth = latent, Growth(resolution)
        levels = maps(resolution, width)
        self.input = LatentInput(latent, classes, concatenate=True)
        first = _FirstBlock(self.input.features, levels[0])
        self.blocks = nn.ModuleList([first, *(_BlockUp(a, b) for a, b in pairwise(levels))])
        self.outputs = nn.ModuleList(ToColours(count, channels) for count in levels)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        growth, level = self.growth, _level(self.growth.now)
        before = x = pixel_norm(self.input(latent, labels))
        for block in list(self.blocks)[: level + 1]:
            before, x = x, kept_or_recomputed(self, block, x)
        images = self.outputs[level](x)
        if growth.blends:
            images = growth.blended(upsample(self.outputs[level - 1](before)), images)
        return images if self.training else enlarged(images, growth.full)

    def parts_in_use(self) -> Iterator[nn.Module]:
        """The parts that make pictures of the side of now."""
        yield self.input
        yield from list(self.blocks)[: _level(self.growth.now) + 1]
        yield from _in_use(self.outputs, self.growth)


class _BlockDown(nn.Module):
    """[N, inputs, H, W] to [N, outputs, H/2, W/2]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = EqualisedConv2d(inputs, inputs, 3)
        self.conv2 = EqualisedPooledConv2d(inputs, outputs, 3)
        self.activation = LeakyReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv2(self.activation(self.conv1(x))))


class _LastBlock(nn.Module):
    """[N, width, 4, 4] to features [N, width]; the statistic is over groups of `minibatch_std` images, or 0: none."""

    def __init__(self, width: int, minibatch_std: int) -> None:
        super().__init__()
        self.minibatch = MinibatchStd(minibatch_std) if minibatch_std else nn.Identity()
        self.conv = EqualisedConv2d(width + bool(minibatch_std), width, 3)
        self.linear = EqualisedLinear(width * SMALLEST**2, width)
        self.activation = LeakyReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.conv(self.minibatch(x)))
        return self.activation(self.linear(rearrange(x, "n c h w -> n (c h w)")))


class ProgressiveCritic(nn.Module):
    """Images [N, C, r, r], r being the side of now, to scores [N], after the module's table. `keys` are not used: there
    is no dropout.

    Raises ConfigError for a resolution that is not offered, ValueError for labels missing or unwanted, and for images
    that do not make whole groups of `minibatch_std`.
    """

    piecewise_linear = False

    def __init__(
        self, *, resolution: int, channels: int, classes: int = 0, width: int = 512, minibatch_std: int = 4
    ) -> None:
        super().__init__()
        require("data.resolution", resolution, RESOLUTIONS, within="critic.name progressive")
        self.growth = Growth(resolution)
        levels = maps(resolution, width)
        last = _LastBlock(levels[0], minibatch_std)
        self.inputs = nn.ModuleList(EqualisedConv2d(channels, count, 1) for count in levels)
        self.blocks = nn.ModuleList([last, *(_BlockDown(b, a) for a, b in pairwise(levels))])
        self.activation = LeakyReLU()
        self.score = EqualisedScore(levels[0], classes)

    def forward(self, images: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        growth, level = self.growth, _level(self.growth.now)
        x = self._from_colours(images, level)
        for number in range(level, -1, -1):
            x = kept_or_recomputed(self, self.blocks[number], x)
            if growth.blends and number == level:
                x = growth.blended(self._from_colours(F.avg_pool2d(images, 2), level - 1), x)
        return self.score(x, labels)

    def _from_colours(self, images: Tensor, level: int) -> Tensor:
        return self.activation(self.inputs[level](images))

    def parts_in_use(self) -> Iterator[nn.Module]:
        """The parts that score pictures of the side of now."""
        yield from _in_use(self.inputs, self.growth)
        yield from list(self.blocks)[: _level(self.growth.now) + 1]
        yield self.score


def _in_use(colours: nn.ModuleList, growth: Growth) -> Iterator[nn.Module]:
    """Of the layers to or from colours, a side each, those in use."""
    level = _level(growth.now)
    yield from list(colours)[level - growth.blends : level + 1]
