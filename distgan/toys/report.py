"""The parallel lines as a table and as a picture."""

from __future__ import annotations

import sys
import time
from typing import BinaryIO

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

from distgan.toys.lines import (
    CLIP,
    Measured,
    Training,
    clipped_bound,
    exact_jensen_shannon,
    exact_wasserstein,
    measure,
    predicted_raw,
)

SECONDS_A_LINE = 5.0
_EXACT = {"color": "0.35", "linewidth": 1, "linestyle": "--"}
_FOUND = {"linestyle": "none", "marker": "o", "markersize": 6}


def measure_all(thetas: list[float], training: Training) -> list[Measured]:
    """What the critics say of each theta; a bar on a terminal, now and then a line in a file. Raises Diverged."""
    torch.set_num_threads(1)  # the matrices are small, and the last digits shall not depend on the cores
    found, told = [], time.monotonic()
    with tqdm(total=3 * training.steps * len(thetas), unit="step", disable=None) as bar:
        for done, theta in enumerate(thetas):
            if bar.disable and time.monotonic() - told >= SECONDS_A_LINE:
                told = time.monotonic()
                print(f"lines: {done} of {len(thetas)} distances", file=sys.stderr, flush=True)
            found.append(measure(theta, training, bar.update))
    return found


def table(found: list[Measured], training: Training) -> str:
    """A row for each theta, and what its columns mean."""
    return "\n".join(
        [
            *aligned([_row(measured, training.weight) for measured in found]),
            f"raw: E D(x) - E D(x~) of WGAN-GP's critic; predicted: |theta| (1 + |theta| / {2 * training.weight:g})",
            "WGAN-GP: raw over the mean gradient norm at the interpolates",
            f"clipped WGAN: E D(x) - E D(x~) at weights within {CLIP}, on a scale of its own",
        ]
    )


def aligned(rows: list[dict[str, str]]) -> list[str]:
    """A line of heads and one for each row, in columns; each row has the same heads."""
    heads = list(rows[0])
    widths = [max(len(head), *(len(row[head]) for row in rows)) for head in heads]
    return ["  ".join(map(str.rjust, cells, widths)) for cells in (heads, *(row.values() for row in rows))]


def _row(measured: Measured, weight: float) -> dict[str, str]:
    theta = measured.theta
    return {
        "theta": f"{theta:g}",
        "exact W1": _decimals(exact_wasserstein(theta)),
        "WGAN-GP": _decimals(measured.penalised.estimate),
        "raw": _decimals(measured.penalised.raw),
        "predicted raw": _decimals(predicted_raw(theta, weight)),
        "clipped WGAN": _decimals(measured.clipped, 5),
        "JS by GAN": _decimals(measured.jensen_shannon),
        "exact JS": _decimals(exact_jensen_shannon(theta)),
    }


def _decimals(value: float, count: int = 4) -> str:
    """Without a minus before zeros."""
    return f"{round(value, count) + 0.0:.{count}f}"


def draw(found: list[Measured], training: Training, file: BinaryIO) -> None:
    """Writes a PNG of three panels over theta, each with its exact values: WGAN-GP, clipped WGAN, plain GAN."""
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    _draw_penalised(panels[0], found, training.weight)
    _draw_clipped(panels[1], found)
    _draw_jensen_shannon(panels[2], found)
    for panel in panels:
        panel.set_xlabel("theta")
        panel.grid(alpha=0.3)
        panel.margins(y=0.12)
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9, frameon=False)
    figure.savefig(file, format="png", dpi=100)


def _draw_penalised(panel: Axes, found: list[Measured], weight: float) -> None:
    thetas, along = [m.theta for m in found], _along(found)
    panel.set_title("WGAN-GP", loc="left")
    panel.plot(along, [exact_wasserstein(t) for t in along], **_EXACT, label="W1, exact: |theta|")
    biased = [predicted_raw(t, weight) for t in along]
    panel.plot(along, biased, color="C1", linewidth=1, label=f"raw, predicted: |theta| (1 + |theta| / {2 * weight:g})")
    raw = [m.penalised.raw for m in found]
    panel.plot(thetas, raw, **_FOUND, color="C1", markerfacecolor="none", label="raw: E D(x) - E D(x~)")
    panel.plot(thetas, [m.penalised.estimate for m in found], **_FOUND, color="C0", label="raw / mean gradient norm")


def _draw_clipped(panel: Axes, found: list[Measured]) -> None:
    along = _along(found)
    panel.set_title("clipped WGAN, on a scale of its own", loc="left")
    label = f"the most such weights can say: {clipped_bound(1.0):.2g} |theta|"
    panel.plot(along, [clipped_bound(t) for t in along], **_EXACT, label=label)
    said = [m.clipped for m in found]
    panel.plot([m.theta for m in found], said, **_FOUND, color="C3", label=f"E D(x) - E D(x~), weights within {CLIP}")


def _draw_jensen_shannon(panel: Axes, found: list[Measured]) -> None:
    along = _along(found)
    panel.set_title("plain GAN", loc="left")
    apart = [t for t in along if t]
    label = "Jensen-Shannon, exact: log 2 nats, and 0 at theta = 0"
    panel.plot(apart, [exact_jensen_shannon(t) for t in apart], **_EXACT, label=label)
    if len(apart) < len(along):
        hole = {"marker": "o", "markersize": 7, "markeredgecolor": _EXACT["color"], "zorder": 3}
        panel.plot(0, exact_jensen_shannon(1.0), **hole, markerfacecolor="white")
        panel.plot(0, exact_jensen_shannon(0.0), **hole, markerfacecolor=_EXACT["color"])
    said = [m.jensen_shannon for m in found]
    panel.plot([m.theta for m in found], said, **_FOUND, color="C2", label="log 2 - (its critic's loss) / 2", zorder=4)


def _along(found: list[Measured], count: int = 201) -> list[float]:
    """Points from the first theta to the last, 0 among them if it is between, to draw a formula through."""
    first, last = found[0].theta, found[-1].theta
    points = {first + (last - first) * i / (count - 1) for i in range(count)}
    return sorted(points | {0.0} if first <= 0 <= last else points)
