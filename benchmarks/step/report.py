"""What was measured, as Markdown and as JSON."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence

import torch

from benchmarks.step.cases import Case
from benchmarks.step.modes import EXACT, TEXTBOOK
from benchmarks.step.race import UPDATES, Outcome, Result
from benchmarks.tables import cpu_model, grid
from distgan.environment import describe

Outcomes = Mapping[Case, Outcome]
Rates = Mapping[str, float]
"""Multiplications a second, by precision."""


def header(device: str, rounds: int, rates: Rates) -> dict[str, str]:
    """On what was measured."""
    found = describe()
    cores = f"{cpu_model()}, {found['cpu_cores']} cores, {torch.get_num_threads()} threads"
    speed = ", ".join(f"{precision} {2 * rate / 1e9:,.0f}" for precision, rate in rates.items())
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{torch.cuda.get_device_name()}, CUDA {found['cuda']}" if device == "cuda" else "CPU",
        "CPU": cores,
        "load average at the start": f"{os.getloadavg()[0]:.1f}",
        "versions": f"Python {found['python']}, torch {torch.__version__}",
        "rounds": str(rounds),
        "best rate of large convolutions, GFLOP/s": speed,
    }


def needs(outcomes: Outcomes, rates: Rates) -> str:
    """The multiplications of all cases, and how long this machine would be at them."""
    precisions = list(rates)
    rows = [["needs", "textbook", "ours", *(f"floor {precision}, ms" for precision in precisions)]]
    for case, outcome in outcomes.items():
        if outcome.needed.keys() >= {TEXTBOOK, EXACT}:
            rows += [_need(case, outcome, update, rates) for update in UPDATES]
    return grid(rows) if len(rows) > 1 else ""


def _need(case: Case, outcome: Outcome, update: str, rates: Rates) -> list[str]:
    plain, ours = (outcome.needed[name][update] for name in (TEXTBOOK, EXACT))
    whole = outcome.forward.get(update)
    counts = [
        f"{count / 1e9:,.2f} G" + (f" ({count / whole:.1f} F)" if whole is not None else "") for count in (plain, ours)
    ]
    return [f"{case.title}, {update}", *counts, *(_milliseconds(ours / rate) for rate in rates.values())]


def times(case: Case, outcome: Outcome, rates: Rates) -> str:
    """What each mode took."""
    has_peak = any(result.peak is not None for result in outcome.results.values())
    heading = ["", "gradients off by", *(f"{update}, ms (ratio; times floor)" for update in UPDATES)]
    rows = [[*heading, *(["peak, MiB"] if has_peak else [])]]
    for name, result in outcome.results.items():
        cells = [_cell(outcome, result, update, rates) for update in UPDATES]
        peak = "" if result.peak is None else f"{result.peak / 2**20:,.0f}"
        rows.append([name, _errors(result), *cells, *([peak] if has_peak else [])])
    reasons = [f"* {name}: {result.reason}" for name, result in outcome.results.items() if result.reason]
    return "\n\n".join(part for part in (f"**{case.title}**", grid(rows), "\n".join(reasons)) if part)


def _errors(result: Result) -> str:
    """Of the critic's gradients, and of the generator's."""
    text = " / ".join(f"{found:.0e}" for found in result.errors.values())
    return text if result.is_right else f"{text} WRONG, bound {result.bound:.0e}"


def _cell(outcome: Outcome, result: Result, update: str, rates: Rates) -> str:
    if result.reason or update not in result.seconds:
        return ""
    notes = [f"{result.ratio(plain, update):.2f}"] if (plain := outcome.results[TEXTBOOK]).seconds else []
    if EXACT in outcome.needed:
        notes.append(f"{result.median(update) * rates[result.arithmetic] / outcome.needed[EXACT][update]:.1f}×")
    return f"{_milliseconds(result.median(update))} ({'; '.join(notes)})"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.{0 if seconds > 0.1 else 1 if seconds > 0.01 else 2}f}"


def as_json(head: Mapping[str, str], rates: Rates, outcomes: Outcomes) -> dict:
    """All rounds of all modes."""
    return {
        "header": dict(head),
        "flop_per_second": {precision: 2 * rate for precision, rate in rates.items()},
        "cases": {case.title: _case(case, outcome) for case, outcome in outcomes.items()},
        "problems": [
            f"{case.title}, {name}: {result.reason}"
            for case, outcome in outcomes.items()
            for name, result in outcome.results.items()
            if result.reason
        ],
    }


def _case(case: Case, outcome: Outcome) -> dict:
    return {
        **case._asdict(),
        "multiplications": {"forward": outcome.forward, **outcome.needed},
        "modes": {name: _mode(outcome, result) for name, result in outcome.results.items()},
    }


def _mode(outcome: Outcome, result: Result) -> dict:
    if result.reason:
        return {"skipped": result.reason, "errors": result.errors}
    plain = outcome.results[TEXTBOOK]
    timed: Sequence[str] = [update for update in UPDATES if update in result.seconds and update in plain.seconds]
    return {
        "errors": result.errors,
        "bound": result.bound,
        "right": result.is_right,
        "milliseconds": {update: 1e3 * result.median(update) for update in timed},
        "ratio": {update: result.ratio(plain, update) for update in timed},
        "rounds_seconds": result.seconds,
        "peak_bytes": result.peak,
    }
