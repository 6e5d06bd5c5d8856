"""Collapse, as it is watched for while training: how alike samples are, and what the lines show. Main process only."""

from __future__ import annotations

import torch
from torch import nn

from distgan import randomness
from distgan.config import Config
from distgan.sampling.fixed import generate
from distgan.tracking.diversity import COUNT, spread
from distgan.tracking.names import DIVERSITY
from distgan.tracking.symptoms import Symptoms
from distgan.trouble import tell


class CollapseWatch:
    """Measures generator/diversity, and warns of what the lines show. It never ends a run."""

    def __init__(self, config: Config, generator: nn.Module, real: float, lines: list[dict]) -> None:
        """`generator`: in evaluation mode; `real`: the spread of real pictures; `lines`: those of earlier starts."""
        self._config, self._generator, self._real = config, generator, real
        self.rewind(lines)

    def rewind(self, lines: list[dict]) -> None:
        """Goes on after `lines`."""
        self._symptoms = Symptoms(self._config.objective, lines)

    def diversity(self) -> dict[str, float]:
        """How different samples are, over how different real pictures are: near 1 healthy, near 0 collapsed.

        A function of the weights, the seed and the real pictures, whatever the number of processes."""
        if not self._real:  # one picture, or all the same
            return {}
        config = self._config
        keys = randomness.image_keys(randomness.key(config.seed, "diversity"), torch.arange(COUNT))
        labels = torch.arange(COUNT) % config.data.classes if config.data.classes else None
        return {DIVERSITY: spread(generate(self._generator, keys, labels)) / self._real}

    def look(self, line: dict) -> None:
        """Warns of what this line is the first to show."""
        for text in self._symptoms.see(line):
            tell(f"warning: step {line['step']}: {text}")
