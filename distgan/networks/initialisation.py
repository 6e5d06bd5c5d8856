"""Initial weights, as in the papers whose networks these are. Biases start at 0."""

from __future__ import annotations

import math

from torch import nn

from distgan.networks.conditioning import Score
from distgan.networks.norms import GlobalBatchNorm


def dcgan(network: nn.Module, deviation: float = 0.02) -> None:
    """Weights from N(0, 0.02²), unconditional norm gains from N(1, 0.02²) (Radford et al. 2016 and their
    code)."""
    for part in network.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(part.weight, 0.0, deviation)
            _zero_bias(part)
        elif isinstance(part, (GlobalBatchNorm, nn.GroupNorm)) and part.weight is not None:
            nn.init.normal_(part.weight, 1.0, deviation)
    _projections(network, deviation)


def glorot(network: nn.Module) -> None:
    """Uniform with variance 2 / (fan in + fan out) for every linear and convolution layer (Glorot and Bengio
    2010); projection embeddings likewise. `he` then marks the layers that feed or follow a ReLU."""
    for part in network.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(part.weight)
            _zero_bias(part)
        if isinstance(part, Score):
            _projections(part, math.sqrt(2.0 / (part.linear.in_features + 1)))


def he(*layers: nn.Conv2d) -> None:
    """Uniform with variance 4 / (fan in + fan out), the "he_init" of the authors' code of WGAN-GP."""
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2.0))


def mlp(network: nn.Module) -> None:
    """Hidden layers uniform with variance 2 / fan in (He et al. 2015), the last one as `glorot`."""
    glorot(network)
    for part in network.modules():
        if isinstance(part, nn.Linear):
            last = part
    for part in network.modules():
        if isinstance(part, nn.Linear) and part is not last:
            nn.init.kaiming_uniform_(part.weight, nonlinearity="relu")


def _zero_bias(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> None:
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _projections(network: nn.Module, deviation: float) -> None:
    for part in network.modules():
        if isinstance(part, Score) and part.embedding is not None:
            nn.init.normal_(part.embedding.weight, 0.0, deviation)
