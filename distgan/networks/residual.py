"""The residual critic of StyleGAN2 (Karras et al. 2020, figure 7 and the authors' public code), for 8 to 1024 pixels.

With w, the most maps, 512 as in the paper, and R the side of the images:

| layer                                                          | maps x side     |
|----------------------------------------------------------------|-----------------|
| 1 x 1 from colours                                             | maps(R) x R     |
| at each side r from R to 8: 3 x 3; 3 x 3 to the next, blurred, | maps(r/2) x r/2 |
|   half the side; beside them 1 x 1 of the blurred, no bias;    |                 |
|   their sum / sqrt 2                                           |                 |
| minibatch std; 3 x 3                                           | w x 4           |
| linear                                                         | w               |
| linear                                                         | 1               |

maps(r) is w up to 32 pixels, then halves at each side, as in Progressive GAN (StyleGAN2: up to 64). Each layer but the
1 x 1 beside and the last is followed by a LeakyReLU; all have an equalised learning rate. The 1 / sqrt 2 is in the
gains of the two layers that are added, which is the same but for the bias of one, whose learning rate it divides.
"""

from __future__ import annotations

import math
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn

from distgan.networks.activations import LeakyReLU
from distgan.networks.blurring import Blur
from distgan.networks.chain import Activation, Blurring, Chain, Convolution, Flattening, Linear, Residual, Scoring
from distgan.networks.choices import require
from distgan.networks.equalised import GAIN, EqualisedConv2d, EqualisedLinear, EqualisedScore
from distgan.networks.growth import SMALLEST
from distgan.networks.minibatch import MinibatchStd
from distgan.networks.progressive import RESOLUTIONS, maps
from distgan.networks.recomputing import kept_or_recomputed


class _Block(nn.Module):
    """[N, inputs, H, W] to [N, outputs, H/2, W/2]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = math.sqrt(0.5)
        self.conv1 = EqualisedConv2d(inputs, inputs, 3)
        self.blur = Blur(inputs)
        self.conv2 = EqualisedConv2d(inputs, outputs, 3, GAIN * half, stride=2, padding=0)
        self.small = Blur(inputs, stride=2)
        self.shortcut = EqualisedConv2d(inputs, outputs, 1, half, bias=False)
        self.activation = LeakyReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.conv1(x))
        y = self.activation(self.conv2(self.blur(y)))
        return self.shortcut(self.small(x)) + y

    def link(self) -> Residual:
        """This block for one update."""
        first, second = Activation(self.activation), Activation(self.activation)
        inner = [Convolution(self.conv1), first, Blurring(self.blur), Convolution(self.conv2), second]
        return Residual([Blurring(self.small), Convolution(self.shortcut)], inner)


class ResidualCritic(nn.Module):
    """Images [N, C, R, R] to scores [N], after the module's table. `keys` are not used: there is no dropout.

    `minibatch_std`, unless 0, is the group of a `MinibatchStd`. Raises ConfigError for a resolution that is not
    offered, ValueError for labels missing or unwanted, and for images that do not make whole groups.
    """

    def __init__(
        self, *, resolution: int, channels: int, classes: int = 0, width: int = 512, minibatch_std: int = 4
    ) -> None:
        super().__init__()
        require("data.resolution", resolution, RESOLUTIONS, within="critic.name residual")
        levels = maps(resolution, width)[::-1]
        self.input = EqualisedConv2d(channels, levels[0], 1)
        self.blocks = nn.ModuleList(_Block(a, b) for a, b in pairwise(levels))
        self.minibatch = MinibatchStd(minibatch_std) if minibatch_std else nn.Identity()
        self.conv = EqualisedConv2d(width + bool(minibatch_std), width, 3)
        self.linear = EqualisedLinear(width * SMALLEST**2, width)
        self.score = EqualisedScore(width, classes)
        self.activation = LeakyReLU()
        self.piecewise_linear = not minibatch_std

    def forward(self, images: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        x = kept_or_recomputed(self, self._first, images)
        for block in self.blocks:
            x = kept_or_recomputed(self, block, x)
        x = self.activation(self.conv(self.minibatch(x)))
        x = self.activation(self.linear(rearrange(x, "n c h w -> n (c h w)")))
        return self.score(x, labels)

    def _first(self, images: Tensor) -> Tensor:
        return self.activation(self.input(images))

    def chain(self, labels: Tensor | None) -> Chain | None:
        """This critic for one update on pictures of these `labels`; None with a minibatch statistic, which is no
        piecewise-linear function of one picture."""
        if not self.piecewise_linear:
            return None
        links = [Convolution(self.input), Activation(self.activation), *(block.link() for block in self.blocks)]
        links += [Convolution(self.conv), Activation(self.activation), Flattening()]
        return Chain([*links, Linear(self.linear), Activation(self.activation), Scoring(self.score, labels)])
