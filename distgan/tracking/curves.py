"""curves.png: the losses of a run, to be looked at without any tool."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distgan.files import new_file
from distgan.run_folder import read_lines

_PANELS = (
    ("loss", ("critic/loss", "generator/loss")),
    ("E D(real) - E D(fake)", ("critic/wasserstein",)),
    ("penalty (mean, unweighted)", ("critic/penalty",)),
    ("gradient norm of the critic", ("critic/grad_norm_mean", "critic/grad_norm_max")),
)


def save_curves(metrics: Path, path: Path) -> None:
    """Draws the losses of a metrics.jsonl over its steps; panels without data are left out."""
    lines = list(read_lines(metrics))
    panels = [(title, [n for n in names if any(line.get(n) is not None for line in lines)]) for title, names in _PANELS]
    panels = [(title, names) for title, names in panels if names]
    if not panels:
        return
    figure = Figure(figsize=(10, 2.6 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
            axis.plot(*zip(*points, strict=True), label=name, linewidth=1, marker="." if len(points) < 30 else None)
        axis.set_title(title, loc="left", fontsize=9)
        axis.legend(loc="upper right", fontsize=8)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    with new_file(path) as file:
        figure.savefig(file, format="png", dpi=100)
