"""Whether something is wrong with a process, from what was heard of all of them. Speaks to nobody."""

from __future__ import annotations

from dataclasses import dataclass, field

DONE, FAILED, GONE, UNREACHABLE = "done", "failed", "gone", "unreachable"
"""How a process can leave: its work done; with a failure that it tells; without a word; its machine does not answer."""

STOPPED, SILENT, STUCK, NETWORK = "stopped", "silent", "stuck", "network"
"""What else can be wrong: SIGSTOP; no answer; its training thread does not move; nobody's does, and none is behind."""


@dataclass(frozen=True)
class Verdict:
    """What is wrong."""

    kind: str
    culprits: dict[int, str]
    """By rank, where each was; with NETWORK all processes."""


@dataclass
class _Seen:
    heard: int
    """The tick at which it last said something."""
    marks: int = 0
    where: str = "starting"
    stopped: bool = False


@dataclass
class Judge:
    """Time is counted in its own ticks, so that a job that is suspended as a whole is no alarm when it goes on."""

    gone: int
    """Ticks of silence after which a process is given up that is known to be stopped."""
    stuck: int
    """Ticks without any movement, or of unexplained silence (something may hold Python's lock for long)."""
    _seen: dict[int, _Seen] = field(default_factory=dict)
    _now: int = 0
    _moved: int = 0

    def hear(self, rank: int, marks: int, where: str) -> None:
        """A sign of life: how many places the training thread has passed, and the last of them."""
        seen = self._seen.setdefault(rank, _Seen(self._now))
        if marks != seen.marks:
            self._moved = self._now
        seen.heard, seen.marks, seen.where = self._now, marks, where

    def see(self, rank: int, stopped: bool) -> None:
        """What a process of the same machine sees of it."""
        if rank in self._seen:
            self._seen[rank].stopped = stopped

    def left(self, rank: int, how: str) -> Verdict | None:
        """It has left, and is not waited for."""
        seen = self._seen.pop(rank, None)
        return None if seen is None or how == DONE else Verdict(how, {rank: seen.where})

    def afresh(self) -> None:
        """Who judges has itself stood still: nothing can be said about the time until now."""
        self._moved = self._now
        for seen in self._seen.values():
            seen.heard = self._now

    def tick(self) -> Verdict | None:
        self._now += 1
        for rank, seen in self._seen.items():
            silent = self._now - seen.heard
            if seen.stopped and silent >= self.gone:
                return Verdict(STOPPED, {rank: seen.where})
            if silent >= max(self.gone, self.stuck):
                return Verdict(SILENT, {rank: seen.where})
        return self._stuck()

    def _stuck(self) -> Verdict | None:
        """Those that have passed the fewest places are the ones that the others wait for."""
        marks = {rank: seen.marks for rank, seen in self._seen.items()}
        if not any(marks.values()) or self._now - self._moved < self.stuck:  # what does not mark is not judged
            return None
        behind = [rank for rank in marks if marks[rank] == min(marks.values())]
        kind = NETWORK if len(behind) == len(marks) > 1 else STUCK
        return Verdict(kind, {rank: self._seen[rank].where for rank in behind})
