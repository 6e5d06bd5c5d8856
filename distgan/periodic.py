"""Things done now and then, and the clocks that some of them go by."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from distgan.config import Duration


@dataclass(frozen=True)
class Periodic:
    """An action every so many steps or so many seconds, of which one is None."""

    steps: int | None
    seconds: float | None
    action: Callable[[], None]
    first: int = 0
    """The step from which on they are counted."""
    last: int | None = None
    """A step after which it is done in any case."""

    @classmethod
    def of(
        cls,
        every: Duration,
        images_per_step: int,
        action: Callable[[], None],
        first: int = 0,
        last: int | None = None,
    ) -> Periodic:
        seconds = every.seconds
        return cls(every.steps(images_per_step) if seconds is None else None, seconds, action, first, last)

    def is_due(self, step: int) -> bool:
        """Whether the steps say so after `step` steps."""
        return step == self.last or (self.steps is not None and (step - self.first) % self.steps == 0)

    def is_late(self, elapsed: float) -> bool:
        """Whether the clock says so after `elapsed` seconds; the processes must agree on it before they act."""
        return self.seconds is not None and elapsed >= self.seconds


class Clock:
    """Training time over all starts of a run, and since the last checkpoint."""

    def __init__(self, before: float) -> None:
        self._before, self._start = before, time.monotonic()
        self._saved = self._start

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    def since_save(self) -> float:
        return time.monotonic() - self._saved

    def saved(self) -> None:
        self._saved = time.monotonic()


class TimeLimit:
    """Whether a start must leave to be gone within its time (train.max_time)."""

    CLOSING = 10.0
    """Seconds for what a run does after its last checkpoint."""

    def __init__(self, limit: float | None, began: float) -> None:
        """`limit`: seconds, None for no limit; `began`: time.monotonic() of the start."""
        self._limit, self._began = limit, began
        self._last, self._longest = time.monotonic(), 0.0

    def is_guessing(self, saving: float) -> bool:
        """Whether nobody knows yet how long a checkpoint takes, and it must be known."""
        return self._limit is not None and saving == 0

    def stepped(self) -> None:
        """To be called after every step."""
        now = time.monotonic()
        self._last, self._longest = now, max(self._longest, now - self._last)

    def is_up(self, saving: float) -> bool:
        """Whether another step might be one too many; `saving`: seconds that a checkpoint takes."""
        if self._limit is None:
            return False
        return time.monotonic() - self._began + 2 * self._longest + 2 * saving + self.CLOSING >= self._limit
