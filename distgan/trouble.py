"""A file that cannot be written while a run goes on: told when that begins and when it is over, not every time."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path


def tell(text: str) -> None:
    """A line on stderr; where that is full or gone, nothing."""
    with contextlib.suppress(OSError):
        print(f"distgan: {text}", file=sys.stderr, flush=True)


class Trouble:
    """Of one file or folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.error: OSError | None = None
        """The newest, until it is over."""

    def met(self, error: OSError) -> None:
        begins, self.error = self.error is None, error
        if begins:
            tell(f"{self.path}: cannot be written: {error.strerror}; the run goes on and tries again")

    def over(self, what: str = "is written again") -> None:
        if self.error is not None:
            self.error = None
            tell(f"{self.path}: {what}")
