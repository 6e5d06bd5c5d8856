"""What a family of metrics is to the evaluator."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from distgan.evaluation.crew import Crew
from distgan.evaluation.shares import Share


class Family(Protocol):
    """Metrics that share what they are measured in. Its methods are collective."""

    def prepare(self, crew: Crew) -> str | None:
        """All that needs the real pictures alone; or why its metrics have to be left out, and what helps."""

    def measure(self, crew: Crew, fakes: Share, labels: Tensor | None) -> dict[str, float]:
        """The metrics of generated pictures, by name, on all processes. `labels`: those asked for, int64 [count]."""
