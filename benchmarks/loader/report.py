"""What was measured, as Markdown and as JSON."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping, Sequence

from benchmarks.loader.cases import CASES
from benchmarks.loader.contenders import Contender
from benchmarks.loader.driver import Result
from benchmarks.tables import cpu_model, grid

PACKAGES = ("distgan", "torch", "torchvision", "webdataset", "mosaicml-streaming", "ffcv", "numpy", "pillow")
Results = Mapping[str, Mapping[str, Result]]
"""By case, then by contender."""


def header(cores: int, drawn: Sequence[str]) -> dict[str, str]:
    """On what was measured."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "date": datetime.date.today().isoformat(),
        "CPU": f"{cpu_model()}, {cores} core{'s' * (cores > 1)} used",
        "load average at the start": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
        **({"drawn shapes in place of": ", ".join(drawn)} if drawn else {}),
    }


def tables(results: Results, contenders: Mapping[str, Contender]) -> str:
    """Images a second with ratios, CPU time, and why a cell is empty."""
    rate = _table(results, contenders, "images/s (distgan / this)", _rate)
    cpu = _table(results, contenders, "CPU µs an image (this / distgan)", _cpu)
    return "\n\n".join(part for part in (rate, cpu, _reasons(results, contenders)) if part)


def as_json(head: Mapping[str, str], results: Results, sections: Mapping[str, object]) -> dict:
    """All rounds of all contenders."""
    cases = {}
    for case, by_name in results.items():
        cases[case] = {
            name: {"skipped": result.reason}
            if not result.rounds
            else {
                "images_per_second": result.rate,
                "cpu_microseconds": result.cpu,
                "distgan_over_this": _ratio(by_name, name),
                "rounds": [each._asdict() for each in result.rounds],
            }
            for name, result in by_name.items()
        }
    return {"header": dict(head), "cases": cases, **sections}


def _table(
    results: Results,
    contenders: Mapping[str, Contender],
    title: str,
    cell: Callable[[Mapping[str, Result], str], str],
) -> str:
    rows = [[title, *(CASES[case].title for case in results)]]
    for name, contender in contenders.items():
        measured = [cell(case, name) if case[name].rounds else "" for case in results.values()]
        if any(measured):
            rows.append([contender.title, *measured])
    return grid(rows)


def _rate(case: Mapping[str, Result], name: str) -> str:
    ratio = _ratio(case, name)
    return f"{case[name].rate:,.0f}" + (f" ({ratio:.2f}×)" if ratio is not None and name != "distgan" else "")


def _cpu(case: Mapping[str, Result], name: str) -> str:
    ours, its = case.get("distgan"), case[name]
    ratio = f" ({its.cpu_ratio(ours):.2f}×)" if ours and ours.rounds and name != "distgan" else ""
    return f"{its.cpu:,.1f}{ratio}" if its.cpu < 10 else f"{its.cpu:,.0f}{ratio}"


def _ratio(case: Mapping[str, Result], name: str) -> float | None:
    ours = case.get("distgan")
    return ours.ratio(case[name]) if ours and ours.rounds else None


def _reasons(results: Results, contenders: Mapping[str, Contender]) -> str:
    cases: dict[tuple[str, str], list[str]] = {}
    for case, by_name in results.items():
        for name, result in by_name.items():
            if not result.rounds:
                cases.setdefault((name, result.reason), []).append(CASES[case].title)
    lines = []
    for (name, why), where in cases.items():
        only = "" if len(where) == len(results) else f" in {', '.join(where)}"
        lines.append(f"* {contenders[name].title}: not measured{only}: {why}")
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
