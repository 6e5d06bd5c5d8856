"""The place of a metric among the others, by its name."""

from __future__ import annotations

from fnmatch import fnmatchcase

from distgan.tracking.names import DATA_WAIT, THROUGHPUT

AXES = ("step", "kimg", "hours")

_ORDER = (
    "evaluate/*",
    "critic/wasserstein",
    "critic/wasserstein_held_out",
    "critic/held_out_gap",
    "critic/loss",
    "generator/loss",
    "critic/penalty",
    "critic/grad_norm_mean",
    "critic/grad_norm_max",
    "critic/gradient_norm",
    "generator/gradient_norm",
    "critic/update_norm",
    "generator/update_norm",
    "generator/*",
    "critic/*",
    THROUGHPUT,
    DATA_WAIT,
    "throughput/*",
    "memory/*",
    "*",
)

_TOLD = (
    "evaluate/*",
    "critic/wasserstein",
    "critic/wasserstein_held_out",
    "critic/grad_norm_mean",
    "generator/diversity",
    THROUGHPUT,
)

_BESIDE = ("evaluate/*_floor", "evaluate/*_[0-9]*")
"""Of those, what stands beside another one: floors, and single levels of the pyramid."""


def in_order(names: set[str]) -> list[str]:
    """What says most first; by name within the same kind."""
    return sorted(names, key=lambda name: (_place(name), name))


def told(names: list[str]) -> list[str]:
    """Those that a table on a terminal has room for, where nobody has chosen."""
    wide = [name for name in names if any(fnmatchcase(name, pattern) for pattern in _TOLD)]
    return [name for name in wide if not any(fnmatchcase(name, pattern) for pattern in _BESIDE)]


def _place(name: str) -> int:
    exact = [place for place, pattern in enumerate(_ORDER) if pattern == name]
    return next(iter(exact), None) or next(i for i, pattern in enumerate(_ORDER) if fnmatchcase(name, pattern))
