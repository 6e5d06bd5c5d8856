"""A sink that works in a thread of its own: however long it takes, the run does not wait for it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from distgan.tracking.tracker import Sink
from distgan.trouble import tell

ROOM = 10_000
"""Lines and pictures that may wait."""
CLOSE_SECONDS = {"finished": 60.0, "failed": 30.0, "preempted": 15.0}
"""How long the end of a run waits for what a sink still has to do, by its status: a cluster that preempts a job gives
it little time."""


class Slow(Sink, Protocol):
    """A sink that may take long, or never come back."""

    def begin(self) -> None:
        """Called first."""

    def abandon(self) -> None:
        """Called from another thread: ends whatever the sink waits for."""


class Background:
    """Calls a slow sink in one thread. What it raises ends it, and not the run; a queue that is full closes it, so that
    what it has is a whole beginning of the run."""

    def __init__(self, name: str, sink: Slow, later: str) -> None:
        """`name`: for messages; `later`: how what is missing comes in after all, as a clause."""
        self._name, self._sink, self._later = name, sink, later
        self._waiting: queue.Queue[Callable[[], object] | None] = queue.Queue(ROOM)
        self._over = False
        self._thread = threading.Thread(target=self._work, name=f"tracking {name}", daemon=True)
        self._thread.start()

    def metrics(self, line: dict) -> None:
        self._hand_over(lambda: self._sink.metrics(line))

    def picture(self, name: str, path: Path, step: int) -> None:
        self._hand_over(lambda: self._sink.picture(name, path, step))

    def checkpoint(self, path: Path) -> None:
        self._hand_over(lambda: self._sink.checkpoint(path))

    def rewind(self, step: int) -> None:
        self._hand_over(lambda: self._sink.rewind(step))

    def close(self, status: str) -> None:
        """Waits for CLOSE_SECONDS, and abandons then what is not done."""
        deadline = time.monotonic() + CLOSE_SECONDS[status]
        for call in (lambda: self._sink.close(status), None):
            with contextlib.suppress(queue.Full):
                self._waiting.put(call, timeout=max(deadline - time.monotonic(), 0.001))
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        if self._thread.is_alive():
            self._give_up(f"did not take everything within {CLOSE_SECONDS[status]:.0f} s")
            self._sink.abandon()

    def _hand_over(self, call: Callable[[], object]) -> None:
        if self._over:
            return
        try:
            self._waiting.put_nowait(call)
        except queue.Full:
            self._give_up(f"{ROOM} lines and pictures wait for it; it is given no more")

    def _work(self) -> None:
        try:
            self._sink.begin()
            while (call := self._waiting.get()) is not None:
                call()
        except Exception as error:  # noqa: BLE001  whatever a view raises must not end a training run
            self._give_up(told(error))
            while self._waiting.get() is not None:
                pass

    def _give_up(self, why: str) -> None:
        """The first reason is told, and nothing is handed over any more."""
        if self._over:
            return
        self._over = True
        tell(f"{self._name}: {why}; metrics.jsonl has everything, {self._later}")


def told(error: Exception) -> str:
    """The first line of what an exception says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
