"""The lines of a run as columns of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from distgan.histogram import CELLS
from distgan.tracking.names import HISTOGRAM

_SECONDS_AN_HOUR = 3600
_PLACES = ("step", "kimg", "seconds")
_PLAIN = {float, int, type(None)}
_MANY = 2**63
"""More than any cell of a histogram counts."""


@dataclass(frozen=True)
class Series:
    """The lines of a run, ascending in step, each step once."""

    axes: dict[str, np.ndarray]
    """step, kimg and hours, float64 [lines]; NaN where a line does not say."""
    values: dict[str, np.ndarray]
    """By metric, float64 [lines]; NaN where a line has no finite number for it."""
    without_end: frozenset[str]
    """Metrics of which the last line that names them has no finite number."""
    histogram: list[float] | None
    """Gradient norms of the critic in the cells of `distgan.histogram`, of the last line that has them."""

    @property
    def is_empty(self) -> bool:
        return not len(self.axes["step"])

    def end(self, axis: str) -> float | None:
        """How far the run has come; None where no line says."""
        known = np.flatnonzero(np.isfinite(self.axes[axis]))
        return self.place(axis, int(known[-1])) if len(known) else None

    def place(self, axis: str, index: int) -> float | None:
        """Where a line stands, a step as a whole number; None where it does not say."""
        x = float(self.axes[axis][index])
        return None if not math.isfinite(x) else int(x) if axis == "step" else x

    def points(self, metric: str, axis: str) -> tuple[np.ndarray, np.ndarray]:
        """Where a metric has a number, and the number: two arrays of equal length."""
        x, y = self.axes[axis], self.values.get(metric)
        if y is None:
            return np.empty(0), np.empty(0)
        there = np.isfinite(x) & np.isfinite(y)
        return x[there], y[there]


def series_of(lines: Iterable[dict]) -> Series:
    """Of lines as metrics.jsonl has them. Of several of one step the last counts; what is no number is passed over."""
    alike: dict[tuple[str, ...], tuple[list[int], list[tuple]]] = {}
    count = 0
    for count, line in enumerate(lines, 1):
        indices, rows = alike.setdefault(tuple(line), ([], []))
        indices.append(count - 1)
        rows.append(tuple(line.values()))
    columns: dict[str, np.ndarray] = {}
    named: dict[str, np.ndarray] = {}
    for names, (indices, rows) in alike.items():
        for name, values in zip(names, zip(*rows, strict=True), strict=True):
            columns.setdefault(name, np.full(count, np.nan))[indices] = _numbers(values)
            named.setdefault(name, np.zeros(count, bool))[indices] = True
    nowhere = np.full(count, np.nan)
    kept = _last_of_each(columns.get("step", nowhere))
    columns = {name: column[kept] for name, column in columns.items()}
    axes = {
        "step": columns.get("step", nowhere[kept]),
        "kimg": columns.get("kimg", nowhere[kept]),
        "hours": columns.get("seconds", nowhere[kept]) / _SECONDS_AN_HOUR,
    }
    values = {name: column for name, column in columns.items() if name not in _PLACES and np.isfinite(column).any()}
    ends = {name: column[np.flatnonzero(named[name][kept])[-1]] for name, column in values.items()}
    without_end = frozenset(name for name, end in ends.items() if not math.isfinite(end))
    return Series(axes, values, without_end, _last_histogram(alike, kept))


def _numbers(values: tuple) -> np.ndarray:
    """NaN for what is no finite number."""
    try:
        numbers = np.array(values if set(map(type, values)) <= _PLAIN else [*map(_number, values)], dtype=float)
    except OverflowError:
        numbers = np.array([*map(_number, values)])
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def _number(value: object) -> float:
    try:
        return float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        return math.nan


def _last_of_each(step: np.ndarray) -> np.ndarray:
    """Positions, ascending in step, of the last line of each step."""
    order = np.argsort(step, kind="stable")
    ordered = step[order]
    return order[np.append(ordered[1:] != ordered[:-1], True)] if len(order) else order


def _last_histogram(
    alike: dict[tuple[str, ...], tuple[list[int], list[tuple]]], kept: np.ndarray
) -> list[float] | None:
    """`kept`: which lines count, in their order."""
    places = {
        index: (names.index(HISTOGRAM), row)
        for names, (indices, rows) in alike.items()
        if HISTOGRAM in names
        for index, row in zip(indices, rows, strict=True)
    }
    lasts = (row[column] for column, row in (places[index] for index in reversed(kept.tolist()) if index in places))
    return next(filter(_is_histogram, lasts), None)


def _is_histogram(value: object) -> bool:
    is_whole = isinstance(value, list) and len(value) == CELLS
    return (
        is_whole and all(isinstance(count, (int, float)) and 0 <= count < _MANY for count in value) and sum(value) > 0
    )
