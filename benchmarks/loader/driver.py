"""Runs the contenders in turn, each in its process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 240
"""Seconds after which a contender that does not answer is given up: the first opening of a case writes its files."""


class Settings(NamedTuple):
    """What all contenders share."""

    data: Path
    work: Path
    threads: int
    batch: int


class Measured(NamedTuple):
    """What a contender did in one round."""

    pictures: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.pictures / self.seconds

    @property
    def cost(self) -> float:
        """Microseconds of CPU time a picture."""
        return self.cpu / self.pictures * 1e6


class Result(NamedTuple):
    """A contender in a case: its rounds, or why there are none."""

    rounds: tuple[Measured, ...] = ()
    reason: str = ""

    @property
    def rate(self) -> float:
        """Pictures a second, the median of the rounds."""
        return statistics.median(each.rate for each in self.rounds)

    @property
    def cpu(self) -> float:
        """Microseconds of CPU time a picture, the median of the rounds."""
        return statistics.median(each.cost for each in self.rounds)

    def ratio(self, other: Result) -> float:
        """How many times the rate of `other` this is, the median over rounds."""
        return statistics.median(mine.rate / its.rate for mine, its in zip(self.rounds, other.rounds, strict=True))

    def cpu_ratio(self, other: Result) -> float:
        """How many times the CPU time of `other` this takes, the median over rounds."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(mine.cost / its.cost for mine, its in pairs)


class Failed(Exception):
    """A contender cannot take part; the message says why."""


class Server:
    """A contender's process."""

    def __init__(self, contender: str, settings: Settings) -> None:
        settings.work.mkdir(parents=True, exist_ok=True)
        self._log = settings.work / f"{contender}.log"
        told = {**settings._asdict(), "contender": contender}
        words = [sys.executable, "-m", "benchmarks.loader.server", json.dumps(told, default=str)]
        with open(self._log, "w") as log:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True, "bufsize": 1}
            self._process = subprocess.Popen(words, cwd=ROOT, start_new_session=True, **pipes)
        self._answer()

    def tell(self, do: str, **values: object) -> dict:
        """Gives an order and waits for its answer. Raises Failed where it could not be carried out."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
        except OSError:
            raise Failed(f"ended; see {self._log}") from None
        answer = self._answer()
        if "failed" in answer:
            raise Failed(f"{answer['failed']}; see {self._log}")
        if "unavailable" in answer:
            raise Failed(answer["unavailable"])
        return answer

    def stop(self) -> None:
        """Lets the process end by itself, so that it frees what it shares, or ends it with its workers."""
        try:
            self._process.stdin.close()
            self._process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answer(self) -> dict:
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise Failed(f"{'ended' if ready else f'no answer in {PATIENCE} s'}; see {self._log}")
        return json.loads(line)


class Field:
    """The contenders that take part, started when first needed."""

    def __init__(self, names: Sequence[str], settings: Settings) -> None:
        self._names, self._settings = names, settings
        self._servers: dict[str, Server] = {}

    def race(self, case: str, rounds: int, seconds: float) -> dict[str, Result]:
        """All contenders in a case, each once a round, every round beginning with another."""
        results: dict[str, Result] = {}
        ready = [name for name in self._names if self._opened(name, case, results)]
        measured: dict[str, list[Measured]] = {name: [] for name in ready}
        for number in range(rounds):
            for name in _rotated(ready, number):
                answer = self._tell(name, results, "measure", seconds=seconds)
                if answer is not None:
                    measured[name].append(Measured(**answer))
        for name in ready:
            if name not in results and self._tell(name, results, "close") is not None:
                results[name] = Result(tuple(measured[name]))
        return results

    def stop(self) -> None:
        for server in self._servers.values():
            server.stop()

    def _opened(self, name: str, case: str, results: dict[str, Result]) -> bool:
        return self._tell(name, results, "open", case=case) is not None

    def _tell(self, name: str, results: dict[str, Result], do: str, **values: object) -> dict | None:
        """The answer, or None, with the reason among the results, where there is none."""
        if name in results:  # it failed before
            return None
        print(f"  {do} {' '.join(map(str, values.values()))} {name}", file=sys.stderr, flush=True)
        try:
            if name not in self._servers:
                self._servers[name] = Server(name, self._settings)
            return self._servers[name].tell(do, **values)
        except Failed as error:
            results[name] = Result(reason=str(error))
            if do != "open" and name in self._servers:
                self._servers.pop(name).stop()
            return None


def _rotated(names: Sequence[str], by: int) -> list[str]:
    by %= len(names) or 1
    return [*names[by:], *names[:by]]
