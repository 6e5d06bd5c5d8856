"""Signals that ask a run to stop: it saves and leaves after the step it is in."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopSignals:
    """Installed first thing in a process, a stop signal only sets `received`; a second SIGINT interrupts at once.

    A signal so loses nothing at any time: not while torch is still loading, nor during the last save.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        """When this start began, by the monotonic clock."""
        self.received = False
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def install(self) -> StopSignals:
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        return self

    @property
    def asked(self) -> bool:
        """Whether to stop: a signal came, or the launcher that started this process has gone."""
        return self.received or (self._launcher is not None and os.getppid() != self._launcher)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True
        if sys.stderr.isatty():
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")  # print may not be entered twice


def ignore_stop_signals() -> None:
    """For the last moments of a process: at exit Python restores the default handlers, and one of these signals
    would turn a run that is over into one that failed."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
