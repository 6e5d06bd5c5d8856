"""Signals that ask a run to stop: it saves and leaves after the step it is in."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from distgan.exit_status import end_now
from distgan.launcher import launcher, workers_of

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_LOOK = 0.5
"""Seconds between two looks at the other processes, after a signal that came before they had met."""
INTERRUPTED = "interrupted; start again to go on from the newest checkpoint"


class StopSignals:
    """Installed first thing in a process, a stop signal only sets `received`; a second SIGINT ends it at once.

    A signal so loses nothing at any time: not while torch is still loading, nor during the last save.
    """

    def __init__(self) -> None:
        self.began = time.monotonic()
        """When this start began, by the monotonic clock."""
        self.received = False
        self.reason: str | None = None
        """What first asked to stop: the name of a signal, or the launcher that has gone."""
        self.on_interrupt: Callable[[], object] | None = None
        """Called, in another thread and for moments only, before a second SIGINT ends the process."""
        self.met = False
        """Whether the processes have found each other; until then only the launcher knows of one that has ended."""
        self._launcher = launcher()

    def install(self) -> StopSignals:
        """From the main thread."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        arrived, self._arrivals = socket.socketpair()
        self._arrivals.setblocking(False)
        signal.set_wakeup_fd(self._arrivals.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(arrived,), name="signals", daemon=True).start()
        return self

    @property
    def asked(self) -> bool:
        """Whether to stop: a signal came, or the launcher that started this process has gone."""
        if self.received:
            return True
        gone = self._launcher is not None and os.getppid() != self._launcher
        if gone:
            self.reason = self.reason or "the end of its launcher"
        return gone

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name
        self.received = True

    def _watch(self, arrived: socket.socket) -> None:
        """Python calls a handler in the main thread, which may wait in a collective for ever; the numbers of the
        signals come here at once."""
        interrupts = 0
        while True:
            try:
                numbers = arrived.recv(64)
            except TimeoutError:
                self._leave_if_alone()
                continue
            if not self.met:  # it may be for one that has ended that the launcher asks the others to stop
                arrived.settimeout(_LOOK)
            if sys.stderr.isatty() and interrupts == 0:
                os.write(2, b"\nstopping after this step; a second Ctrl-C stops at once\n")
            interrupts += numbers.count(signal.SIGINT)
            if interrupts > 1:
                end_now(
                    130,
                    lambda: os.write(2, f"distgan: {INTERRUPTED}\n".encode()),
                    self.on_interrupt or (lambda: None),
                    within=2.0,
                )

    def _leave_if_alone(self) -> None:
        """Ends this process when it has been asked to stop and waits for others of which one is no more: torchrun would
        give it 30 seconds, and it has nothing to save yet."""
        if (
            not self.met
            and self._launcher is not None
            and workers_of(self._launcher) < int(os.environ["LOCAL_WORLD_SIZE"])
        ):
            line = f"distgan: process {os.environ['RANK']}: another process has ended before the training began\n"
            end_now(1, lambda: os.write(2, line.encode()), within=2.0)


def ignore_stop_signals() -> None:
    """For the last moments of a process: at exit Python restores the default handlers, and one of these signals
    would turn a run that is over into one that failed."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
