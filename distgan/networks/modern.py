"""The networks of R3GAN (Huang et al. 2024, "The GAN is dead; long live the GAN!", and the authors' public code), for 8
to 1024 pixels; there with the loss `relativistic` and the penalty `r1r2`.

With w, the most maps, R the side of the images and n blocks at each side:

| generator                                 | maps x side |  | critic                                | maps x side     |
|-------------------------------------------|-------------|  |---------------------------------------|-----------------|
| linear, times a learned 4 x 4 of each map | w x 4       |  | 1 x 1 from colours                    | maps(R) x R     |
| n blocks                                  | w x 4       |  | at each side r from R to 8: n blocks; | maps(r) x r     |
| at each side r from 8 to R: 1 x 1,        | maps(r) x r |  |   half the side, blurred; 1 x 1       | maps(r/2) x r/2 |
|   twice the side; n blocks                |             |  | n blocks                              | w x 4           |
| 1 x 1 to colours                          | C x R       |  | a learned 4 x 4 of each map; linear   | 1               |

maps(r) is w up to 32 pixels, then halves at each side (theirs for FFHQ at 256 px: w = 768); a 1 x 1 is left out
where the number of maps stays. A block is x + conv3(act(conv2(act(conv1(x))))): 1 x 1 to twice the maps, 3 x 3 in
groups of 16 maps, 1 x 1 back. There is no norm. Instead, as in Fixup (Zhang et al. 2019), conv3 starts at 0, so that
a block starts as the identity, and conv1 and conv2 start smaller the more blocks there are.

Resampling is ours: the critic's by [1, 3, 3, 1], centred on the pixels between which it falls, the generator's by the
same with border pixels repeated (bilinear). Labels enter as in the other families.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from distgan.networks.activations import LeakyReLU
from distgan.networks.blurring import Blur, enlarged_smoothly
from distgan.networks.chain import Activation, Blurring, Chain, Convolution, Flattening, Link, Residual, Scoring
from distgan.networks.choices import require
from distgan.networks.conditioning import LatentInput, Score
from distgan.networks.growth import SMALLEST
from distgan.networks.precision import as_given
from distgan.networks.progressive import RESOLUTIONS, maps
from distgan.networks.recomputing import kept_or_recomputed
from distgan.networks.resampling import pointwise

EXPANSION = 2
"""How many times the maps of a block its grouped convolution has."""

GROUP = 16
"""Maps of a group; fewer where they do not divide."""

GAIN = math.sqrt(2 / (1 + 0.2**2))
"""Of a layer that LeakyReLU follows."""


def _started(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> nn.Module:
    """The layer with weights from N(0, gain^2 / fan in) and biases 0."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _pointwise(inputs: int, outputs: int) -> nn.Module:
    """1 x 1, or nothing where the number of maps stays."""
    return nn.Identity() if inputs == outputs else _started(nn.Conv2d(inputs, outputs, 1, bias=False))


class _Block(nn.Module):
    """[N, maps, H, W] to the same; one of `count` blocks of a network."""

    def __init__(self, maps: int, count: int) -> None:
        super().__init__()
        wide, gain = EXPANSION * maps, GAIN * count**-0.25
        groups = wide // math.gcd(wide, GROUP)
        self.conv1 = _started(nn.Conv2d(maps, wide, 1), gain)
        self.conv2 = _started(nn.Conv2d(wide, wide, 3, padding=1, groups=groups), gain)
        self.conv3 = _started(nn.Conv2d(wide, maps, 1, bias=False), 0.0)
        self.activation = LeakyReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.conv2(self.activation(self.conv1(x))))
        return x + self.conv3(y)

    def link(self) -> Residual:
        """This block for one update."""
        first, second = Activation(self.activation), Activation(self.activation)
        return Residual([], [Convolution(self.conv1), first, Convolution(self.conv2), second, Convolution(self.conv3)])


