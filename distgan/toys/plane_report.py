"""Generators of points in the plane as a table and as a picture."""

from __future__ import annotations

import sys
import time
from typing import BinaryIO, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from distgan.toys import report
from distgan.toys.plane import EVALUATION, METHODS, Method, Trained, Training, evaluation_keys, train
from distgan.toys.points import DISTRIBUTIONS, FAIR, NEAR, Match, match

SECONDS_A_LINE = 5.0
_SIDE = 160
"""Points along each side of the critic's surface."""
_MARGIN = 1.25


class Panel(NamedTuple):
    """What one method came to."""

    method: Method
    trained: Trained
    points: Tensor
    """Generated, [N, 2]."""
    match: Match


class Found(NamedTuple):
    """What all methods came to on one distribution."""

    data: str
    training: Training
    real: Tensor
    """Points [N, 2] of the distribution, with which all are compared."""
    floor: Match
    """How well other points of the distribution match these: no generator can be expected to do better."""
    panels: list[Panel]


class _Progress:
    """A bar on a terminal, now and then a line in a file."""

    def __init__(self, total: int) -> None:
        self.bar = tqdm(total=total, unit="step", disable=None)
        self.done, self.told = 0, time.monotonic()

    def tick(self) -> None:
        self.bar.update()
        self.done += 1
        if self.bar.disable and time.monotonic() - self.told >= SECONDS_A_LINE:
            self.told = time.monotonic()
            print(f"plane: {self.done} of {self.bar.total} steps", file=sys.stderr, flush=True)


def measure_all(data: str, methods: list[str], training: Training) -> Found:
    """Trains each of `methods` on `data` and measures it. Raises Diverged."""
    torch.set_num_threads(1)  # the matrices are small, and the last digits shall not depend on the cores
    distribution = DISTRIBUTIONS[data]
    real, other = (distribution.draw(evaluation_keys(training, name)) for name in ("real", "floor"))
    progress, panels = _Progress(training.steps * len(methods)), []
    with progress.bar:
        for method in (METHODS[name] for name in methods):
            trained = train(method, distribution, training, progress.tick)
            points = trained.points(evaluation_keys(training, "generated"))
            panels.append(Panel(method, trained, points, match(points, real, distribution)))
    return Found(data, training, real, match(other, real, distribution), panels)


def table(found: Found) -> str:
    """A row for the distribution itself and one for each method, and what the columns mean."""
    rows = [_row("other real points", found.floor, found.data)]
    rows += [_row(panel.method.title, panel.match, found.data) for panel in found.panels]
    modes = DISTRIBUTIONS[found.data].modes
    what = "nearest mode" if modes else "curve"
    lines = [
        *report.aligned(rows),
        f"W1: exact, between {EVALUATION} points and as many real ones",
        f"near: share of the points within {NEAR:g} standard deviations of the {what}",
    ]
    if modes:
        lines.append(f"found: modes with at least {FAIR:.0%} of their even share near them; touched: with any point")
    return "\n".join(lines)


def _row(name: str, of: Match, data: str) -> dict[str, str]:
    modes = DISTRIBUTIONS[data].modes
    row = {"": name, "W1": f"{of.wasserstein:.4f}", "near": f"{of.near:.1%}"}
    return row | ({"found": f"{of.found} of {modes}", "touched": f"{of.touched} of {modes}"} if modes else {})


def draw(found: Found, file: BinaryIO) -> None:
    """Writes a PNG with a panel for each method: real and generated points on the critic's surface."""
    figure = Figure(figsize=(5.6 * len(found.panels), 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(found.panels), squeeze=False)[0]
    for panel, ax in zip(found.panels, axes, strict=True):
        _draw_panel(ax, panel, found)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, markerscale=2)
    figure.savefig(file, format="png", dpi=100)


def _draw_panel(ax: Axes, panel: Panel, found: Found) -> None:
    reach = _MARGIN * found.real.abs().max().item()
    side = torch.linspace(-reach, reach, _SIDE)
    surface = panel.trained.values(torch.cartesian_prod(side, side)).view(_SIDE, _SIDE).T
    ax.contour(side, side, surface, levels=16, cmap="viridis", linewidths=0.8, alpha=0.8)
    dots = {"linestyle": "none", "marker": ".", "markersize": 3, "alpha": 0.6}
    ax.plot(*found.real.T, **dots, color="C1", label="real")
    ax.plot(*panel.points.T, **dots, color="C2", label="generated")
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    ax.set_title(_title(panel, found), loc="left", fontsize=10)


def _title(panel: Panel, found: Found) -> str:
    of, modes = panel.match, DISTRIBUTIONS[found.data].modes
    where = f"{of.found} of {modes} modes, {of.near:.0%} near one" if modes else f"{of.near:.0%} near the curve"
    distance = f"W1 {of.wasserstein:.3f} (real {found.floor.wasserstein:.3f})"
    return f"{panel.method.title}, {found.training.steps} steps\n{distance}, {where}"
