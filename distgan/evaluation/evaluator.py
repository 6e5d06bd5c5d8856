"""Evaluates generators of a run: `evaluate.metrics` of `evaluate.count` pictures, on all processes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from distgan.config import Config
from distgan.data.dataset import Dataset
from distgan.errors import ConfigError
from distgan.evaluation.crew import Crew, block_of
from distgan.evaluation.family import Family
from distgan.evaluation.own import Own
from distgan.evaluation.reals import Reals
from distgan.evaluation.shares import drawn
from distgan.evaluation.similarity import Similarity
from distgan.evaluation.sliced import Sliced
from distgan.evaluation.store import Store
from distgan.runtime import Runtime
from distgan.sampling.fixed import evaluating
from distgan.trouble import tell

_FEWEST = {"precision_recall_own": 4, "precision_recall": 4, "inception_score": 10}
"""Pictures without which a metric is not defined: its third neighbour, its ten parts."""


def _still() -> None:
    pass


class Evaluator:
    """The metrics of a run's config. Nothing that it does draws from a random generator with a state.

    The labels that a conditional generator is asked for are those of the real pictures that it is compared with:
    classes come as often as among the reals, so that distances and `modes_kl` are of what it makes of them, and not of
    a choice of labels; `label_accuracy` is the share of its pictures that the classifier takes for what was asked for.
    """

    def __init__(self, config: Config, runtime: Runtime, dataset: Dataset) -> None:
        """Raises ConfigError where the pictures of the dataset cannot be compared with."""
        self._config, self._runtime = config, runtime
        self._reals = Reals(dataset, config.evaluate.count)
        self._asked = list(dict.fromkeys(config.evaluate.metrics))
        _check_count(config.evaluate.count, self._asked)
        self._families: list[Family] | None = None
        self.left_out: dict[str, str] = {}
        """Of evaluate.metrics, what cannot be measured here, and why; known once it is prepared."""
        self.is_to_stop: Callable[[], bool] = lambda: False
        """Asked on the main process while a classifier is trained."""

    def prepare(self, moved: Callable[[], None] = _still) -> None:
        """All that needs the real pictures alone, unless it is there already. Collective; `moved` is called after each
        block of work, equally often on all processes. Raises UserError for what evaluate names and is not there,
        and Interrupted where `is_to_stop` said so: it is then to be prepared anew."""
        if self._families is not None:
            return
        ready = []
        with self._crew(moved) as crew:
            for names, family in self._of_metrics():
                reason = family.prepare(crew)
                if reason is None:
                    ready.append(family)
                    continue
                self.left_out |= dict.fromkeys(names, reason)
                if self._runtime.is_main:
                    tell(f"evaluate: {', '.join(names)} left out: {reason}")
        self._families = ready

    def measure(self, generator: nn.Module, moved: Callable[[], None] = _still) -> dict[str, float]:
        """The metrics of a generator by name, the same on all processes. Collective, `moved` as in `prepare`.

        The generator is in any mode, and is left as it was; the pictures are those of its evaluation mode."""
        self.prepare(moved)
        found: dict[str, float] = {}
        if not self._families:
            return found
        with self._crew(moved) as crew, evaluating(generator):
            count, labels = self._config.evaluate.count, self._labels()
            fakes = drawn(crew, generator, self._config.seed, count, labels)
            for family in self._families:
                found |= family.measure(crew, fakes, labels)
        return found

    def _crew(self, moved: Callable[[], None]) -> Crew:
        return Crew(self._runtime, block_of(self._config.data.resolution), moved, lambda: self.is_to_stop())

    def _of_metrics(self) -> list[tuple[list[str], Family]]:
        """The families that are asked for, each with those of evaluate.metrics that it has."""
        reals, store = self._reals, Store(self._reals.dataset)
        families = {
            ("swd",): lambda asked: Sliced(reals, store),
            ("ms_ssim",): lambda asked: Similarity(),
            ("fd_own", "precision_recall_own", "modes"): lambda asked: Own(asked, reals, store),
            ("fid", "kid", "inception_score", "precision_recall"): lambda asked: self._inception(asked, store),
        }
        found = []
        for names, make in families.items():
            if asked := [name for name in self._asked if name in names]:
                found.append((asked, make(asked)))
        return found

    def _inception(self, asked: list[str], store: Store) -> Family:
        from distgan.evaluation.inception import Inception  # torch-fidelity takes a second to load

        return Inception(asked, self._reals, store, self._config.evaluate.inception)

    def _labels(self) -> Tensor | None:
        """int64 [count]."""
        if not self._config.data.classes:
            return None
        labels = self._reals.labels[: self._reals.compared]
        return labels.repeat(-(-self._config.evaluate.count // len(labels)))[: self._config.evaluate.count]


def _check_count(count: int, asked: list[str]) -> None:
    """Raises ConfigError."""
    for name in asked:
        if count < _FEWEST.get(name, 0):
            raise ConfigError(f"evaluate.count: {count} pictures are too few for {name}; use {_FEWEST[name]} or more")
