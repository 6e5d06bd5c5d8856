"""Runs from what W&B writes without a server, through its own reader `wandb leet inspect`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from distgan.compare.environment import of_wandb
from distgan.compare.history import ended, flat_row, lines_of, pictures_in, step_of, taken_apart
from distgan.compare.run_data import RunData, by_kimg
from distgan.compare.series import series_of
from distgan.errors import UserError
from distgan.slurm.standing import duration

_PATIENCE = 300
"""Seconds that the reader of one file is given."""
_QUIET = 600
"""Seconds after which a file that has no end belongs to a run that has died."""


def find_segments(path: Path) -> list[Path]:
    """The `.wandb` files of a file, of the folder of a start, or of a `wandb` folder; oldest first."""
    if path.is_file():
        return [path] if path.suffix == ".wandb" else []
    here = sorted(path.glob("*.wandb"))
    return here or sorted(path.glob("*run-*/*.wandb"), key=lambda file: file.parent.name.split("run-", 1)[1])


@dataclass
class _Run:
    """What the segments of one run say, the later one winning."""

    about: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)
    pictures: dict[int, Path] = field(default_factory=dict)
    exit_code: int | None = None


def read_segments(files: list[Path]) -> list[RunData]:
    """The runs in these files, those of one id as one run. Raises UserError when wandb cannot read here."""
    by_id: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        by_id[file.stem.removeprefix("run-")].append(file)
    return [_read(run_id, segments) for run_id, segments in by_id.items()]


def _read(run_id: str, segments: list[Path]) -> RunData:
    run, problems = _Run(), []
    for file in segments:
        records = _records(file)
        if not any(record.get("type") == "run" for record in records):
            problems.append(f"{file.name}: nothing that can be read")
            continue
        run.exit_code = None
        for record in records:
            _take(run, record, file.parent / "files")
    series = series_of(lines_of(run.rows))
    config, start = taken_apart(run.config)
    state, why = _state(run, segments[-1])
    return RunData(
        name=str(run.about.get("display_name") or run_id),
        place=str(segments[0].parent),
        config=config,
        series=series,
        state=state,
        why=why,
        environment={**run.environment, **start, "starts": str(len(segments))},
        notes=str(run.about.get("notes") or ""),
        tags=tuple(map(str, run.about.get("tags") or ())),
        grids=by_kimg(run.pictures, series, config),
        problems=tuple([*problems, *([] if not series.is_empty else ["no lines of metrics yet"])]),
    )


def _records(file: Path) -> list[dict]:
    """What can be read of a file: of one that was cut short, its beginning."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise UserError(f"{file}: wandb could not read it within {_PATIENCE} s; leave it out") from None
    text = done.stderr.decode(errors="replace")
    if done.returncode and "No such command" in text:
        raise UserError(f"{file}: this wandb cannot read its own files; pip install -U 'wandb>=0.31'")
    return [record for record in map(_object, done.stdout.splitlines()) if record]


def _object(line: bytes) -> dict | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _take(run: _Run, record: dict, files: Path) -> None:
    kind = record.get("type")
    content = record.get(kind) or {}
    if kind == "run":
        run.about |= content
        run.config |= (content.get("config") or {}).get("update") or {}
    elif kind == "config":
        run.config |= content.get("update") or {}
    elif kind == "summary":
        run.summary |= content.get("update") or {}
    elif kind == "environment":
        run.environment |= of_wandb(content)
    elif kind == "exit":
        run.exit_code = content.get("exit_code", 0)
    elif kind == "history":
        row = flat_row(content.get("item") or {})
        run.rows.append(row)
        _take_picture(run, row, files)


def _take_picture(run: _Run, row: dict, files: Path) -> None:
    pictures = {name: path for name, path in pictures_in(row).items() if "sample" in name and "raw" not in name}
    step = step_of(row)
    if pictures and step is not None:
        run.pictures[step] = files / next(iter(pictures.values()))


def _state(run: _Run, newest: Path) -> tuple[str, str | None]:
    """By the code with which it ended, and the status that distgan leaves in its summary."""
    if run.exit_code is None:
        quiet = time.time() - newest.stat().st_mtime
        if quiet < _QUIET:
            return "running", f"so it seems: its file was written {duration(quiet)} ago"
        return "stopped", f"ended without a word {duration(quiet)} ago: killed, or its machine went down"
    return ended(run.summary.get("status"), "failed" if run.exit_code else "finished"), None
