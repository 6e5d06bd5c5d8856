"""The best and the last value of each metric in the lines of a run, whatever starts and rollbacks it had."""

from __future__ import annotations

from pathlib import Path

from distgan.run_folder import read_lines
from distgan.tracking.names import better


def bests(metrics: Path, chosen: tuple[str | None, str]) -> tuple[dict[str, float], dict[str, float]]:
    """The best values, of metrics that have one, and the last ones by name, of the lines in `metrics`; no last one
    of a metric that is null at the end. `chosen`: a
    metric more, and whether its `highest` or `lowest` value is the best (checkpoint.best, checkpoint.best_is)."""
    best: dict[str, float] = {}
    last: dict[str, float] = {}
    for line in read_lines(metrics):
        for name, value in line.items():
            if value is None:
                last.pop(name, None)  # an older number is not the last one
            if not isinstance(value, (int, float)):
                continue
            last[name] = value
            way = {"highest": "higher", "lowest": "lower"}[chosen[1]] if name == chosen[0] else better(name)
            if way is not None:
                best[name] = (max if way == "higher" else min)(value, best.get(name, value))
    return best, last
