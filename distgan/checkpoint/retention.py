"""Which checkpoints stay."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from distgan.checkpoint.files import set_aside, steps_in

Stretch = Callable[[int], int]
"""In which stretch of training a step lies, counted from 0."""


def kept(steps: Sequence[int], keep: int, stretch: Stretch | None = None, best: int | None = None) -> set[int]:
    """Of ascending steps those whose checkpoints stay: the newest `keep`, the first of each stretch but the one that
    the run begins in, and `best`."""
    stay = set(steps[-keep:]) | ({best} & set(steps))
    if stretch is not None:
        firsts: dict[int, int] = {}
        for step in steps:
            firsts.setdefault(stretch(step), step)
        stay |= {step for number, step in firsts.items() if number > 0}
    return stay


def prune(checkpoints: Path, newest: int, keep: int, stretch: Stretch | None = None, best: int | None = None) -> None:
    """Removes the checkpoints that need not stay, and what a killed process left behind.

    `newest` is the step of the one just written: any later one was damaged, or the run would have gone on from it.
    """
    steps = steps_in(checkpoints)
    stay = kept([step for step in steps if step <= newest], keep, stretch, best)
    for step in set(steps) - stay:
        with contextlib.suppress(OSError):
            set_aside(checkpoints / f"{step:08d}")
    sweep(checkpoints)


def sweep(checkpoints: Path) -> None:
    """Removes what a killed process left behind; nobody may be writing there."""
    for path in list(checkpoints.iterdir()):
        if path.name.startswith(".") and path.name.endswith((".part", ".old")):
            shutil.rmtree(path, ignore_errors=True)
