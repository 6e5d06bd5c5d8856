"""DCGAN (Radford et al. 2016): stacks of convolutions that double or halve the side.

The side is `base` * 2^k with base 4 (powers of two) or 7 (28, 56, 112, 224 pixels). Maps double from level to
level, up to 8 * `width`. For 64 pixels:

| side | 64 | 32    | 16        | 8         | 4         |
|------|----|-------|-----------|-----------|-----------|
| maps | C  | width | 2 * width | 4 * width | 8 * width |

The critic is the DCGAN discriminator without sigmoid; its first layer has no norm, and neither has the
generator's last one. Kernels are 4 x 4 with stride 2 (every pixel is covered equally often), as in the Torch
version of DCGAN; WGAN-GP's code has 5 x 5. Layers before a norm have no bias: the norm has one.
"""

from __future__ import annotations

from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn

from distgan.networks import initialisation
from distgan.networks.activations import LeakyReLU, ReLU
from distgan.networks.chain import Activation, Chain, Convolution, Flattening, Link, Scoring
from distgan.networks.choices import require
from distgan.networks.conditioning import LatentInput, Score
from distgan.networks.dropout import KeyedDropout
from distgan.networks.minibatch import MinibatchStd
from distgan.networks.norms import NORMS, build_norm, normalise
from distgan.networks.recomputing import kept_or_recomputed
from distgan.networks.resampling import UpsampledConv2d

RESOLUTIONS = (16, 28, 32, 56, 64, 112, 128, 224, 256)


def sides(resolution: int) -> list[int]:
    """The sides of the feature maps, from resolution / 2 down to the base (4 or 7)."""
    found = [resolution // 2]
    while found[-1] > 7:
        found.append(found[-1] // 2)
    return found


def maps(resolution: int, width: int) -> list[int]:
    """The number of feature maps at each of `sides`."""
    return [width * min(8, 2**level) for level in range(len(sides(resolution)))]


def _doubling(inputs: int, outputs: int, upsample: str, bias: bool) -> nn.Module:
    """[N, inputs, H, W] to [N, outputs, 2H, 2W]."""
    if upsample == "nearest":
        return UpsampledConv2d(inputs, outputs, 3, bias=bias)
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)


class DCGANGenerator(nn.Module):
    """[N, latent] to [N, C, R, R] in [-1, 1]: linear to the base, then doublings; norm and ReLU before each.

    `upsample` is "transposed" (as the paper) or "nearest" (nearest-neighbour upsampling, then a 3 x 3
    convolution: free of checkerboards, Odena et al. 2016). Raises ConfigError for a resolution, norm or
    upsampling that is not offered, ValueError for labels that are missing or unwanted.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        classes: int = 0,
        latent: int = 128,
        width: int = 64,
        norm: str = "batch",
        upsample: str = "transposed",
    ) -> None:
        super().__init__()
        require("data.resolution", resolution, RESOLUTIONS, within="generator.name dcgan")
        require("generator.norm", norm, NORMS, within="generator.name dcgan")
        require("generator.upsample", upsample, ("transposed", "nearest"), within="generator.name dcgan")
        self.latent, self.base = latent, sides(resolution)[-1]
        levels = maps(resolution, width)[::-1]
        plain = norm == "none"
        self.input = LatentInput(latent, classes, concatenate=plain)
        self.linear = nn.Linear(self.input.features, levels[0] * self.base**2, bias=plain)
        self.norms = nn.ModuleList(build_norm(norm, count, classes) for count in levels)
        self.doublings = nn.ModuleList(_doubling(a, b, upsample, plain) for a, b in pairwise(levels))
        self.output = _doubling(levels[-1], channels, upsample, bias=True)
        self.activation = ReLU()
        initialisation.dcgan(self)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        flat = self.linear(self.input(latent, labels))
        x = rearrange(flat, "n (c h w) -> n c h w", h=self.base, w=self.base)
        for norm, double in zip(self.norms, [*self.doublings, self.output], strict=True):
            x = kept_or_recomputed(self, self._doubled, norm, double, x, labels)
        return x.tanh()

    def _doubled(self, norm: nn.Module, double: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
        return double(self.activation(normalise(norm, x, labels)))


class DCGANCritic(nn.Module):
    """Images [N, C, R, R] to scores [N]: halvings (4 x 4 convolution with stride 2, norm, LeakyReLU, dropout)
    down to the base, then linear over all features.

    `keys` [N] are the image keys of the dropout. `minibatch_std`, unless 0, is the group of a `MinibatchStd` before
    the linear layer. Raises ConfigError for a resolution or norm that is not offered, ValueError for labels or keys
    that are missing or unwanted, and for images that do not make whole groups.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        classes: int = 0,
        width: int = 64,
        norm: str = "none",
        dropout: float = 0.0,
        minibatch_std: int = 0,
    ) -> None:
        super().__init__()
        require("data.resolution", resolution, RESOLUTIONS, within="critic.name dcgan")
        require("critic.norm", norm, NORMS, within="critic.name dcgan")
        levels = maps(resolution, width)
        norms = ["none"] + [norm] * (len(levels) - 1)
        self.halvings = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1, bias=kind == "none")
            for (a, b), kind in zip(pairwise([channels, *levels]), norms, strict=True)
        )
        self.norms = nn.ModuleList(build_norm(kind, count) for kind, count in zip(norms, levels, strict=True))
        self.activation = LeakyReLU()
        self.dropouts = nn.ModuleList(KeyedDropout(dropout, f"dropout {i}") for i in range(len(levels)))
        self.minibatch = MinibatchStd(minibatch_std) if minibatch_std else nn.Identity()
        last = levels[-1] + bool(minibatch_std)
        self.score = Score(last * sides(resolution)[-1] ** 2, classes)
        self.piecewise_linear = norm == "none" and not dropout and not minibatch_std
        initialisation.dcgan(self)

    def forward(self, images: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        x = images
        for halve, norm, dropout in zip(self.halvings, self.norms, self.dropouts, strict=True):
            x = kept_or_recomputed(self, self._halved, halve, norm, dropout, x, keys)
        return self.score(rearrange(self.minibatch(x), "n c h w -> n (c h w)"), labels)

    def _halved(self, halve: nn.Module, norm: nn.Module, dropout: nn.Module, x: Tensor, keys: Tensor | None) -> Tensor:
        return dropout(self.activation(norm(halve(x))), keys)

    def chain(self, labels: Tensor | None) -> Chain | None:
        """This critic for one update on pictures of these `labels`; None with a norm, dropout or minibatch statistic,
        which are no piecewise-linear functions of one picture."""
        if not self.piecewise_linear:
            return None
        links: list[Link] = []
        for halve in self.halvings:
            links += [Convolution(halve), Activation(self.activation)]
        return Chain([*links, Flattening(), Scoring(self.score, labels)])
