"""What a run leaves in its folder, as one sees it from outside while it trains."""

from __future__ import annotations

import json
from pathlib import Path

from distgan.checkpoint import Damaged, steps_in, verify


def last_step(run: Path) -> int:
    """The step of the last whole line of metrics.jsonl; 0 where there is none."""
    try:
        with open(run / "metrics.jsonl", "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 4096))
            whole = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    return json.loads(whole[-1])["step"] if whole and whole[-1].startswith(b"{") else 0


def state_of(path: Path) -> tuple[int, int]:
    """Changes when a file is written anew or longer."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_size


def starts(run: Path) -> list[int]:
    """The step at which each start began that got so far."""
    try:
        return [start["step"] for start in json.loads((run / "environment.json").read_text())["starts"]]
    except FileNotFoundError:
        return []


def is_saving(run: Path) -> bool:
    """Whether a checkpoint is being written, or one was when the run was killed."""
    return any((run / "checkpoints").glob(".*.part"))


def whole_checkpoints(run: Path) -> list[Path]:
    """Those that verify, ascending."""
    found = []
    for step in steps_in(run / "checkpoints"):
        folder = run / "checkpoints" / f"{step:08d}"
        try:
            verify(folder)
        except Damaged:
            continue
        found.append(folder)
    return found


def left_behind(folder: Path) -> list[str]:
    """Half-written files and folders that nobody will finish."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".part", ".old"))
