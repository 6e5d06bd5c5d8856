"""Curves small enough for a page: fewer points a line that look the same, and the band of a group's seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distgan.compare.metrics import AXES
from distgan.compare.run_data import RunData
from distgan.compare.series import Series
from distgan.compare.summary import Group

_MOST_OF_ALL = 120_000
"""Points of a page, about; a browser draws them within seconds."""
_FEWEST, _MOST = 100, 2000
"""Points of one curve."""
_BAND = 100
"""Points of the common axis on which the mean of a group is taken."""


def points_of_a_curve(runs: Sequence[RunData], metrics: Sequence[str]) -> int:
    """Most that each curve may have."""
    curves = sum(metric in run.series.values for run in runs for metric in metrics)
    return int(np.clip(_MOST_OF_ALL // max(1, curves), _FEWEST, _MOST))


def thinned(values: np.ndarray, most: int) -> np.ndarray:
    """Positions, ascending, of at most `most` (8 or more) of some numbers: first and last, and lowest and
    highest of each of equally many neighbours, so that no spike is lost."""
    if len(values) <= most:
        return np.arange(len(values))
    pieces = (most - 2) // 2
    edges = np.linspace(0, len(values), pieces + 1).round().astype(int)
    kept = {0, len(values) - 1}
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        piece = values[start:end]
        kept |= {start + int(np.argmin(piece)), start + int(np.argmax(piece))}
    return np.array(sorted(kept))


def curve(series: Series, metric: str, most: int) -> dict[str, list]:
    """A metric, `y`, thinned, with all three axes; None where an axis is not known."""
    column = series.values.get(metric)
    if column is None:
        return {}
    there = np.flatnonzero(np.isfinite(column))
    kept = there[thinned(column[there], most)]
    return {"y": _rounded(column[kept]), **{axis: _rounded(series.axes[axis][kept]) for axis in AXES}}


def band(group: Group, metric: str, axis: str) -> dict[str, list] | None:
    """Mean and standard deviation over the runs of a group, each interpolated on a common axis, where two or more are
    under way; None where there are not two."""
    curves = [points for run in group.runs if len((points := run.series.points(metric, axis))[0])]
    if len(curves) < 2:
        return None
    start, end = sorted(x[0] for x, _ in curves)[1], sorted(x[-1] for x, _ in curves)[-2]
    if not start < end:
        return None
    common = np.linspace(start, end, _BAND)
    with np.errstate(over="ignore", invalid="ignore"):
        laid = np.array([np.interp(common, *_growing(x, y), left=np.nan, right=np.nan) for x, y in curves])
        laid[~np.isfinite(laid)] = np.nan
        shared = np.isfinite(laid).sum(0) >= 2
        mean, std = np.nanmean(laid[:, shared], 0), np.nanstd(laid[:, shared], 0, ddof=1)
    known = np.isfinite(mean) & np.isfinite(std)
    if not known.any():
        return None
    return {"x": _rounded(common[shared][known]), "mean": _rounded(mean[known]), "std": _rounded(std[known])}


def _growing(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By ascending x: hours may go back where a run was resumed from an older checkpoint."""
    order = np.argsort(x, kind="stable")
    return x[order], y[order]


def _rounded(column: np.ndarray) -> list[float | None]:
    """Six digits, as JSON has it."""
    return [None if value != value else float(f"{value:.6g}") for value in column.tolist()]
