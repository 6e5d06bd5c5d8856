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
    """Of a training: its size, its time, its losses at the first and at the last line, and each as mean and standard
    deviation over the last quarter of the lines."""
    lines = list(read_lines(RunFolder(run).metrics))
    late = lines[-max(1, len(lines) // _LAST) :]
    first, last = lines[0], lines[-1]
    return {
        "config": EXPERIMENTS[name].config,
        "seed": config.seed,
        **{key: last[key] for key in ("step", "kimg", "seconds")},
        "first": {metric: first.get(metric) for metric in LOSSES},
        "last": {metric: last.get(metric) for metric in LOSSES},
        "late": {metric: _spread(line[metric] for line in late if line.get(metric) is not None) for metric in LOSSES},
    }


def _spread(values: Iterable[float]) -> dict[str, float] | None:
    found = list(values)
    return {"mean": statistics.fmean(found), "std": statistics.pstdev(found)} if found else None


def tables(found: Mapping[str, dict]) -> str:
    """All of docs/results.md, from the facts of runs by name."""
    checkered = {name: fact for name, fact in found.items() if "checkerboard" in fact}
    parts = [_of_trainings(found), _of_evaluations(found), *([_of_checkerboards(checkered)] if checkered else [])]
    return "\n\n".join(parts)


def _of_trainings(found: Mapping[str, dict]) -> str:
    told = ("critic/loss", "generator/loss", "critic/wasserstein")
    rows = [("run", "steps", "kimg", "seconds", *(f"{metric}, last quarter" for metric in told))]
    for name, fact in found.items():
        losses = [_with_spread(fact["late"][metric]) for metric in told]
        rows.append((f"`{name}`", f"{fact['step']:,}", f"{fact['kimg']:.0f}", f"{fact['seconds']:.0f}", *losses))
    return grid(rows)


def _of_evaluations(found: Mapping[str, dict]) -> str:
    """A row for each checkpoint; in brackets the floor, what as many other real pictures come to. The Wasserstein
    estimate is that of the last line before it."""
    rows = [("run", "kimg", "wasserstein", "swd", "fd_own", "modes", "modes_kl", "label_accuracy", "ms_ssim")]
    for name, fact in found.items():
        for one in fact["evaluations"]:
            rows.append(
                (f"`{name}`", f"{one['kimg']:.0f}", _number(one.get("wasserstein")), *_measured(one["metrics"]))
            )
    return grid(rows)


def _measured(metrics: Mapping[str, float]) -> list[str]:
    def with_floor(metric: str) -> str:
        floor = metrics.get(f"{metric}_floor")
        return _number(metrics.get(metric)) + ("" if floor is None else f" ({_number(floor)})")

    plain = ("modes", "modes_kl", "label_accuracy", "ms_ssim")
    return [with_floor("swd"), with_floor("fd_own"), *(_number(metrics.get(metric)) for metric in plain)]


def _of_checkerboards(found: Mapping[str, dict]) -> str:
    rows = [("run", "step", "checkerboard")]
    for name, fact in found.items():
        rows += [(f"`{name}`", step, f"{value:.3f}") for step, value in fact["checkerboard"].items()]
    return grid(rows)


def _with_spread(spread: Mapping[str, float] | None) -> str:
    return "" if spread is None else f"{spread['mean']:.3f} ± {spread['std']:.3f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
