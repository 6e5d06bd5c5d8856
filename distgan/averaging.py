"""The running average over the generator's weights, whose pictures are the ones to look at."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """An exponential moving average of a network's parameters; its buffers are copied."""

    def __init__(self, network: nn.Module) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, source: nn.Module, decay: float) -> None:
        """average <- decay * average + (1 - decay) * source."""
        torch._foreach_lerp_(list(self.network.parameters()), list(source.parameters()), 1 - decay)
        for mine, theirs in zip(self.network.buffers(), source.buffers(), strict=True):
            mine.copy_(theirs)
