"""The numbers by which runs are compared: final, best, speed, and over the seeds of a group."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from distgan.compare.metrics import AXES
from distgan.compare.run_data import ENDED_WELL, RunData
from distgan.compare.series import Series
from distgan.tracking.names import DATA_WAIT, THROUGHPUT, better


@dataclass(frozen=True)
class Value:
    """Of a metric, at a line."""

    value: float
    at: dict[str, float | None]
    """step, kimg and hours of the line."""


@dataclass(frozen=True)
class Spread:
    """Over the runs of a group that have a number."""

    mean: float
    std: float | None
    """With n - 1 in the denominator; None of one run, and where no float is as large."""
    count: int


def final(series: Series, metric: str) -> Value | None:
    """Of the last line that names the metric; None where that line has no finite number."""
    column = series.values.get(metric)
    if column is None or metric in series.without_end:
        return None
    return _value(series, column, int(np.flatnonzero(np.isfinite(column))[-1]))


def best(series: Series, metric: str) -> Value | None:
    """Of all lines, the first of equals; None where a metric has no best."""
    column, which = series.values.get(metric), better(metric)
    if column is None or which is None:
        return None
    return _value(series, column, int(np.nanargmin(column) if which == "lower" else np.nanargmax(column)))


def _value(series: Series, column: np.ndarray, index: int) -> Value:
    return Value(float(column[index]), {axis: series.place(axis, index) for axis in AXES})


def spread(values: Iterable[Value | None]) -> Spread | None:
    """None of no number."""
    numbers = [value.value for value in values if value is not None]
    if not numbers:
        return None
    return Spread(statistics.mean(numbers), _deviation(numbers), len(numbers))


def _deviation(numbers: list[float]) -> float | None:
    try:
        return statistics.stdev(numbers) if len(numbers) > 1 else None
    except OverflowError:
        return None


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    name: str
    runs: list[RunData]

    @property
    def unfinished(self) -> int:
        return sum(run.state != ENDED_WELL for run in self.runs)

    def final(self, metric: str) -> Spread | None:
        return spread(final(run.series, metric) for run in self.runs)

    def best(self, metric: str) -> Spread | None:
        return spread(best(run.series, metric) for run in self.runs)


def groups_of(runs: Sequence[RunData]) -> list[Group]:
    """In the order of their first runs."""
    names = dict.fromkeys(run.group for run in runs)
    return [Group(name, [run for run in runs if run.group == name]) for name in names]


def images_per_second(series: Series) -> float | None:
    """The median of all lines."""
    return _of_lines(series, THROUGHPUT, np.nanmedian)


def data_wait(series: Series) -> float | None:
    """Share of the time, mean of all lines."""
    return _of_lines(series, DATA_WAIT, np.nanmean)


def _of_lines(series: Series, metric: str, take) -> float | None:
    column = series.values.get(metric)
    if column is None:
        return None
    with np.errstate(over="ignore"):
        value = float(take(column))
    return value if math.isfinite(value) else None
