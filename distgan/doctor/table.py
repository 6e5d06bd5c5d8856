"""The table of the doctor: a row for each thing that was looked at, printed as soon as it is known."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

FINE, REMARK, NOT_FINE = "fine", "remark", "NOT FINE"


class Finding(NamedTuple):
    """What one process says of one thing."""

    what: str
    verdict: str
    """FINE, REMARK or NOT_FINE."""
    text: str
    """What was found; where it is not fine, the way out too."""


def merged(found: Sequence[Sequence[Finding]], hosts: Sequence[str]) -> list[Finding]:
    """The rows for what each process (rank r on `hosts[r]`) has found: one row where all that looked say the same or
    all is fine, and else whatever is not, with those who say it."""
    rows, by_thing = [], defaultdict(list)
    for rank, findings in enumerate(found):
        for finding in findings:
            by_thing[finding.what].append((rank, finding))
    for what, said in by_thing.items():
        speakers = {rank for rank, _ in said}
        for verdict in (NOT_FINE, REMARK):
            for text in dict.fromkeys(finding.text for _, finding in said if finding.verdict == verdict):
                ranks = [rank for rank, finding in said if finding.text == text]
                all_say_so = set(ranks) == speakers
                rows.append(Finding(what, verdict, text if all_say_so else f"{named(ranks, hosts)}: {text}"))
        if all(finding.verdict == FINE for _, finding in said):
            rows.append(said[0][1])
    return rows


def named(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    """Processes with their machines: "process 3 on b", "processes 0, 1 on a and 2 on b"."""
    of_host = defaultdict(list)
    for rank in ranks:
        of_host[hosts[rank]].append(rank)
    parts = [f"{', '.join(map(str, found))} on {host}" for host, found in of_host.items()]
    return f"process{'es' * (len(ranks) > 1)} {' and '.join(parts)}"


def amount(size: float) -> str:
    """Bytes for a person."""
    unit, scale = next((pair for pair in (("GB", 1e9), ("MB", 1e6)) if size >= pair[1]), ("kB", 1e3))
    value = size / scale
    return f"{value:.{1 if value < 10 else 0}f} {unit}"


class Table:
    """Prints rows, on one process, and remembers what is not fine, on all."""

    def __init__(self, prints: bool) -> None:
        self._prints = prints
        self._ill: dict[str, None] = {}

    def line(self, text: str = "") -> None:
        if not self._prints:
            return
        try:
            print(text, flush=True)
        except BrokenPipeError:  # a reader that has seen enough, such as `head`; the others still need this process
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def add(self, rows: Iterable[Finding]) -> None:
        for what, verdict, text in rows:
            if verdict == NOT_FINE:
                self._ill[what] = None
            first, *more = text.splitlines() or [""]
            self.line(f"{what:9}  {verdict:8}  {first}")
            for line in more:
                self.line(f"{'':21}{line}")

    def is_ill(self, what: str) -> bool:
        """Whether a row of this thing is NOT FINE."""
        return what in self._ill

    @property
    def status(self) -> int:
        """0 when nothing is NOT FINE, else 1."""
        return int(bool(self._ill))

    def close(self, seconds: float) -> None:
        verdict = f"NOT FINE: {', '.join(self._ill)}" if self._ill else "all fine"
        self.line(f"\n{verdict}; looked at in {seconds:.1f} s")
