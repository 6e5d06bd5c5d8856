"""Signals that ask a run to stop: it saves and leaves after the step it is in."""

from __future__ import annotations

import contextlib
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

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
_LOOK = 0.5
"""Seconds between two looks at the other processes, after a signal that came before they had met."""
_IN_VAIN = 20.0
"""Seconds after such a signal that the others have to come; torchrun gives 30 in all."""
_ANOTHER = 1.0
"""Seconds after which a SIGINT is another one: of one Ctrl-C or `scancel -s INT` that reaches all processes of a job, a
process gets its own and the one that torchrun passes on."""
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
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup asks
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
        first = name = interrupted = None
        while True:
            try:
                numbers = arrived.recv(64)
            except TimeoutError:
                self._leave_if_in_vain(name, time.monotonic() - first)
                continue
            now = time.monotonic()
            first, name = first or now, name or signal.Signals(numbers[0]).name
            if not self.met and int(os.environ.get("WORLD_SIZE", 1)) > 1:  # it may be that others will never come
                arrived.settimeout(_LOOK)
            if sys.stderr.isatty() and interrupted is None:
                with contextlib.suppress(OSError):  # it may have hung up
                    os.write(2, b"\nstopping after this step; a second Ctrl-C stops at once\n")
            if signal.SIGINT not in numbers:
                continue
            interrupted = interrupted or now
            if now - interrupted >= _ANOTHER:
                end_now(
                    130,
                    lambda: os.write(2, f"distgan: {INTERRUPTED}\n".encode()),
                    self.on_interrupt or (lambda: None),
                    within=2.0,
                )

    def _leave_if_in_vain(self, name: str, seconds: float) -> None:
        """Ends this process when a signal asked it to stop so long ago and it waits for others that do not come: it has
        nothing to save yet. One of them may be no more, for which torchrun would give it 30 seconds."""
        if self.met:
            return
        if "TORCHELASTIC_RUN_ID" in os.environ and workers_of(self._launcher) < int(os.environ["LOCAL_WORLD_SIZE"]):
            why = "another process has ended before the training began"
        elif seconds >= _IN_VAIN:
            why = f"{name}, and {_IN_VAIN:.0f} s later it has not found the other processes; nothing was begun"
        else:
            return
        line = f"distgan: process {os.environ['RANK']}: {why}\n"
        end_now(1, lambda: os.write(2, line.encode()), within=2.0)


def ignore_stop_signals() -> None:
    """For the last moments of a process: at exit Python restores the default handlers, and one of these signals
    would turn a run that is over into one that failed."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
