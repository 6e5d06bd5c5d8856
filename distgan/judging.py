"""The evaluations of a run in training: made ready at its start, then of the generator of now."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from distgan.config import MEASURED_BY, Config
from distgan.data.dataset import Dataset
from distgan.errors import ConfigError
from distgan.evaluation.crew import Interrupted
from distgan.evaluation.evaluator import Evaluator
from distgan.runtime import Runtime


class Judging:
    """Does nothing where `evaluate.every` is not set. Its methods are collective."""

    def __init__(self, config: Config, runtime: Runtime, dataset: Dataset, mark: Callable[[str], None]) -> None:
        """`mark` tells the watchdog what is being done."""
        self._config, self._mark = config, mark
        self._evaluator = None if config.evaluate.every is None else Evaluator(config, runtime, dataset)

    def prepare(self, is_to_stop: Callable[[], bool]) -> None:
        """What needs the real pictures alone; left undone where the run `is_to_stop`. Raises ConfigError where what is
        to choose the best checkpoint cannot be measured."""
        if self._evaluator is None:
            return
        self._evaluator.is_to_stop = is_to_stop
        try:
            self._evaluator.prepare(lambda: self._mark("preparing evaluations"))
        except Interrupted:
            return
        best = self._config.checkpoint.best or ""
        name = best.removeprefix("evaluate/")
        reason = self._evaluator.left_out.get(MEASURED_BY.get(name, name))
        if name != best and reason is not None:
            raise ConfigError(f"checkpoint.best: {best} cannot be measured here: {reason}; or use another metric")

    def of(self, generator: nn.Module) -> dict[str, float]:
        """How good its pictures are, by the names that lines have."""
        try:
            found = self._evaluator.measure(generator, lambda: self._mark("evaluating"))
        except Interrupted:  # before anything could be measured, so that there is nothing to lose
            return {}
        return {f"evaluate/{name}": value for name, value in found.items() if math.isfinite(value)}
