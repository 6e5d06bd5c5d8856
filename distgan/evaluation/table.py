"""Evaluations in words: of one command, and of all along a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from distgan.errors import UserError
from distgan.tracking.names import better

_PREFIX = "evaluate/"
_BEST = "*"


class Evaluation(NamedTuple):
    """Of the generator after so many steps."""

    step: int
    kimg: float
    metrics: dict[str, float]
    """By their name without `evaluate/`."""


def recorded(file: Path) -> list[Evaluation]:
    """Those in a metrics.jsonl, in the order of their steps. Raises UserError where there is none."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, UnicodeError) as error:
        raise UserError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    found = {one.step: one for line in lines if (one := _of_line(line)) is not None}
    if not found:
        way_out = "set evaluate.every, or leave --table out to make one now"
        raise UserError(f"{file.parent}: no evaluation in its training yet; {way_out}")
    return [found[step] for step in sorted(found)]


def _of_line(text: str) -> Evaluation | None:
    """None for a line without an evaluation, or the torn one of a killed run."""
    try:
        line = json.loads(text)
        metrics = {name.removeprefix(_PREFIX): value for name, value in line.items() if name.startswith(_PREFIX)}
        return Evaluation(int(line["step"]), float(line["kimg"]), metrics) if metrics else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def table(evaluations: Sequence[Evaluation]) -> str:
    """A line each, columns aligned; of several the best value of each metric is marked."""
    names = list(dict.fromkeys(name for one in evaluations for name in one.metrics))
    bests = {name: _best(name, evaluations) for name in names} if len(evaluations) > 1 else {}
    rows = [["step", "kimg", *names]]
    for one in evaluations:
        cells = [_cell(one.metrics.get(name), one.step == bests.get(name)) for name in names]
        rows.append([str(one.step), f"{one.kimg:.4g}", *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if any(step is not None for step in bests.values()):
        lines.append(f"{_BEST} the best of its column")
    return "\n".join(lines)


def _cell(value: float | None, is_best: bool) -> str:
    mark = _BEST if is_best else " "
    return f"{value:.4g}{mark}" if value is not None else "- "


def _best(name: str, evaluations: Sequence[Evaluation]) -> int | None:
    """The step of the best value, the first of equals; None where no value of it is better than another."""
    which = better(_PREFIX + name)
    values = [(one.metrics[name], one.step) for one in evaluations if name in one.metrics]
    if which is None or not values:
        return None
    sign = 1 if which == "lower" else -1
    return min(values, key=lambda pair: sign * pair[0])[1]