class _Basis(nn.Module):
    """[N, inputs] to [N, maps, 4, 4]: of each map, a learned picture as bright as the input says."""

    def __init__(self, inputs: int, maps: int) -> None:
        super().__init__()
        self.linear = _started(nn.Linear(inputs, maps, bias=False))
        self.pictures = nn.Parameter(torch.randn(maps, SMALLEST, SMALLEST))

    def forward(self, latent: Tensor) -> Tensor:
        return rearrange(self.linear(latent), "n c -> n c 1 1") * self.pictures


class _Up(nn.Module):
    """[N, inputs, H, W] to [N, outputs, 2H, 2W]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = _pointwise(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return enlarged_smoothly(self.conv(x))


class _Down(nn.Module):
    """[N, inputs, H, W] to [N, outputs, H/2, W/2]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.blur = Blur(inputs, stride=2)
        self.conv = _pointwise(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.blur(x))

    def link(self) -> Chain:
        """This layer for one update."""
        plain = isinstance(self.conv, nn.Identity)
        return Chain([Blurring(self.blur), *([] if plain else [Convolution(self.conv)])])


class ModernGenerator(nn.Module):
    """[N, latent] to [N, C, R, R], after the module's table. Not bounded: pictures are meant to be in [-1, 1].

    Raises ConfigError for a resolution that is not offered, ValueError for labels missing or unwanted.
    """

    def __init__(
        self, *, resolution: int, channels: int, classes: int = 0, latent: int = 64, width: int = 768, blocks: int = 2
    ) -> None:
        super().__init__()
        require("data.resolution", resolution, RESOLUTIONS, within="generator.name modern")
        self.latent = latent
        levels = maps(resolution, width)
        self.input = LatentInput(latent, classes, concatenate=True)
        starts = [_Basis(self.input.features, levels[0]), *(_Up(a, b) for a, b in pairwise(levels))]
        self.layers = nn.ModuleList()
        for start, count in zip(starts, levels, strict=True):
            self.layers += [start, *(_Block(count, blocks * len(levels)) for _ in range(blocks))]
        self.output = _started(nn.Conv2d(levels[-1], channels, 1))

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.input(latent, labels)
        for layer in self.layers:
            x = kept_or_recomputed(self, layer, x)
        with as_given(x):
            return pointwise(x.to(self.output.weight.dtype), self.output.weight, self.output.bias)


class ModernCritic(nn.Module):
    """Images [N, C, R, R] to scores [N], after the module's table. `keys` are not used: there is no dropout.

    Differentiated twice by autograd, torch goes through a grouped convolution group by group; the chain does not.
    Raises ConfigError for a resolution that is not offered, ValueError for labels missing or unwanted.
    """

    piecewise_linear = True

    def __init__(self, *, resolution: int, channels: int, classes: int = 0, width: int = 768, blocks: int = 2) -> None:
        super().__init__()
        require("data.resolution", resolution, RESOLUTIONS, within="critic.name modern")
        levels = maps(resolution, width)[::-1]
        self.input = _started(nn.Conv2d(channels, levels[0], 1, bias=False))
        ends = [*(_Down(a, b) for a, b in pairwise(levels))]
        self.layers = nn.ModuleList()
        for number, count in enumerate(levels):
            self.layers += [_Block(count, blocks * len(levels)) for _ in range(blocks)]
            self.layers += ends[number : number + 1]
        self.basis = _started(nn.Conv2d(width, width, SMALLEST, groups=width, bias=False))
        self.score = Score(width, classes)
        _started(self.score.linear)
        if classes:
            nn.init.normal_(self.score.embedding.weight, std=1 / math.sqrt(width))

    def forward(self, images: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        x = self.input(images)
        for layer in self.layers:
            x = kept_or_recomputed(self, layer, x)
        return self.score(rearrange(self.basis(x), "n c 1 1 -> n c"), labels)

    def chain(self, labels: Tensor | None) -> Chain:
        """This critic for one update on pictures of these `labels`."""
        links: list[Link] = [Convolution(self.input), *(layer.link() for layer in self.layers)]
        return Chain([*links, Convolution(self.basis), Flattening(), Scoring(self.score, labels)])
