"""`distgan compare`: its options, and where the comparison goes."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distgan.compare.metrics import AXES, in_order, told
from distgan.errors import ConfigError, UserError
from distgan.files import new_file

if TYPE_CHECKING:
    from distgan.compare.run_data import RunData

_FORMATS = ("table", "csv", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="a run folder, a folder of runs, or what W&B wrote offline (its wandb folder, a run folder in it)",
    )
    parser.add_argument(
        "--wandb",
        action="append",
        default=[],
        metavar="ENTITY/PROJECT",
        help="the runs of a project on a W&B server, or one: ENTITY/PROJECT/ID; may be given several times",
    )
    parser.add_argument(
        "--out", default=None, metavar="FILE", help="write a page to look at with a browser, e.g. r.html"
    )
    parser.add_argument("--format", choices=_FORMATS, default=None, help="print this; table unless --out is given")
    parser.add_argument("--metrics", default=None, metavar="A,B", help="only these, e.g. critic/loss,evaluate/fid")
    parser.add_argument("--axis", choices=AXES, default="kimg", help="that the page shows first; default: kimg")


def run(args: argparse.Namespace) -> int:
    """Prints or writes the comparison. Raises ConfigError for bad usage, UserError when there is nothing to compare."""
    from distgan.compare.sources import read_runs

    if not args.runs and not args.wandb:
        raise ConfigError("nothing to compare; name runs: distgan compare runs/*, or --wandb entity/project")
    runs = read_runs(args.runs, args.wandb)
    known = in_order({name for run in runs for name in run.series.values})
    metrics = _chosen(args.metrics, known)
    if args.format or not args.out:
        print(_text(args.format or "table", runs, metrics, args.metrics is not None), end="", flush=True)
    if args.out:
        _write_page(Path(args.out).expanduser(), runs, metrics, args.axis)
        print(args.out, file=sys.stderr if args.format else sys.stdout, flush=True)
    return 0


def _chosen(names: str | None, known: list[str]) -> list[str]:
    if names is None:
        return known
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0)
            hint = f"; nearest: {near[0]}" if near else ""
            raise ConfigError(f"--metrics: no run has {name!r}{hint}; known: {', '.join(known) or 'none'}")
    return chosen


def _text(form: str, runs: Sequence[RunData], metrics: Sequence[str], has_chosen: bool) -> str:
    from distgan.compare.formats import as_csv, as_json, as_table

    if form == "table":
        return as_table(runs, metrics if has_chosen else told(list(metrics)))
    return (as_csv if form == "csv" else as_json)(runs, metrics)


def _write_page(path: Path, runs: Sequence[RunData], metrics: Sequence[str], axis: str) -> None:
    from distgan.compare.page import page

    text = page(runs, metrics, axis)
    try:
        with new_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written: {error.strerror}; choose another file") from None
