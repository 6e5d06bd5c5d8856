"""A generator with output skips, for 8 to 1024 pixels: StyleGAN2's (Karras et al. 2020, figure 7) without style, and
so what MSG-GAN (Karnewar and Wang 2020) makes at its largest scale.

With w, the most maps, 512 as in Progressive GAN, and R the side of the images:

| layer                                        | maps x side | colours                                          |
|----------------------------------------------|-------------|--------------------------------------------------|
| 4 x 4 from the latent; 3 x 3                 | w x 4       | 1 x 1                                            |
| at each side r from 8 to R: 3 x 3, twice the | maps(r) x r | those of before, enlarged smoothly, and 1 x 1 of |
|   side, blurred; 3 x 3                       |             |   these maps, added                              |

maps(r) is w up to 32 pixels, then halves at each side. Each 3 x 3 and the 4 x 4 layer are followed by a LeakyReLU and a
norm of each pixel over its maps, which the latent goes through first: it takes the place of StyleGAN2's demodulation,
without which nothing here would bound the size of the maps. All layers have an equalised learning rate. As many colours
are added as there are sides, so each has the gain 1 / sqrt(sides); the pictures are not bounded.
"""

from __future__ import annotations

import math
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn

from distgan.networks.activations import LeakyReLU
from distgan.networks.blurring import BlurredUpConv2d, enlarged_smoothly
from distgan.networks.choices import require
from distgan.networks.conditioning import LatentInput
from distgan.networks.equalised import EqualisedConv2d, EqualisedLinear
from distgan.networks.growth import SMALLEST
from distgan.networks.progressive import RESOLUTIONS, ToColours, maps, pixel_norm
from distgan.networks.recomputing import kept_or_recomputed


class _First(nn.Module):
    """[N, inputs] to [N, outputs, 4, 4]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = EqualisedLinear(inputs, outputs * SMALLEST**2)
        self.conv = EqualisedConv2d(outputs, outputs, 3)
        self.activation = LeakyReLU()

    def forward(self, latent: Tensor) -> Tensor:
        x = rearrange(self.linear(latent), "n (c h w) -> n c h w", h=SMALLEST, w=SMALLEST)
        x = pixel_norm(self.activation(x))
        return pixel_norm(self.activation(self.conv(x)))


class _Block(nn.Module):
    """[N, inputs, H, W] to [N, outputs, 2H, 2W]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = BlurredUpConv2d(inputs, outputs)
        self.conv2 = EqualisedConv2d(outputs, outputs, 3)
        self.activation = LeakyReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = pixel_norm(self.activation(self.conv1(x)))
        return pixel_norm(self.activation(self.conv2(x)))


class SkipGenerator(nn.Module):
    """[N, latent] to [N, C, R, R], after the module's table. Not bounded: pictures are meant to be in [-1, 1].

    Raises ConfigError for a resolution that is not offered, ValueError for labels missing or unwanted.
    """

    def __init__(
        self, *, resolution: int, channels: int, classes: int = 0, latent: int = 512, width: int = 512
    ) -> None:
        super().__init__()
        require("data.resolution", resolution, RESOLUTIONS, within="generator.name skip")
        self.latent = latent
        levels = maps(resolution, width)
        self.input = LatentInput(latent, classes, concatenate=True)
        first = _First(self.input.features, levels[0])
        self.blocks = nn.ModuleList([first, *(_Block(a, b) for a, b in pairwise(levels))])
        gain = 1 / math.sqrt(len(levels))
        self.colours = nn.ModuleList(ToColours(count, channels, gain) for count in levels)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        x, images = pixel_norm(self.input(latent, labels)), None
        for block, to_colours in zip(self.blocks, self.colours, strict=True):
            x = kept_or_recomputed(self, block, x)
            made = to_colours(x)
            images = made if images is None else enlarged_smoothly(images) + made
        return images
