"""One interface over all that receives metrics: metrics.jsonl always, the terminal, W&B."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Protocol

from distgan.run_folder import RunFolder, cannot_write, read_lines, write_atomically


class Sink(Protocol):
    """Receives what a run tells of itself. A sink never stops a run."""

    def metrics(self, line: dict) -> None: ...

    def picture(self, name: str, path: Path, step: int) -> None: ...

    def close(self, status: str) -> None: ...


class JsonLines:
    """metrics.jsonl: one object a line, steps ascending, none twice; null for what is not finite (JSON has no NaN).

    The record; every other sink is a view."""

    def __init__(self, folder: RunFolder, step: int, partial: bool = False) -> None:
        """Goes on after `step`: lines of later steps, which a crash left behind, are dropped.

        `partial`: the line of `step` itself too, as it was only there because the run ended before its time."""
        kept = [line for line in read_lines(folder.metrics) if line["step"] < step + (not partial)]
        write_atomically(folder.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(folder.metrics, "a", encoding="utf-8")  # noqa: SIM115  (open for the whole run)
        self._path = folder.metrics
        self.last_step = kept[-1]["step"] if kept else 0

    def rewind(self, step: int) -> None:
        """Drops the lines of later steps."""
        self._file.close()
        kept = [line for line in read_lines(self._path) if line["step"] <= step]
        write_atomically(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115  (open for the whole run)
        self.last_step = kept[-1]["step"] if kept else 0

    def metrics(self, line: dict) -> None:
        try:
            finite = {name: value if math.isfinite(value) else None for name, value in line.items()}
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()
            self.last_step = line["step"]
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def picture(self, name: str, path: Path, step: int) -> None:
        pass

    def close(self, status: str) -> None:
        self._file.close()


class Tracker:
    """Hands everything to all sinks in turn."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks

    def metrics(self, line: dict) -> None:
        for sink in self._sinks:
            sink.metrics(line)

    def picture(self, name: str, path: Path, step: int) -> None:
        for sink in self._sinks:
            sink.picture(name, path, step)

    def close(self, status: str) -> None:
        """`status`: finished, preempted or failed."""
        with contextlib.ExitStack() as closing:  # each is closed, whatever happens to the others
            for sink in reversed(self._sinks):
                closing.callback(sink.close, status)
