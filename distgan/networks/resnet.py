"""The residual networks of WGAN-GP (Gulrajani et al. 2017, appendix C; gan_cifar_resnet.py and gan_64x64.py
of the authors' public code).

A block is  shortcut(x) + conv2(relu(norm(conv1(relu(norm(x))))))  with 3 x 3 convolutions. Upward blocks
double the side (nearest neighbour) before conv1, downward blocks halve it (mean) after conv2; the shortcut is
a 1 x 1 convolution with the same resampling, or nothing where side and maps stay. Below, w is `width`, the
maps at full resolution.

32 pixels, the CIFAR-10 networks (paper: w = 128):

| generator            | maps x side  |  | critic                          | maps x side |
|----------------------|--------------|--|---------------------------------|-------------|
| linear               | w x 4        |  | first block (no norm, no ReLU   | w x 16      |
| block up             | w x 8        |  |   before conv1), down           |             |
| block up             | w x 16       |  | block down                      | w x 8       |
| block up             | w x 32       |  | block                           | w x 8       |
| norm, ReLU, 3 x 3    | C x 32       |  | block                           | w x 8       |
| tanh                 |              |  | ReLU, mean over pixels, linear  | 1           |

64 pixels, "GoodGenerator" and "GoodDiscriminator" (paper: w = 64, layer norm in the critic), and 128 pixels,
the same with one level more, where the widest number of maps repeats:

| generator            | 64 px        | 128 px       |  | critic              | 64 px   | 128 px  |
|----------------------|--------------|--------------|--|---------------------|---------|---------|
| linear               | 8w x 4       | 8w x 4       |  | 3 x 3               | w x 64  | w x 128 |
| block up             | 8w x 8       | 8w x 8       |  | block down          | 2w x 32 | 2w x 64 |
| block up             | 4w x 16      | 8w x 16      |  | block down          | 4w x 16 | 4w x 32 |
| block up             | 2w x 32      | 4w x 32      |  | block down          | 8w x 8  | 8w x 16 |
| block up             | w x 64       | 2w x 64      |  | block down          | 8w x 4  | 8w x 8  |
| block up             |              | w x 128      |  | block down          |         | 8w x 4  |
| norm, ReLU, 3 x 3    | C x 64       | C x 128      |  | linear, all pixels  | 1       | 1       |
| tanh                 |              |              |  |                     |         |         |

256 pixels are no network of theirs, who end at 128: one level more in the same way, 8w maps at 4 to 32 pixels.

As in the authors' code, conv1 of the networks from 64 px on has no bias where a norm follows, and the
generator's last norm is unconditional. One thing is left out: biases that a later batch or instance norm
subtracts again. In a generator with such norms these are all those inside the blocks (a constant passes the 1
x 1 shortcuts as a constant until the last norm); their gradient is nothing but rounding, which Adam would
turn into a random walk that differs with the number of processes. The function is the same without them.

Weights are uniform with variance 4 / (fan in + fan out), and 2 / (fan in + fan out) in shortcuts, linear
layers, the last convolution of the 32 px generator and the first of the critic from 64 px on.
"""

from __future__ import annotations

from itertools import pairwise

from einops import rearrange, reduce
from torch import Tensor, nn

from distgan.networks import initialisation
from distgan.networks.activations import ReLU
from distgan.networks.chain import Activation, Chain, Convolution, Flattening, Pooling, Residual, Scoring
from distgan.networks.choices import require
from distgan.networks.conditioning import LatentInput, Score
from distgan.networks.norms import CANCELLING, NORMS, build_norm, normalise
from distgan.networks.recomputing import kept_or_recomputed
from distgan.networks.resampling import PooledConv2d, UpsampledConv2d

RESOLUTIONS = (32, 64, 128, 256)
BASE = 4
"""Side of the smallest feature maps."""


