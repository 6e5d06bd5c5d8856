"""What W&B has of a run, read by its own tool."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def segments(run: Path) -> list[Path]:
    """The file of each start, in order of time."""
    return sorted(run.glob("wandb/*run-*/run-*.wandb"), key=lambda path: path.parent.name.removeprefix("offline-"))


def inspect(segment: Path, *more: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *more, str(segment)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def history(run: Path) -> list[dict]:
    """The rows of all starts, in their order."""
    records = [json.loads(line) for segment in segments(run) for line in inspect(segment).splitlines()]
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def summary(segment: Path) -> dict:
    """Config, summary, state and the like of one start."""
    return json.loads(inspect(segment, "--summary"))


def lines(rows: list[dict]) -> list[dict]:
    """Those that are of metrics.jsonl."""
    return [row for row in rows if "seconds" in row]
