"""Pictures of curves: a metric of several runs over the pictures seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distgan.run_folder import RunFolder, read_lines

Curve = Sequence[tuple[float, float]]
"""Thousand real images, value."""


def curve(run: Path, metric: str) -> Curve:
    """A metric of metrics.jsonl, where it has a value."""
    lines = read_lines(RunFolder(run).metrics)
    return [(line["kimg"], line[metric]) for line in lines if line.get(metric) is not None]


def draw(panels: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """A panel under the other, each with its title and its named curves."""
    figure = Figure(figsize=(8, 2.6 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for name, points in curves.items():
            axis.plot(*zip(*points, strict=True), label=name, linewidth=1, marker="." if len(points) < 30 else None)
        axis.set_title(title, loc="left", fontsize=9)
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("kimg")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=80)
