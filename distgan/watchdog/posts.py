"""Where a watchdog talks: process 0 with all, every other process with process 0. Only its own thread is here."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable

from distgan.trouble import tell
from distgan.watchdog.judge import Judge, Verdict
from distgan.watchdog.members import Member, neighbour
from distgan.watchdog.wire import Line, Meeting, dial, how_lost

_PATIENCE = 60.0
"""Seconds in which a process looks for process 0 before it goes on unwatched."""

Say = Callable[[], dict]
"""How this process stands: its marks, where it is, and whether it sees its neighbour stopped."""

Conclude = Callable[[Verdict | None], None]


class _Post:
    def __init__(self, say: Say, judge: Judge, conclude: Conclude, wake: socket.socket) -> None:
        self.say, self.judge, self.conclude = say, judge, conclude
        self.selector = selectors.DefaultSelector()
        self.selector.register(wake, selectors.EVENT_READ, lambda: wake.recv(64))

    def wait(self, seconds: float) -> None:
        """Answers what comes, until something has come or the time is up."""
        for key, _ in self.selector.select(seconds):
            key.data()

    def drop(self, line: Line) -> None:
        self.selector.unregister(line.connection)
        line.close()


class Hub(_Post):
    """Process 0's: hears all, and passes the verdict on."""

    def __init__(
        self,
        server: socket.socket,
        meeting: Meeting,
        members: list[Member],
        say: Say,
        judge: Judge,
        conclude: Conclude,
        wake: socket.socket,
    ) -> None:
        super().__init__(say, judge, conclude, wake)
        self._server, self._word = server, meeting.word
        self._seen_by = [neighbour(members, member.rank) for member in members]
        self._lines: set[Line] = set()
        self._verdict: list | None = None
        self.selector.register(server, selectors.EVENT_READ, self._accept)

    def tick(self) -> None:
        self._hear(0, **self.say())

    def spread(self, verdict: Verdict) -> None:
        self._verdict = [verdict.kind, list(verdict.culprits.items())]
        for line in self._lines:
            line.send(verdict=self._verdict)

    def leave(self, how: str) -> None:
        for line in self._lines:
            line.send(left=how)
            line.close()
        self._server.close()

    def _hear(self, rank: int, marks: int, where: str, sees_stopped: bool) -> None:
        self.judge.hear(rank, marks, where)
        if self._seen_by[rank] is not None:
            self.judge.see(self._seen_by[rank].rank, sees_stopped)

    def _accept(self) -> None:
        try:
            line = Line(self._server.accept()[0])
        except OSError:
            return
        self.selector.register(line.connection, selectors.EVENT_READ, lambda: self._read(line))

    def _read(self, line: Line) -> None:
        try:
            for message in line.receive():
                self._answer(line, message)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._lines.discard(line)
            self.drop(line)
            if line.rank >= 0:
                self.conclude(self.judge.left(line.rank, how_lost(error)))

    def _answer(self, line: Line, message: dict) -> None:
        """Raises KeyError or ValueError for what no process of the run says."""
        if line.rank < 0:
            if message["word"] != self._word:
                raise ValueError("a stranger")
            line.rank = message["rank"]
            self._lines.add(line)
            self.judge.hear(line.rank, 0, "starting")
            line.send(word=self._word)
            if self._verdict is not None:
                line.send(verdict=self._verdict)
        elif "left" in message:
            self.conclude(self.judge.left(line.rank, message["left"]))
        else:
            self._hear(line.rank, message["marks"], message["where"], message["sees_stopped"])
            line.send(where=self.say()["where"])


class Spoke(_Post):
    """Another process's: tells process 0 how it stands, and judges process 0 alone."""

    def __init__(
        self,
        meeting: Meeting,
        members: list[Member],
        rank: int,
        say: Say,
        judge: Judge,
        conclude: Conclude,
        wake: socket.socket,
    ) -> None:
        super().__init__(say, judge, conclude, wake)
        self._meeting, self._rank, self._hub = meeting, rank, members[0]
        self._beside = members[rank].machine == self._hub.machine
        self._line: Line | None = None
        self._patience, self._waits = _PATIENCE, False

    def tick(self) -> None:
        """One message is on its way at a time: so nothing piles up before a process that does not read."""
        if self._line is None:
            self._look_for_hub()
        elif self._waits:
            self.judge.see(0, self._beside and self._hub.is_stopped())
        else:
            self._send()

    def spread(self, verdict: Verdict) -> None:
        """What process 0 found it passes on itself; without it nobody does."""

    def leave(self, how: str) -> None:
        if self._line is not None:
            self._line.send(left=how)
            self._line.close()

    def _send(self) -> None:
        self._waits = True
        self._line.send(**self.say())

    def _look_for_hub(self) -> None:
        if self._patience <= 0:
            return
        started = time.monotonic()
        self._line = dial(self._meeting, self._rank, self._beside)
        if self._line is not None:
            self._patience = 0.0
            self.judge.hear(0, 0, "starting")
            self.selector.register(self._line.connection, selectors.EVENT_READ, self._read)
            self._send()
            return
        self._patience -= max(1.0, time.monotonic() - started)
        if self._patience <= 0:
            where = f"{' or '.join(self._meeting.hosts)}, port {self._meeting.port}"
            tell(f"process {self._rank} goes on unwatched: it cannot reach process 0 at {where} (a firewall?)")

    def _read(self) -> None:
        try:
            for message in self._line.receive():
                if "verdict" in message:
                    kind, culprits = message["verdict"]
                    self.conclude(Verdict(kind, dict(culprits)))
                elif "left" in message:
                    self.conclude(self.judge.left(0, message["left"]))
                else:
                    self._waits = False
                    self.judge.hear(0, 0, message["where"])  # its movement it judges itself
        except (OSError, ValueError) as error:
            self.drop(self._line)
            self._line = None
            self.conclude(self.judge.left(0, how_lost(error)))
