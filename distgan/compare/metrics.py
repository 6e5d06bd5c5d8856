"""What is known of a metric by its name: its place among the others, and which of two values is better."""

from __future__ import annotations

from fnmatch import fnmatchcase

from distgan.tracking.names import DATA_WAIT, THROUGHPUT

AXES = ("step", "kimg", "hours")

_BETTER = {
    "evaluate/*fid*": "lower",
    "evaluate/*kid*": "lower",
    "evaluate/*mmd*": "lower",
    "evaluate/*swd*": "lower",
    "evaluate/*distance*": "lower",
    "evaluate/*inception*": "higher",
    "evaluate/*precision*": "higher",
    "evaluate/*recall*": "higher",
    "evaluate/*density*": "higher",
    "evaluate/*coverage*": "higher",
    "evaluate/*modes*": "higher",
    THROUGHPUT: "higher",
    DATA_WAIT: "lower",
}
"""First match counts. What is not here has no best: the losses of a game, and a Wasserstein estimate, which grows while
the critic learns and falls while the generator does, say nothing by being large or small."""

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


def better(name: str) -> str | None:
    """lower, higher, or None where a metric has no best."""
    return next((which for pattern, which in _BETTER.items() if fnmatchcase(name, pattern)), None)


def in_order(names: set[str]) -> list[str]:
    """What says most first; by name within the same kind."""
    return sorted(names, key=lambda name: (_place(name), name))


def told(names: list[str]) -> list[str]:
    """Those that a table on a terminal has room for, where nobody has chosen."""
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in _TOLD)]


def _place(name: str) -> int:
    exact = [place for place, pattern in enumerate(_ORDER) if pattern == name]
    return next(iter(exact), None) or next(i for i, pattern in enumerate(_ORDER) if fnmatchcase(name, pattern))
