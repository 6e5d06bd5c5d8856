"""The comparison as text: a table for a terminal, CSV and JSON for scripts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from distgan.compare.differences import differences
from distgan.compare.metrics import AXES
from distgan.compare.run_data import RunData
from distgan.compare.summary import (
    Group,
    Spread,
    Value,
    best,
    data_wait,
    final,
    groups_of,
    images_per_second,
)
from distgan.tracking.names import better

_CSV = ("run", "group", "seed", "state", "metric", "final", "final_step", "final_kimg", "final_hours")
_CSV_BEST = ("better", "best", "best_step", "best_kimg", "best_hours")
_WIDEST = 48
"""Characters of a cell of a terminal's table."""


def as_table(runs: Sequence[RunData], metrics: Sequence[str]) -> str:
    """Runs, groups, and the keys that differ, for a person."""
    groups = groups_of(runs)
    parts = [_aligned(_run_rows(runs, metrics))]
    if any(len(group.runs) > 1 for group in groups):
        parts.append(_aligned(_group_rows(groups, metrics)))
    if differ := differences(runs):
        rows = [[key, *map(shown, values)] for key, values in differ.items()]
        parts.append(_aligned([["config", *(run.name for run in runs)], *rows]))
    parts.append("\n".join(f"{run.name}: {clean(remark)}" for run in runs for remark in remarks(run)))
    return "\n\n".join(filter(None, parts)) + "\n"


def as_csv(runs: Sequence[RunData], metrics: Sequence[str]) -> str:
    """A row for each run and metric; empty where there is no number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_CSV, *_CSV_BEST])
    for run in runs:
        for metric in metrics:
            if metric in run.series.values:
                last, top = final(run.series, metric), best(run.series, metric)
                about = [run.name, run.group, run.seed, run.state, metric]
                writer.writerow([*about, *_csv_cells(last), better(metric), *_csv_cells(top)])
    return text.getvalue()


def as_json(runs: Sequence[RunData], metrics: Sequence[str]) -> str:
    """All that is compared. Numbers that are not finite do not occur."""
    differ = differences(runs)
    told = {
        "runs": [_run_object(run, metrics) for run in runs],
        "groups": [_group_object(group, metrics) for group in groups_of(runs)],
        "differences": {
            key: {run.name: value for run, value in zip(runs, values, strict=True)} for key, values in differ.items()
        },
    }
    return json.dumps(told, indent=1, default=str) + "\n"


def remarks(run: RunData) -> list[str]:
    """What there is to say of a run beside its state."""
    why = [f"{run.state}: {run.why}"] if run.why else []
    return [*why, *run.problems]


def number(value: float | None) -> str:
    """Four digits."""
    return "" if value is None else f"{value:.4g}"


def last_of(run: RunData, metric: str) -> str:
    """The final number, or why there is none."""
    value = final(run.series, metric)
    return "not finite" if metric in run.series.without_end else number(value.value if value else None)


def over_seeds(found: Spread | None) -> str:
    """Mean ± standard deviation."""
    if found is None:
        return ""
    return number(found.mean) if found.std is None else f"{number(found.mean)} ± {float(f'{found.std:.2g}'):g}"


def shown(value: object) -> str:
    """A value of a config; nothing where it is not set."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def clean(text: str) -> str:
    """On one line, without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def _run_rows(runs: Sequence[RunData], metrics: Sequence[str]) -> Iterator[list[str]]:
    has_best = [metric for metric in metrics if better(metric)]
    yield ["run", "group", "seed", "state", *AXES, *metrics, *(f"best {metric}" for metric in has_best)]
    for run in runs:
        tops = [best(run.series, metric) for metric in has_best]
        yield [
            *(run.name, run.group, shown(run.seed), run.state),
            *(number(run.series.end(axis)) if axis != "step" else f"{run.series.end(axis) or 0:.0f}" for axis in AXES),
            *(last_of(run, metric) for metric in metrics),
            *(number(top.value if top else None) for top in tops),
        ]


def _group_rows(groups: Sequence[Group], metrics: Sequence[str]) -> Iterator[list[str]]:
    has_best = [metric for metric in metrics if better(metric)]
    yield ["group", "runs", "unfinished", *metrics, *(f"best {metric}" for metric in has_best)]
    for group in groups:
        lasts = [over_seeds(group.final(metric)) for metric in metrics]
        tops = [over_seeds(group.best(metric)) for metric in has_best]
        yield [group.name, str(len(group.runs)), str(group.unfinished or ""), *lasts, *tops]


def _aligned(rows) -> str:
    """Columns that are empty in all rows but the head are left out; numbers stand to the right."""
    head, *body = [[_short(clean(cell)) for cell in row] for row in rows]
    kept = [i for i in range(len(head)) if any(row[i] for row in body)]
    widths = {i: max(len(row[i]) for row in [head, *body]) for i in kept}
    right = {i for i in kept if all(row[i][:1] in "-0123456789" for row in body)}
    cells = (
        [row[i].rjust(widths[i]) if i in right else row[i].ljust(widths[i]) for i in kept] for row in [head, *body]
    )
    return "\n".join("  ".join(row).rstrip() for row in cells)


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _csv_cells(value: Value | None) -> list[object]:
    return ["", "", "", ""] if value is None else [value.value, *value.at.values()]


def _run_object(run: RunData, metrics: Sequence[str]) -> dict:
    return {
        "run": run.name,
        "place": run.place,
        "group": run.group,
        "seed": run.seed,
        "state": run.state,
        "why": run.why,
        **{axis: run.series.end(axis) for axis in AXES},
        "metrics": {
            metric: {
                "final": _value_object(final(run.series, metric)),
                "better": better(metric),
                "best": _value_object(best(run.series, metric)),
            }
            for metric in metrics
            if metric in run.series.values
        },
        "images_per_second": images_per_second(run.series),
        "data_wait": data_wait(run.series),
        "environment": run.environment,
        "notes": run.notes,
        "tags": list(run.tags),
        "problems": list(run.problems),
    }


def _value_object(value: Value | None) -> dict | None:
    return None if value is None else {"value": value.value, **value.at}


def _group_object(group: Group, metrics: Sequence[str]) -> dict:
    found = {metric: {"final": group.final(metric), "best": group.best(metric)} for metric in metrics}
    return {
        "group": group.name,
        "runs": [run.name for run in group.runs],
        "unfinished": group.unfinished,
        "metrics": {
            metric: {which: asdict(value) if value else None for which, value in both.items()}
            for metric, both in found.items()
            if both["final"] or both["best"]
        },
    }
