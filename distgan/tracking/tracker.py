"""One interface over all views of a run: the terminal, W&B."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol


class Sink(Protocol):
    """Receives what a run tells of itself, once metrics.jsonl has it. A sink never stops a run."""

    def metrics(self, line: dict) -> None: ...

    def picture(self, name: str, path: Path, step: int) -> None: ...

    def close(self, status: str) -> None: ...


class Tracker:
    """Hands everything to all sinks in turn. One that cannot write (stderr may be a file on a full disk) is passed
    over."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks

    def metrics(self, line: dict) -> None:
        for sink in self._sinks:
            with contextlib.suppress(OSError):
                sink.metrics(line)

    def picture(self, name: str, path: Path, step: int) -> None:
        for sink in self._sinks:
            with contextlib.suppress(OSError):
                sink.picture(name, path, step)

    def close(self, status: str) -> None:
        """`status`: finished, preempted or failed."""
        with contextlib.ExitStack() as closing:  # each is closed, whatever happens to the others
            for sink in reversed(self._sinks):
                closing.callback(_close, sink, status)


def _close(sink: Sink, status: str) -> None:
    with contextlib.suppress(OSError):
        sink.close(status)
