"""How far the work is: a bar on a terminal, now and then a plain line in a file."""

from __future__ import annotations

import sys
import time

SECONDS_A_LINE = 10
LINES_SAID = 20


class Progress:
    """Counts pictures on stderr, `before` of `total` being done. Use as a context.

    `say` prints a line without spoiling the bar; after `LINES_SAID` lines it is silent.
    """

    def __init__(self, what: str, total: int, before: int = 0) -> None:
        self.what, self.total, self.before, self.done = what, total, before, before
        self._bar = None
        self._said = 0
        self._started = self._spoken = time.monotonic()

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            name = f"prepare {self.what}"
            self._bar = tqdm(total=self.total, initial=self.before, desc=name, unit="picture", file=sys.stderr)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, pictures: int) -> None:
        self.done += pictures
        if self._bar is not None:
            self._bar.update(pictures)
        elif time.monotonic() - self._spoken >= SECONDS_A_LINE:
            self._spoken = time.monotonic()
            rate = (self.done - self.before) / (self._spoken - self._started)
            line = f"prepare {self.what}: {self.done} of {self.total} pictures, {rate:.0f}/s"
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
