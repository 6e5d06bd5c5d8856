"""Data, trainings and evaluations by the commands that a user types; what is there already is not made again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.experiments.cases import COMMON, EXPERIMENTS, SOURCES, Experiment
from distgan.config import Config, load_config
from distgan.errors import UserError
from distgan.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]


class Bench:
    """Where pictures come from and everything goes to, and what is changed of every run."""

    def __init__(self, archives: Path, out: Path, processes: int, overrides: Sequence[str]) -> None:
        self.archives, self.out, self.processes, self.overrides = archives, out, processes, overrides

    def run(self, name: str) -> Path:
        """The folder of a run."""
        return self.out / "runs" / name

    def prepare(self, source: str) -> None:
        """Writes the shards. Raises UserError without an archive."""
        kind, pattern, options = SOURCES[source]
        shards = self._shards(source)
        if (shards / "index.json").is_file():
            return
        archive = min(self.archives.glob(pattern), default=None)
        if archive is None:
            raise UserError(f"{self.archives}: no {pattern} in it, of which {source} is made; give another --data")
        _call([sys.executable, ROOT / "distgan" / "cli.py", "prepare", kind, archive, *options, "--out", shards])

    def train(self, name: str) -> None:
        """Trains, or goes on training."""
        if RunFolder(self.run(name)).checkpoint(self.config(name).total_steps).is_dir():
            return
        case = EXPERIMENTS[name]
        _call([*self._launch("train.py"), "--config", _file(case), *self._overrides(name)])

    def evaluate(self, name: str, count: int) -> list[dict]:
        """Of every checkpoint step, kimg and metrics, over `count` pictures."""
        told = self.out / "evaluations" / f"{name}-{self.config(name).total_steps}-{count}.json"
        if not told.is_file():
            metrics = ",".join(EXPERIMENTS[name].metrics)
            command = [*self._launch("cli.py"), "evaluate", self.run(name)]
            _call([*command, "--all", "--metrics", metrics, "--count", count, "--json", told])
        return json.loads(told.read_text())["evaluations"]

    def _launch(self, script: str) -> list[object]:
        """A script of distgan on the processes asked for."""
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ROOT / "launch" / "cpu.yaml"]
        launch = [*launcher, "--num_processes", self.processes] if self.processes > 1 else [sys.executable]
        return [*launch, ROOT / "distgan" / script]

    def config(self, name: str) -> Config:
        """Of a run, with all overrides."""
        return load_config([_file(EXPERIMENTS[name])], self._overrides(name))

    def _overrides(self, name: str) -> list[str]:
        case = EXPERIMENTS[name]
        places = [f"run_dir={self.run(name)}", f"data.shards={self._shards(case.source)}"]
        return [*places, *COMMON, *case.overrides, *self.overrides]

    def _shards(self, source: str) -> Path:
        return self.out / "data" / source


def _file(case: Experiment) -> Path:
    return ROOT / "configs" / f"{case.config}.yaml"


def _call(words: Sequence[object]) -> None:
    command = [str(word) for word in words]
    print(f"{time.strftime('%H:%M:%S')} {' '.join(command)}", file=sys.stderr, flush=True)
    status = subprocess.run(command, cwd=ROOT).returncode
    if status:
        raise UserError(f"{' '.join(command)}: ended with {status}; its own message is above")
