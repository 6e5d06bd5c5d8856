"""What a run folder keeps of its Slurm jobs: who was submitted, when each start began, and how it ended."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from distgan.run_folder import cannot_write


class History:
    """`RUN/slurm`: the batch script, the logs, and two files of one object a line."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "slurm"
        self.config = self.path / "config.yaml"
        self.script = self.path / "job.sbatch"
        self.elements = self.path / "elements"
        self._jobs = self.path / "jobs.jsonl"
        self._starts = self.path / "starts.jsonl"

    def jobs(self) -> list[dict]:
        """Of each submission: job, time, nodes, processes, script."""
        return list(_lines(self._jobs))

    def starts(self) -> list[dict]:
        """Of each start: chain (the first job of those that continue each other), job, restart, nodes, newest (step of
        the newest checkpoint then, or None), time; and when it has ended: ended, code, status, next, why."""
        found: dict[tuple[str, str], dict] = {}
        for line in _lines(self._starts):
            key = str(line.get("job")), str(line.get("restart"))
            found[key] = {**found.get(key, {}), **line}
        return list(found.values())

    def add_job(self, **what: object) -> None:
        """Raises UserError when the disk does not take it, as the next one."""
        self._add(self._jobs, {**what, "time": now()})

    def add_start(self, **what: object) -> None:
        """Of a start that begins; or, with the same job and restart, of its end."""
        self._add(self._starts, what)

    def _add(self, path: Path, line: dict) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with open(path, "a+", encoding="utf-8") as file:
                whole = file.tell() == 0 or _ends_line(path)
                file.write(("" if whole else "\n") + json.dumps(line) + "\n")
        except OSError as error:
            raise cannot_write(path, error) from None


def _lines(path: Path) -> Iterator[dict]:
    """A line that a full disk or a crash cut short is passed over."""
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                value = json.loads(line)
                if isinstance(value, dict):
                    yield value


def _ends_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
