"""Fully connected networks, for any resolution.

The MLP of WGAN (Arjovsky et al. 2017) and WGAN-GP has four layers with 512 units and ReLU: `width=512,
depth=3` hidden layers and the output layer. The critic here has LeakyReLU(0.2), as DCGAN's, where theirs has
ReLU.
"""

from __future__ import annotations

from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn

from distgan.networks import initialisation
from distgan.networks.activations import LeakyReLU, ReLU
from distgan.networks.chain import Activation, Chain, Flattening, Linear, Link, Scoring
from distgan.networks.choices import require
from distgan.networks.conditioning import LatentInput, Score
from distgan.networks.dropout import KeyedDropout
from distgan.networks.norms import FLAT_NORMS, build_norm, normalise
from distgan.networks.recomputing import kept_or_recomputed


class MLPGenerator(nn.Module):
    """[N, latent] to [N, C, R, R] in [-1, 1]: `depth` times (linear to `width`, norm, ReLU), linear, tanh.

    Raises ConfigError for an unknown norm, ValueError for labels that are missing or unwanted.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        classes: int = 0,
        latent: int = 128,
        width: int = 512,
        depth: int = 3,
        norm: str = "none",
    ) -> None:
        super().__init__()
        require("generator.norm", norm, FLAT_NORMS, within="generator.name mlp")
        self.latent, self.resolution = latent, resolution
        self.input = LatentInput(latent, classes, concatenate=norm == "none")
        widths = [self.input.features] + [width] * depth
        self.hidden = nn.ModuleList(nn.Linear(a, b, bias=norm == "none") for a, b in pairwise(widths))
        self.norms = nn.ModuleList(build_norm(norm, width, classes) for _ in range(depth))
        self.activation = ReLU()
        self.output = nn.Linear(widths[-1], channels * resolution**2)
        initialisation.mlp(self)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.input(latent, labels)
        for linear, norm in zip(self.hidden, self.norms, strict=True):
            x = kept_or_recomputed(self, self._layer, linear, norm, x, labels)
        images = self.output(x).tanh()
        return rearrange(images, "n (c h w) -> n c h w", h=self.resolution, w=self.resolution)

    def _layer(self, linear: nn.Module, norm: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
        return self.activation(normalise(norm, linear(x), labels))


class MLPCritic(nn.Module):
    """Images [N, C, R, R] to scores [N]: `depth` times (linear to `width`, norm, LeakyReLU, dropout), linear.

    `keys` [N] are the image keys of the dropout. Raises ConfigError for an unknown norm, ValueError for
    labels or keys that are missing or unwanted.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        classes: int = 0,
        width: int = 512,
        depth: int = 3,
        norm: str = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require("critic.norm", norm, FLAT_NORMS, within="critic.name mlp")
        widths = [channels * resolution**2] + [width] * depth
        self.hidden = nn.ModuleList(nn.Linear(a, b, bias=norm == "none") for a, b in pairwise(widths))
        self.norms = nn.ModuleList(build_norm(norm, width) for _ in range(depth))
        self.activation = LeakyReLU()
        self.dropouts = nn.ModuleList(KeyedDropout(dropout, f"dropout {i}") for i in range(depth))
        self.score = Score(widths[-1], classes)
        self.piecewise_linear = norm == "none" and not dropout
        initialisation.mlp(self)

    def forward(self, images: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        x = rearrange(images, "n c h w -> n (c h w)")
        for linear, norm, dropout in zip(self.hidden, self.norms, self.dropouts, strict=True):
            x = kept_or_recomputed(self, self._layer, linear, norm, dropout, x, keys)
        return self.score(x, labels)

    def _layer(self, linear: nn.Module, norm: nn.Module, dropout: nn.Module, x: Tensor, keys: Tensor | None) -> Tensor:
        return dropout(self.activation(norm(linear(x))), keys)

    def chain(self, labels: Tensor | None) -> Chain | None:
        """This critic for one update on pictures of these `labels`; None with a norm or dropout, which are no
        piecewise-linear functions of one picture."""
        if not self.piecewise_linear:
            return None
        links: list[Link] = [Flattening()]
        for linear in self.hidden:
            links += [Linear(linear), Activation(self.activation)]
        return Chain([*links, Scoring(self.score, labels)])
