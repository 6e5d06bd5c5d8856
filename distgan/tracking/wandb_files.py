"""What the files of a W&B run hold: those of starts that were killed lack their last rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from distgan.run_folder import RunFolder, grids_in
from distgan.tracking.backlog import GRIDS, Held

_IMAGE = "image-file"
"""The type that W&B gives to a picture in a row."""


class Unreadable(Exception):
    """`wandb` cannot read a file of its own."""


def segments(folder: Path, run_id: str) -> list[Path]:
    """The file of each start of the run `run_id`, offline or online, in the order of time."""
    found = folder.glob(f"wandb/*run-*-{run_id}/run-{run_id}.wandb")
    return sorted(found, key=lambda path: path.parent.name.removeprefix("offline-"))


def rows(segment: Path) -> Iterator[dict]:
    """The rows of history in a file, by wandb's own reader. Raises Unreadable where that fails."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(segment)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
        for text in reader.stdout:
            record = json.loads(text)
            if record["type"] == "history":
                yield record["history"]["item"]
        problem = reader.stderr.read().strip()
    if reader.returncode:
        why = problem.splitlines()[-1] if problem else "`wandb leet inspect` fails"
        raise Unreadable(f"{segment}: {why}; move its folder away, and the next start gives W&B these lines again")


def held(folder: RunFolder, run_id: str) -> Held:
    """What all files together hold. Each goes on after the one before, so that the newest rows are in the newest; the
    pictures of real data are in the oldest, as a rule."""
    found, files = Held(), segments(folder.path, run_id)
    grids = {name for name in GRIDS if grids_in(folder.path / name)}
    for segment in reversed(files):
        _add(found, segment)
        if found.line and grids <= found.pictures.keys():
            break
    for segment in files if folder.reals.exists() else ():
        if "reals" in found.pictures:
            break
        _add(found, segment)
    return found


def _add(found: Held, segment: Path) -> None:
    for row in rows(segment):
        if "seconds" in row:  # a line of metrics.jsonl
            found.line = max(found.line, row["step"])
        for name in (key.removesuffix("._type") for key, value in row.items() if value == _IMAGE):
            found.pictures[name] = max(found.pictures.get(name, -1), row["step"])
