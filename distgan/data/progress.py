"""How far the work is: a bar on a terminal, now and then a plain line in a file."""

from __future__ import annotations

import sys
import threading
import time

SECONDS_A_LINE = 10
LINES_SAID = 20


class Progress:
    """Counts what is done of `total` on stderr, in `unit`s, `before` being done already. Use as a context, from any
    thread.

    `say` prints a line without spoiling the bar; after `LINES_SAID` lines it is silent.
    """

    def __init__(self, what: str, total: int, before: int = 0, unit: str = "pictures") -> None:
        self.what, self.total, self.before, self.done, self.unit = what, total, before, before, unit
        self._lock = threading.Lock()
        self._bar = None
        self._said = 0
        self._started = self._spoken = time.monotonic()

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self.total, initial=self.before, desc=self.what, unit=f" {self.unit}", file=sys.stderr
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int) -> None:
        with self._lock:
            self._advance(count)

    def _advance(self, count: int) -> None:
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._spoken >= SECONDS_A_LINE:
            self._spoken = time.monotonic()
            rate = (self.done - self.before) / (self._spoken - self._started)
            line = f"{self.what}: {self.done} of {self.total} {self.unit}, {rate:.{0 if rate > 10 else 1}f}/s"
            print(line, file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        self._said += 1
        if self._said > LINES_SAID:
            return
        if self._said == LINES_SAID:
            line += " (more of these are counted, not shown)"
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)
