"""A process that runs one contender: it is told on stdin what to do, a line of JSON each, and answers on stdout.

    {"do": "open", "case": "png32"}     from opening to the first batch, in seconds
    {"do": "measure", "seconds": 1}     pictures, seconds, and CPU seconds of this process and its workers
    {"do": "close"}

Started by `driver.Server`. Between commands it rests: once its queues are full, nobody takes from them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from benchmarks.loader.cases import CASES, Case, prepare
from benchmarks.loader.contenders import Contender, contenders
from benchmarks.loader.peers import SHUFFLE
from benchmarks.loader.unavailable import Unavailable

SETTLE_SECONDS = 4.0
"""The longest that a contender just opened may take to fill its buffers."""


class Runner:
    """One contender, and the case it has open."""

    def __init__(self, contender: Contender, data: Path, work: Path, threads: int, batch: int) -> None:
        self._contender, self._data, self._work = contender, data, work
        self._threads, self._batch = threads, batch
        self._batches: Iterator[Tensor] = iter(())

    def open(self, case: str) -> dict:
        prepared = prepare(CASES[case], self._data, self._work)
        self._batches = self._contender.batches(prepared, self._threads, self._batch)
        started = time.perf_counter()
        _check(next(self._batches), CASES[case], self._batch)
        first = time.perf_counter() - started
        # A shuffle buffer hands out one picture for every two it takes in until it is full.
        pictures = sum(1 for _ in prepared.pictures()) if self._contender.keeps else self._threads * SHUFFLE
        self._draw(SETTLE_SECONDS, at_most=pictures // self._batch + 1)
        return {"first": first}

    def measure(self, seconds: float) -> dict:
        self._draw(seconds / 4, at_least=max(8, 4 * self._threads))  # what waits in the queues was made before
        cpu, started = cpu_seconds(), time.perf_counter()
        pictures = self._draw(seconds) * self._batch
        return {"pictures": pictures, "seconds": time.perf_counter() - started, "cpu": cpu_seconds() - cpu}

    def close(self) -> dict:
        self._batches.close()
        return {}

    def _draw(self, seconds: float, at_least: int = 1, at_most: int = sys.maxsize) -> int:
        """Takes batches until the time is over; returns how many."""
        end = time.perf_counter() + seconds
        for drawn, batch in enumerate(self._batches, 1):
            del batch
            if drawn >= at_most or (drawn >= at_least and time.perf_counter() >= end):
                return drawn
        raise RuntimeError("its batches came to an end")


def cpu_seconds() -> float:
    """CPU time that this process and its live workers have used."""
    # The clock of another process's CPU time: clock_getcpuclockid(3), which Python does not have.
    workers = [time.clock_gettime(~child.pid << 3 | 2) for child in multiprocessing.active_children()]
    return time.process_time() + sum(workers)


def _check(batch: Tensor, case: Case, size: int) -> None:
    shape = (size, 3, case.side, case.side)
    if tuple(batch.shape) != shape or str(batch.dtype) != "torch.uint8":
        raise RuntimeError(f"delivers {batch.dtype} {tuple(batch.shape)}, not uint8 {shape}")


def main() -> None:
    settings = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")  # torchvision's decoder warns at each call
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    contender = contenders()[settings["contender"]]
    work, data = Path(settings["work"]), Path(settings["data"])
    runner = Runner(contender, data, work, settings["threads"], settings["batch"])
    print(json.dumps({}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(runner, command.pop("do"))(**command)
        except Unavailable as reason:
            answer = {"unavailable": str(reason)}
        except Exception as error:
            traceback.print_exc()
            answer = {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
