"""How long training stands still for a checkpoint, against the time of a step, with the files written by a thread and,
for comparison, by the training itself.

    python benchmarks/checkpoint_stall.py --config configs/celeba64.yaml --steps 24 --every 4 [key.path=value ...]

Trains on drawn pictures, in one process. Every second save is written by the training thread, as it would be without
`checkpoint.Writer`, so that both meet the same machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

from distgan import checkpoint
from distgan.config import Config, load_config
from distgan.data.dataset import open_dataset
from distgan.data.prepare import prepare
from distgan.run_folder import RunFolder
from distgan.runtime import Runtime
from distgan.stopping import StopSignals
from distgan.trainer import Trainer


class Timed(Trainer):
    """A trainer that notes how long its steps and its saves take."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.alone: list[float] = []
        self.beside: list[float] = []
        self.stalls: list[float] = []
        self.whole: list[float] = []
        self.thread_saves = 0

    def _step(self, *args) -> None:
        writing = self.writer.busy
        started = time.perf_counter()
        super()._step(*args)
        (self.beside if writing else self.alone).append(time.perf_counter() - started)

    def _jobs(self, *args):
        *others, save = super()._jobs(*args)
        return (*others, dataclasses.replace(save, action=lambda: self._timed(save.action)))

    def _timed(self, action) -> None:
        by_thread = len(self.stalls) <= len(self.whole)
        started = time.perf_counter()
        action()
        if not by_thread:
            self.writer.finish()
        (self.stalls if by_thread else self.whole).append(time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/celeba64.yaml")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--every", type=int, default=4, help="steps between two checkpoints")
    parser.add_argument("--disk", help="folder for the run; default: a temporary one")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory(dir=options.disk) as folder:
        config = _config(options, Path(folder))
        print(json.dumps(_measure(config), indent=1))


def _config(options: argparse.Namespace, folder: Path) -> Config:
    first = load_config([options.config], options.overrides)
    prepare("shapes", None, folder / "shards", resolution=first.data.resolution, count=512, shard_size=512, workers=1)
    forced = {
        "run_dir": folder / "run",
        "data.shards": folder / "shards",
        "train.length": f"{options.steps} steps",
        "checkpoint.every": f"{options.every} steps",
        "tracking.every": "100000 steps",
        "samples.every": "100000 steps",
    }
    return load_config([options.config], [*options.overrides, *(f"{key}={value}" for key, value in forced.items())])


def _measure(config: Config) -> dict:
    folder = RunFolder(config.run_dir)
    folder.create()
    trainer = Timed(config, Runtime(config), open_dataset(config.data), folder)
    trainer.fit(StopSignals())
    newest = checkpoint.newest_complete(folder.checkpoints)
    step = statistics.median(trainer.alone[1:])  # the first one warms up
    stall = statistics.median(trainer.stalls[1:])  # the first one finds its memory
    return {
        "device": str(trainer.runtime.device),
        "checkpoint_megabytes": round(sum(path.stat().st_size for path in newest.iterdir()) / 1e6, 1),
        "step_seconds": round(step, 4),
        "step_beside_a_write_seconds": round(statistics.median(trainer.beside), 4) if trainer.beside else None,
        "stands_still_seconds": round(stall, 4),
        "stands_still_first_seconds": round(trainer.stalls[0], 4),
        "written_by_the_training_seconds": round(statistics.median(trainer.whole), 4),
        "stands_still_of_a_step": round(stall / step, 4),
        "written_by_the_training_of_a_step": round(statistics.median(trainer.whole) / step, 4),
        "saves": len(trainer.stalls),
    }


if __name__ == "__main__":
    main()
