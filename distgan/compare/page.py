"""The report: one HTML file with everything in it."""

from __future__ import annotations

import base64
import colorsys
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distgan.compare import formats
from distgan.compare.curves import band, curve, points_of_a_curve
from distgan.compare.differences import differences
from distgan.compare.grids import Grids, grids_of
from distgan.compare.metrics import AXES
from distgan.compare.run_data import STILL_GOING, RunData
from distgan.compare.summary import Group, best, data_wait, groups_of, images_per_second
from distgan.histogram import EDGES
from distgan.tracking.names import HISTOGRAM, MEANINGS, better

_HERE = Path(__file__).parent
_COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#c2185b", "#7b52ab", "#8c564b", "#0097a7", "#6d6d00")
_HUE_STEP = 0.618034
"""Of the circle: hues of further groups come to lie far from those before."""
_PALEST = 0.5
"""Share of white in the colour of the last seed of a group."""


def page(runs: Sequence[RunData], metrics: Sequence[str], axis: str) -> str:
    """The report as HTML text, the same for the same runs. `axis`: step, kimg or hours, shown first."""
    from plotly.offline import get_plotlyjs

    groups, grids = groups_of(runs), grids_of(runs)
    scripts = [Markup(get_plotlyjs()), Markup((_HERE / "page.js").read_text(encoding="utf-8"))]
    return (
        _environment()
        .get_template("page.html")
        .render(
            policy=_policy(scripts),
            style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
            scripts=scripts,
            data=Markup(_json(_drawn(runs, groups, metrics, axis, grids))),
            runs=[
                _row(run, number, colour)
                for number, (run, colour) in enumerate(zip(runs, _colours(groups), strict=True))
            ],
            groups=_legend(groups),
            results=_results(runs, groups, metrics),
            differences=_columns_of_differences(runs),
            environment=_columns_of_environment(runs),
            axes=[name for name in AXES if any(run.series.end(name) is not None for run in runs)],
            most=points_of_a_curve(runs, metrics),
            has_pictures=bool(grids.moments),
            unreadable=[str(path) for path in grids.unreadable],
        )
    )


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _policy(scripts: Sequence[str]) -> str:
    """What a browser may do with the page: run these two scripts, and fetch nothing."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}"


def _json(value: object) -> str:
    """For a script element: nothing in it can end the element or begin another."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 too is written as an escape
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _for_plotly(text: str) -> str:
    """plotly takes some tags and entities in a text for its own."""
    return html.escape(text, quote=False)


def _drawn(runs: Sequence[RunData], groups: list[Group], metrics: Sequence[str], axis: str, grids: Grids) -> dict:
    """What page.js draws."""
    most = points_of_a_curve(runs, metrics)
    return {
        "axis": axis,
        "runs": [
            {"name": _for_plotly(run.name), "colour": colour}
            for run, colour in zip(runs, _colours(groups), strict=True)
        ],
        "groups": [
            {"name": _for_plotly(f"mean of {group.name}"), "colour": _colour(number)}
            for number, group in enumerate(groups)
        ],
        "panels": [_panel(runs, groups, metric, most) for metric in metrics],
        "histogram": {
            "meaning": MEANINGS[HISTOGRAM],
            "edges": EDGES,
            "curves": [
                {
                    "run": number,
                    "share": [round(count / sum(run.series.histogram), 6) for count in run.series.histogram],
                }
                for number, run in enumerate(runs)
                if run.series.histogram
            ],
        },
        "pictures": {"moments": grids.moments, "shown": grids.shown, "reals": grids.reals, "sources": grids.pictures},
    }


def _panel(runs: Sequence[RunData], groups: list[Group], metric: str, most: int) -> dict:
    curves = [{"run": i, **curve(run.series, metric, most)} for i, run in enumerate(runs)]
    curves = [drawn for drawn in curves if "y" in drawn]
    bands = [{"group": i, **{axis: band(group, metric, axis) for axis in AXES}} for i, group in enumerate(groups)]
    return {
        "metric": metric,
        "meaning": MEANINGS.get(metric, ""),
        "positive": all(y > 0 for drawn in curves for y in drawn["y"]),
        "curves": curves,
        "bands": [drawn for drawn in bands if any(drawn[axis] for axis in AXES)],
    }


