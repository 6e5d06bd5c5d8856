"""A thread beside the training: tells the other processes how this one stands, and ends it when one of them is lost."""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
from collections.abc import Callable

from distgan import exit_status
from distgan.exit_status import end_now
from distgan.watchdog import judge as judging
from distgan.watchdog.judge import Judge, Verdict
from distgan.watchdog.members import Member, neighbour
from distgan.watchdog.posts import Hub, Spoke
from distgan.watchdog.telling import sentence, stack_of_training
from distgan.watchdog.wire import Meeting

TICK = 1.0
"""Seconds between two messages of a process."""
GONE = 20
"""Ticks that a stopped process is given to go on."""
_LATE = 4.0
"""Seconds by which a tick is late when this process, or its machine, has stood still."""
_LEAVE = 5
"""Ticks in which a survivor should find out by itself that it waits for nobody, as with gloo it does."""
_WIND_UP = 20
"""Ticks that it has when it did, to close its files and views."""
_ASK = 5.0
"""Seconds that a failing process waits to hear who was lost."""
_SETTLE = 0.5
"""Seconds after which it is decided who speaks: processes that were killed together are all gone by then."""
_STAY = 1.0
"""Seconds that a process stays after that: the others have then decided the same, and told where they are, before its
end gives them errors of their own."""
_OWN_END = 3.0
"""Seconds that a stuck process of this machine has to tell its own stack."""
_LAST_WORDS = 8.0
"""Seconds that all of this may take at the end of a process."""
_SAVED = 25.0
"""Seconds that a checkpoint which is being written has from the verdict on; torchrun gives all of them 30."""

_ACTS_AT_ONCE = (judging.STOPPED, judging.SILENT, judging.STUCK, judging.NETWORK)
_ALIVE = (judging.STUCK, judging.NETWORK)


class Idle:
    """One process has nobody to watch."""

    on_end: Callable[[str, bool], object] | None = None
    saves: Callable[[], bool] | None = None

    def mark(self, step: int, doing: str, phase: str = "", update: int = 0) -> None:
        pass

    def failed(self) -> None:
        pass

    def close(self) -> None:
        pass


