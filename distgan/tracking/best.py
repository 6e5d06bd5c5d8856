"""The best and the last value of each metric in the lines of a run, whatever starts and rollbacks it had."""

from __future__ import annotations

from pathlib import Path

from distgan.run_folder import read_lines
from distgan.tracking.names import DIVERSITY, GAP, HELD_OUT, THROUGHPUT

HIGHEST, LOWEST = "highest", "lowest"
BEST = {
    "critic/wasserstein": LOWEST,
    HELD_OUT: LOWEST,
    GAP: LOWEST,
    DIVERSITY: HIGHEST,
    THROUGHPUT: HIGHEST,
}
"""Of which metrics there is a best value, and which one it is; of all under `evaluate/` it is the lowest."""
_EARLY = 0.1
"""Share of a run whose lines count for no best value: a critic that knows nothing yet sees no distance."""


def bests(metrics: Path, chosen: tuple[str | None, str], total: int) -> tuple[dict[str, float], dict[str, float]]:
    """The best values and the last ones by name, of the lines in `metrics`. `chosen`: a metric more that has a best
    one, and which that is; `total`: steps of the whole run."""
    ways = {**BEST, **({chosen[0]: chosen[1]} if chosen[0] else {})}
    best: dict[str, float] = {}
    last: dict[str, float] = {}
    for line in read_lines(metrics):
        for name, value in line.items():
            if not isinstance(value, (int, float)):
                continue
            last[name] = value
            way = LOWEST if name.startswith("evaluate/") else ways.get(name)
            if way is not None and line["step"] > _EARLY * total:
                better = max if way == HIGHEST else min
                best[name] = better(value, best.get(name, value))
    return best, last
