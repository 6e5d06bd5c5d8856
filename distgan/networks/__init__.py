"""Generators and critics by name. A new family: one file, and one line in each of the two tables."""

from __future__ import annotations

from torch import nn

from distgan.networks.choices import require
from distgan.networks.dcgan import DCGANCritic, DCGANGenerator
from distgan.networks.mlp import MLPCritic, MLPGenerator
from distgan.networks.modern import ModernCritic, ModernGenerator
from distgan.networks.norms import GlobalBatchNorm, batch_norms
from distgan.networks.progressive import ProgressiveCritic, ProgressiveGenerator
from distgan.networks.recomputing import recompute
from distgan.networks.residual import ResidualCritic
from distgan.networks.resnet import ResNetCritic, ResNetGenerator
from distgan.networks.skip import SkipGenerator

__all__ = ["CRITICS", "GENERATORS", "GlobalBatchNorm", "batch_norms", "build_critic", "build_generator", "recompute"]

GENERATORS: dict[str, type[nn.Module]] = {
    "mlp": MLPGenerator,
    "dcgan": DCGANGenerator,
    "resnet": ResNetGenerator,
    "progressive": ProgressiveGenerator,
    "skip": SkipGenerator,
    "modern": ModernGenerator,
}

CRITICS: dict[str, type[nn.Module]] = {
    "mlp": MLPCritic,
    "dcgan": DCGANCritic,
    "resnet": ResNetCritic,
    "progressive": ProgressiveCritic,
    "residual": ResidualCritic,
    "modern": ModernCritic,
}


def build_generator(name: str, *, resolution: int, channels: int, classes: int, **settings: object) -> nn.Module:
    """The generator `name` with its own `settings`; unconditional when `classes` is 0.

    Its forward takes the latent [N, latent] and labels [N] int64 or None, and returns images
    [N, channels, resolution, resolution] in [-1, 1], of families without a last tanh: about. Raises ConfigError for
    what the family does not offer.
    """
    require("generator.name", name, GENERATORS)
    return GENERATORS[name](resolution=resolution, channels=channels, classes=classes, **settings)


def build_critic(name: str, *, resolution: int, channels: int, classes: int, **settings: object) -> nn.Module:
    """The critic `name` with its own `settings`; unconditional when `classes` is 0.

    Its forward takes images [N, channels, resolution, resolution], labels [N] int64 or None and, for the
    dropout, image keys [N] int64 or None, and returns scores [N]. Raises ConfigError for what the family does
    not offer.
    """
    require("critic.name", name, CRITICS)
    return CRITICS[name](resolution=resolution, channels=channels, classes=classes, **settings)