def maps(resolution: int, width: int) -> list[int]:
    """The number of feature maps at the sides 4, 8, ..., resolution (the tables above)."""
    levels = (resolution // BASE).bit_length()
    if resolution == 32:
        return [width] * levels
    return [width * min(8, 2**level) for level in reversed(range(levels))]


def _inner_bias(resolution: int, norm: str) -> bool:
    """Whether conv1 has a bias: not before a norm that cancels it; the 64 px code has none before any
    norm."""
    return norm == "none" or (resolution == 32 and norm not in CANCELLING)


def _conv(inputs: int, outputs: int, kernel: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)


class Block(nn.Module):
    """[N, inputs, H, W] to [N, outputs, H', W'] with H' = 2H (`resample` "up"), H/2 ("down") or H ("none").

    `inner_bias`: whether conv1 has a bias; `outer_bias`: whether conv2 and the shortcut have one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        resample: str,
        norm: str,
        *,
        classes: int = 0,
        inner_bias: bool = True,
        outer_bias: bool = True,
    ) -> None:
        super().__init__()
        first = {"up": UpsampledConv2d, "down": _conv, "none": _conv}[resample]
        second = {"up": _conv, "down": PooledConv2d, "none": _conv}[resample]
        across = {"up": UpsampledConv2d, "down": PooledConv2d, "none": _conv}[resample]
        middle = inputs if resample == "down" else outputs
        self.norm1, self.norm2 = build_norm(norm, inputs, classes), build_norm(norm, middle, classes)
        self.conv1 = first(inputs, middle, 3, bias=inner_bias)
        self.conv2 = second(middle, outputs, 3, bias=outer_bias)
        same = resample == "none" and inputs == outputs
        self.shortcut = nn.Identity() if same else across(inputs, outputs, 1, bias=outer_bias)
        self.activation = ReLU()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        y = self.conv1(self.activation(normalise(self.norm1, x, labels)))
        y = self.conv2(self.activation(normalise(self.norm2, y, labels)))
        return self.shortcut(x) + y

    def link(self) -> Residual:
        """This block, without norms, for one update."""
        shortcut = [] if isinstance(self.shortcut, nn.Identity) else [Convolution(self.shortcut)]
        first, second = Activation(self.activation), Activation(self.activation)
        return Residual(shortcut, [first, Convolution(self.conv1), second, Convolution(self.conv2)])


class FirstBlock(nn.Module):
    """Images [N, C, H, W] to [N, width, H/2, W/2]: a downward block without norms and without a ReLU on the
    image ("OptimizedResBlockDisc1")."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, width, 3)
        self.conv2 = PooledConv2d(width, width, 3)
        self.shortcut = PooledConv2d(channels, width, 1)
        self.activation = ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return self.shortcut(images) + self.conv2(self.activation(self.conv1(images)))

    def link(self) -> Residual:
        """This block for one update."""
        inner = [Convolution(self.conv1), Activation(self.activation), Convolution(self.conv2)]
        return Residual([Convolution(self.shortcut)], inner)


def _initialise(network: nn.Module, *others: nn.Conv2d) -> None:
    """The authors' initial weights; `others` are convolutions outside of the blocks that take the He
    variance."""
    initialisation.glorot(network)
    blocks = [part for part in network.modules() if isinstance(part, (Block, FirstBlock))]
    initialisation.he(*others, *(conv for block in blocks for conv in (block.conv1, block.conv2)))


class ResNetGenerator(nn.Module):
    """[N, latent] to [N, C, R, R] in [-1, 1], after the module's tables.

    Raises ConfigError for a resolution or norm that is not offered, ValueError for labels missing or
    unwanted.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        classes: int = 0,
        latent: int = 128,
        width: int = 128,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        require("data.resolution", resolution, RESOLUTIONS, within="generator.name resnet")
        require("generator.norm", norm, NORMS, within="generator.name resnet")
        self.latent = latent
        levels = maps(resolution, width)
        biases = {"inner_bias": _inner_bias(resolution, norm), "outer_bias": norm not in CANCELLING}
        self.input = LatentInput(latent, classes, concatenate=norm == "none")
        self.linear = nn.Linear(self.input.features, levels[0] * BASE**2)
        self.blocks = nn.ModuleList(Block(a, b, "up", norm, classes=classes, **biases) for a, b in pairwise(levels))
        self.norm = build_norm(norm, levels[-1])
        self.activation = ReLU()
        self.output = _conv(levels[-1], channels, 3)
        _initialise(self, *([] if resolution == 32 else [self.output]))

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        flat = self.linear(self.input(latent, labels))
        x = rearrange(flat, "n (c h w) -> n c h w", h=BASE, w=BASE)
        for block in self.blocks:
            x = kept_or_recomputed(self, block, x, labels)
        return self.output(self.activation(self.norm(x))).tanh()


def _critic_blocks(resolution: int, channels: int, width: int, norm: str) -> list[nn.Module]:
    """The critic's layers between the images and the features, after the module's tables."""
    bias = _inner_bias(resolution, norm)
    if resolution == 32:
        later = [Block(width, width, kind, norm, inner_bias=bias) for kind in ("down", "none", "none")]
        return [FirstBlock(channels, width), *later]
    levels = maps(resolution, width)[::-1]
    down = [Block(a, b, "down", norm, inner_bias=bias) for a, b in pairwise(levels)]
    return [_conv(channels, width, 3), *down]


class ResNetCritic(nn.Module):
    """Images [N, C, R, R] to scores [N], after the module's tables. `keys` are not used: there is no dropout.

    Raises ConfigError for a resolution or norm that is not offered, ValueError for labels missing or
    unwanted.
    """

    def __init__(
        self, *, resolution: int, channels: int, classes: int = 0, width: int = 128, norm: str = "none"
    ) -> None:
        super().__init__()
        require("data.resolution", resolution, RESOLUTIONS, within="critic.name resnet")
        require("critic.norm", norm, NORMS, within="critic.name resnet")
        self.pooled, self.piecewise_linear = resolution == 32, norm == "none"
        self.blocks = nn.Sequential(*_critic_blocks(resolution, channels, width, norm))
        self.activation = ReLU()
        self.score = Score(width if self.pooled else 8 * width * BASE**2, classes)
        _initialise(self)

    def forward(self, images: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        x = images
        for block in self.blocks:
            x = kept_or_recomputed(self, block, x)
        return self.score(self._features(x), labels)

    def chain(self, labels: Tensor | None) -> Chain | None:
        """This critic for one update on pictures of these `labels`; None with a norm, which is not piecewise linear."""
        if not self.piecewise_linear:
            return None
        links = [Convolution(part) if isinstance(part, nn.Conv2d) else part.link() for part in self.blocks]
        end = [Activation(self.activation), Pooling()] if self.pooled else [Flattening()]
        return Chain([*links, *end, Scoring(self.score, labels)])

    def _features(self, x: Tensor) -> Tensor:
        if self.pooled:
            return reduce(self.activation(x), "n c h w -> n c", "mean")
        return rearrange(x, "n c h w -> n (c h w)")