def _colours(groups: Sequence[Group]) -> list[str]:
    """Of all runs: the colour of the group, paler from seed to seed."""
    return [
        _mixed(_colour(number), _PALEST * place / max(1, len(group.runs) - 1))
        for number, group in enumerate(groups)
        for place in range(len(group.runs))
    ]


def _colour(number: int) -> str:
    """Of a group."""
    if number < len(_COLOURS):
        return _COLOURS[number]
    parts = colorsys.hls_to_rgb(number * _HUE_STEP % 1, 0.4, 0.6)
    return "#" + "".join(f"{round(part * 255):02x}" for part in parts)


def _mixed(colour: str, white: float) -> str:
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)


def _row(run: RunData, number: int, colour: str) -> dict:
    return {
        "number": number,
        "colour": colour,
        "name": run.name,
        "place": run.place,
        "group": run.group,
        "seed": formats.shown(run.seed),
        "state": run.state,
        "mark": _mark(run.state),
        "step": f"{run.series.end('step') or 0:.0f}",
        "kimg": formats.number(run.series.end("kimg")),
        "hours": formats.number(run.series.end("hours")),
        "remarks": formats.remarks(run),
        "notes": run.notes,
        "tags": run.tags,
        "has_grids": bool(run.grids),
    }


def _mark(state: str) -> str:
    """The class of a state's badge."""
    if state in STILL_GOING:
        return "going"
    return {"finished": "well", "preempted": "waiting"}.get(state, "ill")


def _legend(groups: Sequence[Group]) -> list[dict]:
    first, legend = 0, []
    for number, group in enumerate(groups):
        numbers = list(range(first, first + len(group.runs)))
        legend.append(
            {
                "number": number,
                "name": group.name,
                "colour": _colour(number),
                "runs": numbers,
                "unfinished": group.unfinished,
            }
        )
        first += len(group.runs)
    return legend


def _results(runs: Sequence[RunData], groups: Sequence[Group], metrics: Sequence[str]) -> list[dict]:
    """A row a metric: final and best of groups and of runs."""
    return [
        {
            "metric": metric,
            "meaning": MEANINGS.get(metric, ""),
            "better": better(metric),
            "groups": [
                {
                    "final": formats.over_seeds(group.final(metric)),
                    "best": formats.over_seeds(group.best(metric)),
                    "count": found.count if (found := group.final(metric)) else 0,
                }
                for group in groups
            ],
            "runs": [{"final": formats.last_of(run, metric), **_best(run, metric)} for run in runs],
        }
        for metric in metrics
    ]


def _best(run: RunData, metric: str) -> dict[str, str]:
    found = best(run.series, metric)
    if found is None:
        return {"best": "", "at": ""}
    axis = next((axis for axis in ("kimg", "step") if found.at[axis] is not None), None)
    return {"best": formats.number(found.value), "at": f"{axis} {formats.number(found.at[axis])}" if axis else ""}


def _columns_of_differences(runs: Sequence[RunData]) -> dict:
    """Runs with the same values share a column."""
    differ = differences(runs)
    columns: dict[tuple, list[str]] = {}
    for number, run in enumerate(runs):
        values = tuple(formats.shown(row[number]) if run.config else "no config" for row in differ.values())
        columns.setdefault(values, []).append(run.name)
    return {"keys": list(differ), "columns": [{"runs": names, "values": values} for values, names in columns.items()]}


def _columns_of_environment(runs: Sequence[RunData]) -> dict:
    names = list(dict.fromkeys(name for run in runs for name in run.environment))
    rows = []
    for run in runs:
        wait = data_wait(run.series)
        speed = [formats.number(images_per_second(run.series)), "" if wait is None else f"{100 * wait:.1f} %"]
        rows.append({"run": run.name, "cells": [*speed, *(run.environment.get(name, "") for name in names)]})
    return {"names": ["images/s", "data wait", *names], "rows": rows}
