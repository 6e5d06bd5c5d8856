"""One interface over all views of a run: the terminal, W&B, TensorBoard."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Protocol


class Sink(Protocol):
    """Receives what a run tells of itself, once metrics.jsonl has it. A sink never stops a run, nor slows it."""

    def metrics(self, line: dict) -> None:
        """A line of metrics.jsonl."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG that is on the disk, of what the run is like at `step`."""

    def checkpoint(self, path: Path) -> None:
        """A checkpoint that is whole and on the disk. Called by another thread than the other methods."""

    def rewind(self, step: int) -> None:
        """The run goes on from an earlier `step`: the lines and pictures after it are no longer."""

    def close(self, status: str) -> None:
        """`status`: finished, preempted or failed."""


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

    def checkpoint(self, path: Path) -> None:
        for sink in self._sinks:
            with contextlib.suppress(OSError):
                sink.checkpoint(path)

    def rewind(self, step: int) -> None:
        for sink in self._sinks:
            with contextlib.suppress(OSError):
                sink.rewind(step)

    def close(self, status: str) -> None:
        """`status`: finished, preempted or failed. All are closed at the same time: those that wait do so together."""
        closing = [threading.Thread(target=_close, args=(sink, status), daemon=True) for sink in self._sinks]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()


def _close(sink: Sink, status: str) -> None:
    with contextlib.suppress(OSError):
        sink.close(status)
