"""How a command that works on shards ends: done, refused in one line, or stopped by a signal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distgan.errors import UserError


class Terminated(BaseException):
    """SIGTERM arrived: like KeyboardInterrupt, it must pass every `except Exception`."""


def run_command(name: str, action: Callable[[], int], again: str) -> int:
    """What `action` returns; else the status of a `UserError`, 130 for Ctrl-C or 143 for SIGTERM, told in one line.

    `again` says what to do after a stop.
    """
    try:
        with _terminable():
            return action()
    except UserError as error:
        print(f"distgan {name}: {error}", file=sys.stderr)
        return error.exit_status
    except (KeyboardInterrupt, Terminated) as stop:
        print(f"distgan {name}: stopped; {again}", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130


@contextmanager
def _terminable() -> Iterator[None]:
    """Makes SIGTERM an exception while the work runs, so that half-written files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum, frame):
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