class Watchdog:
    """Of one process among several. `mark` is the training thread's, and costs next to nothing."""

    def __init__(
        self, members: list[Member], rank: int, meeting: Meeting, server: socket.socket | None, stuck_after: float
    ) -> None:
        """`server` is process 0's (`listen`); `stuck_after`: seconds."""
        self._members, self._rank, self._stuck_after = members, rank, stuck_after
        self.on_end: Callable[[str, bool], object] | None = None
        """Puts down that the run ends here, why, and whether it is worth starting again: called where it does, in
        another thread and for moments only."""
        self._at: tuple[int, str, str, int] = (0, "starting", "", 0)
        self._marks = self._marks_then = 0
        self.saves: Callable[[], bool] = lambda: False
        """Whether this process is writing a checkpoint, which it may finish before it ends."""
        self._neighbour = neighbour(members, rank)
        self._judge = Judge(GONE, max(1, round(stuck_after / TICK)))
        self._verdict: Verdict | None = None
        self._news, self._told, self._speaks = threading.Condition(), False, False
        self._ticks_left, self._since = _WIND_UP, 0.0
        self._leaving: str | None = None
        self._wake, wake = socket.socketpair()
        if server is not None:
            self._post = Hub(server, meeting, members, self._say, self._judge, self._conclude, wake)
        else:
            self._post = Spoke(meeting, members, rank, self._say, self._judge, self._conclude, wake)
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> Watchdog:
        self._thread.start()
        return self

    def mark(self, step: int, doing: str, phase: str = "", update: int = 0) -> None:
        """Where the training thread is. All processes mark the same places in the same order."""
        self._at = (step, doing, phase, update)
        self._marks += 1

    def close(self) -> None:
        """This process has done its work."""
        self._leave(judging.DONE)

    def failed(self) -> None:
        """This process ends by a failure that it tells itself."""
        self._leave(judging.FAILED)

    def lost(self) -> str | None:
        """Asked when another process was found missing: what to say of it, nothing where another process of this
        machine says it, None where nothing is known. Waits for seconds."""
        with self._news:
            self._news.wait_for(lambda: self._verdict is not None, _ASK)
        if self._verdict is None:
            return None
        if self._verdict.kind in _ACTS_AT_ONCE:  # its thread is about to end this process
            self._thread.join(2 * _ASK)
        self._told = True
        self._record(self._verdict)
        time.sleep(_STAY)
        return self._sentence(self._verdict) if self._speaks else ""

    def _leave(self, how: str) -> None:
        if self._leaving is None:
            self._leaving = how
            self._wake.send(b"x")
        if threading.current_thread() is not self._thread:
            self._thread.join(2.0)

    def _run(self) -> None:
        try:
            self._watch()
        except Exception:  # noqa: BLE001  a defect here takes nothing from the run
            traceback.print_exc()
        self._post.leave(self._leaving or judging.DONE)

    def _watch(self) -> None:
        due = time.monotonic()
        while self._leaving is None:
            self._post.wait(max(0.0, due - time.monotonic()))
            if self._verdict is not None and self._verdict.kind in _ACTS_AT_ONCE:
                self._end(self._verdict)
            late = time.monotonic() - due
            if late >= 0:
                due = time.monotonic() + TICK
                self._tick(late > _LATE)

    def _tick(self, stood_still: bool) -> None:
        if stood_still:
            self._judge.afresh()
        if self._verdict is None:
            self._post.tick()
            self._conclude(self._judge.tick())
            return
        self._ticks_left -= 1
        if self._ticks_left <= (_WIND_UP - _LEAVE if self._marks == self._marks_then else 0):
            self._end(self._verdict)

    def _conclude(self, verdict: Verdict | None) -> None:
        """The first verdict counts: what follows is its consequence."""
        if verdict is not None and self._verdict is None:
            self._marks_then, self._since = self._marks, time.monotonic()
            self._post.spread(verdict)
            time.sleep(_SETTLE)
            self._speaks = self._tells(verdict)
            with self._news:
                self._verdict = verdict
                self._news.notify_all()

    def _say(self) -> dict:
        sees_stopped = self._neighbour is not None and self._neighbour.is_stopped()
        return {"marks": self._marks, "where": self._where(), "sees_stopped": sees_stopped}

    def _where(self) -> str:
        step, doing, phase, update = self._at
        return f"step {step}, {phase} update {update}: {doing}" if phase else f"step {step}, {doing}"

    def _end(self, verdict: Verdict) -> None:
        """Tells what is known and leaves: the training thread may never come back from where it is."""
        parts, speaks = [], self._speaks and not self._told
        if speaks:
            parts.append(f"distgan: {self._sentence(verdict)}\n")
        if not self._told:
            remark = ", which has not moved" if verdict.kind == judging.STUCK and self._rank in verdict.culprits else ""
            parts.append(stack_of_training(self._rank, f"{remark}, at {self._where()}"))
        end_now(
            1,
            lambda: os.write(2, "".join(parts).encode(errors="replace")),
            lambda: self._see_off(verdict),
            lambda: self._record(verdict),
            self._let_save,
            lambda: self._tell_way_on(verdict, speaks),
            within=max(_LAST_WORDS, self._since + _SAVED - time.monotonic()) if self.saves() else _LAST_WORDS,
        )

    def _see_off(self, verdict: Verdict) -> None:
        """Ends what will not end by itself; the launcher waits for it."""
        time.sleep(_STAY)
        if verdict.kind not in _ACTS_AT_ONCE or self._rank in verdict.culprits:
            return
        for rank in verdict.culprits:
            if self._is_beside(self._members[rank]):
                self._members[rank].end_unless_it_does(_OWN_END)

    def _let_save(self) -> None:
        """Waits for the checkpoint that a thread is writing: it is whole, whoever was lost since."""
        while self.saves():
            time.sleep(0.05)

    def _tell_way_on(self, verdict: Verdict, speaks: bool) -> None:
        """Once a checkpoint under way is whole: it may be the one to go on from."""
        onward = exit_status.way_on() if exit_status.way_on is not None else ""
        if onward and speaks and verdict.kind != judging.FAILED:  # which says so itself
            os.write(2, f"distgan: {onward}\n".encode())

    def _record(self, verdict: Verdict) -> None:
        """Process 0 keeps the record of the run; when it has gone, the others do what is left to do."""
        if self.on_end is not None and (self._rank == 0 or 0 in verdict.culprits):
            self.on_end(self._sentence(verdict), verdict.kind != judging.FAILED)

    def _is_beside(self, member: Member) -> bool:
        return member.machine == self._members[self._rank].machine

    def _tells(self, verdict: Verdict) -> bool:
        """Whether this process speaks for its machine: the first that can, one that is not to blame if there is one."""
        able = [
            (member.rank in verdict.culprits, member.rank)
            for member in self._members
            if self._is_beside(member) and (verdict.kind in _ALIVE or member.rank not in verdict.culprits)
            if member.rank == self._rank or member.state() is not None
        ]
        return min(able, default=(True, -1))[1] == self._rank

    def _sentence(self, verdict: Verdict) -> str:
        return sentence(verdict, self._members, f"{self._stuck_after:g} s")
