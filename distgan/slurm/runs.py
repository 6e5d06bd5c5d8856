"""`distgan runs`: how runs stand, from their files and the queue."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from distgan.errors import UserError
from distgan.slurm.queue import told_queue
from distgan.slurm.run_record import RunRecord, find_runs
from distgan.slurm.standing import WAITING, Standing, standing

_COLUMNS = ("run", "state", "step", "done", "images/s", "left", "requeued", "job", "remark")
_TO_THE_RIGHT = {"step", "done", "images/s", "left", "requeued"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="*", default=["runs"], metavar="FOLDER", help="a run, or a folder of runs; default: runs"
    )
    parser.add_argument("--json", action="store_true", help="a JSON list with all that is known, for programs")
    parser.epilog = (
        "States: running; queued; requeued (waits in the queue, and has begun before); finished; preempted (left with "
        "a checkpoint, to be resumed); failed; stopped (ended without a word: killed, or its machine went down); "
        "unclear."
    )


def run(args: argparse.Namespace) -> int:
    """Prints the list. Raises UserError when there is no run."""
    records = {str(path): RunRecord(path) for path in _found(args.folders)}
    queue = told_queue(job for record in records.values() for job in record.jobs)
    rows = sorted((standing(name, record, queue) for name, record in records.items()), key=_order)
    if args.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
        return 0
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in _table([_cells(row) for row in rows]):
        print(line if width is None or len(line) <= width else line[: width - 1] + "…")
    return 0


def _found(folders: list[str]) -> list[Path]:
    paths: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name a run, or a folder of runs: distgan runs FOLDER")
        for path in find_runs(folder):
            paths.setdefault(path.resolve(), path)
    if not paths:
        raise UserError(f"{', '.join(folders)}: no run there; name another folder: distgan runs FOLDER")
    return list(paths.values())


def _order(row: Standing) -> tuple:
    """Running, waiting, the others; by name, its numbers as numbers."""
    rank = 0 if row.state == "running" else 1 if row.state in WAITING else 2
    return rank, [(not part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", row.run)]


def _cells(row: Standing) -> dict[str, str]:
    remarks = [*([row.why] if row.why else []), *row.problems]
    cells = {
        "run": row.run,
        "state": row.state,
        "step": "" if row.step is None else f"{row.step}/{'?' if row.total is None else row.total}",
        "done": "" if row.percent is None else f"{row.percent:.1f}%",
        "images/s": "" if row.images_per_second is None else f"{row.images_per_second:.{_digits(row)}f}",
        "left": "" if row.seconds_left is None else _clock(row.seconds_left),
        "requeued": str(row.requeued or ""),
        "job": row.job or "",
        "remark": "; ".join(" ".join(remark.split()) for remark in remarks),
    }
    return {name: "".join(c if c.isprintable() else "?" for c in cell) for name, cell in cells.items()}


def _digits(row: Standing) -> int:
    return 0 if row.images_per_second >= 100 else 1


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _table(rows: list[dict[str, str]]) -> Iterator[str]:
    """Aligned lines, headed; columns that are empty in all rows are left out."""
    names = [name for name in _COLUMNS if any(row[name] for row in rows)]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    for row in [{name: name for name in names}, *rows]:
        cells = [row[n].rjust(widths[n]) if n in _TO_THE_RIGHT else row[n].ljust(widths[n]) for n in names]
        yield "  ".join(cells).rstrip()
