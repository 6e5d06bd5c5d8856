"""A run as `distgan compare` knows it, wherever it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distgan.compare.series import Series
from distgan.config import flatten
from distgan.config.loading import validate
from distgan.errors import ConfigError
from distgan.grouping import group_of

ENDED_WELL = "finished"
STILL_GOING = ("running", "queued", "requeued")


@dataclass(frozen=True)
class RunData:
    """What is compared of a run."""

    name: str
    """Short, and no other run's."""
    place: str
    """Where it was read: a path as it was given, or a path on a server."""
    config: dict[str, object]
    """By key path; empty where there is none."""
    series: Series
    state: str
    """As `distgan runs` has it, or a server's word."""
    why: str | None = None
    """What there is to say of the state."""
    environment: dict[str, str] = field(default_factory=dict)
    """Of the newest start, for a person."""
    notes: str = ""
    tags: tuple[str, ...] = ()
    grids: dict[float, Path] = field(default_factory=dict)
    """Sample grids by kimg, ascending."""
    reals: Path | None = None
    """A grid of real pictures."""
    problems: tuple[str, ...] = ()
    """What is wrong with its files."""

    @property
    def group(self) -> str:
        """The same for runs that differ in their seed alone; a run without a config is a group of its own."""
        return group_of(self.config) if self.config else self.name

    @property
    def seed(self) -> object:
        return self.config.get("seed")


def settings_of(tree: Mapping) -> dict[str, object]:
    """A config by key path, as this version reads it; one of another version, or of another program, as it stands."""
    plain = {key: value for key, value in tree.items() if not str(key).startswith("_")}
    try:
        return flatten(validate(plain))
    except ConfigError:
        return {path: _whole(value) for path, value in _paths(plain, "")}


def _whole(value: object) -> object:
    """1.0 as 1, which is what W&B makes of it."""
    if isinstance(value, list):
        return [_whole(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def by_kimg(grids: Mapping[int, Path], series: Series, config: Mapping[str, object]) -> dict[float, Path]:
    """Grids by step as grids by kimg, ascending; none where nothing says how many images a step has."""
    known = (series.axes["step"] > 0) & np.isfinite(series.axes["kimg"])
    steps, kimg = (np.concatenate([[0.0], series.axes[axis][known]]) for axis in ("step", "kimg"))
    if not steps[-1]:
        factors = (config.get("train.batch_size"), config.get("train.critic_steps"))
        if not all(isinstance(factor, int) for factor in factors):
            return {}
        steps, kimg = np.array([0.0, 1.0]), np.array([0.0, factors[0] * factors[1] / 1000])
    return {_between(step, steps, kimg): path for step, path in sorted(grids.items())}


def _between(step: int, steps: np.ndarray, kimg: np.ndarray) -> float:
    """The kimg of a step: on the line through the two known steps around it, as a step of a run that grows has other
    images at each resolution; after the last one, through the last two."""
    after = min(max(int(np.searchsorted(steps, step)), 1), len(steps) - 1)
    slope = (kimg[after] - kimg[after - 1]) / (steps[after] - steps[after - 1])
    return float(kimg[after] - (steps[after] - step) * slope)


def _paths(tree: Mapping, prefix: str):
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
