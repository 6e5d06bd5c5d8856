"""What a real training, with data, lines, samples and checkpoints, keeps of the bare step's rate."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.step.counting import synchronise
from distgan.config import Config, load_config
from distgan.data.prepare import prepare
from distgan.doctor.steps import Steps
from distgan.errors import UserError
from distgan.runtime import Runtime

ROOT = Path(__file__).resolve().parents[2]
_START = 5
"""One part in so many of the steps is the start, which is left out."""


@dataclass
class Rates:
    """Real images a second in each round."""

    name: str
    steps: int
    training: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The median over the rounds."""
        return statistics.median(mine / its for mine, its in zip(self.training, self.bare, strict=True))

    def lines(self) -> list[str]:
        """For people."""
        rows = {"whole training": self.training, "bare step": self.bare}
        found = [f"{name:15} images/s {' '.join(f'{rate:,.1f}' for rate in rates)}" for name, rates in rows.items()]
        return [f"{self.name}, {self.steps} steps", *found, f"ratio {self.ratio:.3f}"]

    def as_json(self) -> dict:
        """Everything."""
        return {**vars(self), "ratio": self.ratio}


def compare(config: str, overrides: list[str], steps: int, rounds: int, tell: Callable[[str], None]) -> Rates:
    """Trains on drawn pictures and takes bare steps in turn, each time in the other order.

    Raises ConfigError for a bad config, UserError where a training fails.
    """
    name = " ".join([config, *overrides])
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder, "shards")
        data = load_config([config], overrides).data
        prepare("shapes", None, shards, resolution=data.resolution, channels=data.channels, count=512, workers=1)
        arguments = [*overrides, f"data.shards={shards}", f"train.length={steps} steps"]
        loaded = load_config([config], arguments)
        every = loaded.tracking.every.steps(loaded.course.stage(0).images_per_step)
        if sum(step >= steps / _START for step in range(every, steps + 1, every)) < 2:
            raise UserError(
                f"{steps} steps are too few for two lines of metrics.jsonl, one every {every}; give more --steps"
            )
        bare = _Bare(loaded)
        found = Rates(name, steps)
        for number in range(rounds):
            run = Path(folder, f"run-{number}")
            turns = [
                (found.training, lambda run=run: _train(config, arguments, run, steps)),
                (found.bare, lambda: bare.rate(steps)),
            ]
            for rates, measure in turns if number % 2 == 0 else reversed(turns):
                tell(f"round {number + 1}: {'whole training' if rates is found.training else 'bare step'}")
                rates.append(measure())
    return found


class _Bare:
    """The step of a config's training, of which nothing is read, written or told."""

    def __init__(self, config: Config) -> None:
        self._steps, self._images, self._taken = (
            Steps(config, Runtime(config)),
            config.course.stage(0).images_per_step,
            0,
        )

    def rate(self, steps: int) -> float:
        """Real images a second."""
        start = steps // _START
        self._take(start)
        started = time.perf_counter()
        self._take(steps - start)
        return (steps - start) * self._images / (time.perf_counter() - started)

    def _take(self, count: int) -> None:
        for _ in range(count):
            self._steps.take(self._taken)
            self._taken += 1
        synchronise()


def _train(config: str, arguments: list[str], run: Path, steps: int) -> float:
    """Real images a second of a training in a process of its own, its start left out."""
    command = [sys.executable, str(ROOT / "distgan" / "train.py"), "--config", config, *arguments, f"run_dir={run}"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"the training has failed: {' '.join(command)}\n{done.stderr.strip()}")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["step"] >= steps / _START]
    first, last = lines[0], lines[-1]
    return 1000 * (last["kimg"] - first["kimg"]) / (last["seconds"] - first["seconds"])
