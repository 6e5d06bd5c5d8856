"""What the runs came to: facts for a JSON file, and the tables of docs/results.md."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from benchmarks.experiments.cases import EXPERIMENTS
from benchmarks.tables import cpu_model, grid
from distgan.config import Config
from distgan.run_folder import RunFolder, read_lines

LOSSES = ("critic/loss", "generator/loss", "critic/wasserstein", "critic/penalty", "generator/diversity")
_LAST = 4
"""The spread of a loss is told of the last line in so many, as of the first."""


def machine(processes: int) -> dict[str, object]:
    """Where it ran."""
    return {"cpu": cpu_model(), "cores": os.cpu_count(), "processes": processes, "torch": torch.__version__}


def facts(name: str, config: Config, run: Path) -> dict[str, object]:
    """Of a training: its size, its time, and each loss as mean and standard deviation over the last quarter of its
    lines."""
    lines = list(read_lines(RunFolder(run).metrics))
    late = lines[-max(1, len(lines) // _LAST) :]
    return {
        "config": EXPERIMENTS[name].config,
        "steps": lines[-1]["step"],
        "kimg": lines[-1]["kimg"],
        "seconds": lines[-1]["seconds"],
        "seed": config.seed,
        "late": {metric: _spread(line[metric] for line in late if line.get(metric) is not None) for metric in LOSSES},
    }


def _spread(values: Iterable[float]) -> dict[str, float] | None:
    found = list(values)
    return {"mean": statistics.fmean(found), "std": statistics.pstdev(found)} if found else None


def of_trainings(found: Mapping[str, dict]) -> str:
    """A row for each run."""
    rows = [("run", "steps", "kimg", "seconds", "critic/loss", "generator/loss", "critic/wasserstein")]
    for name, fact in found.items():
        losses = [_told(fact["late"][metric]) for metric in ("critic/loss", "generator/loss", "critic/wasserstein")]
        rows.append((f"`{name}`", f"{fact['steps']:,}", f"{fact['kimg']:.0f}", f"{fact['seconds']:.0f}", *losses))
    return grid(rows)


def _told(spread: Mapping[str, float] | None) -> str:
    return "" if spread is None else f"{spread['mean']:.3f} ± {spread['std']:.3f}"
