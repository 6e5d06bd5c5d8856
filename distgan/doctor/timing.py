"""How long the parts of a step take, each without the parts inside it."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import torch


class Clock:
    """Seconds of each part while `running`; then every part begins and ends when the device has done what it was given,
    so that work is counted where it was asked for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._inside: list[str] = []
        self._since = 0.0
        self.running = False
        self.seconds: Counter[str] = Counter()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Around what is a part of this name; the part that it is inside of stands still."""
        if not self.running:
            yield
            return
        self._lap()
        self._inside.append(name)
        try:
            yield
        finally:
            self._lap()
            self._inside.pop()

    def _lap(self) -> None:
        now = self.now()
        if self._inside:
            self.seconds[self._inside[-1]] += now - self._since
        self._since = now

    def now(self) -> float:
        """Seconds, once the device has nothing left to do."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def time(self, owner: object, method: str, name: str | Callable[..., str]) -> None:
        """From now on every call of this object's method is a part; `name` may follow from what it is called with."""
        inner = getattr(owner, method)

        def timed(*args, **kwargs):
            with self.part(name if isinstance(name, str) else name(*args)):
                return inner(*args, **kwargs)

        setattr(owner, method, timed)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of what is covered by spans (start, end), which may overlap."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
