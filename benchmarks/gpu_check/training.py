"""A short real training, watched: how busy the GPU is, and where the host waits for it outside of lines.

python -m benchmarks.gpu_check.training --json FILE [--shards FOLDER] [--device cpu] [--tiny]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch, as train.py does

import torch  # noqa: E402

from distgan.config import Config, load_config  # noqa: E402
from distgan.data.dataset import open_dataset  # noqa: E402
from distgan.data.prepare import prepare  # noqa: E402
from distgan.run_folder import RunFolder  # noqa: E402
from distgan.runtime import Runtime  # noqa: E402
from distgan.stopping import StopSignals  # noqa: E402
from distgan.trainer import Trainer  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
_BUSY_WANTED = 0.95
_WARM = 12
"""Steps before anything is looked at: compilation, and memory that is asked for once."""
_PROFILED = 5
"""Steps, between two lines."""


class Watched(Trainer):
    """A trainer that notes, in steps without a line, what waits for the device, and in a few how busy that is."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.waits: Counter[str] = Counter()
        self.watched_steps = 0
        self.intervals: list[tuple[float, float]] = []
        """Start and end of what the device did, microseconds."""
        self._profiler: torch.profiler.profile | None = None

    def _step(self, *args) -> None:
        on_cuda = self.runtime.device.type == "cuda"
        is_line = self.measurements.is_line(self.progress.step + 1)
        if not on_cuda or is_line or self.steps_taken < _WARM:
            return super()._step(*args)
        if self.steps_taken < _WARM + _PROFILED:
            return self._profile(*args)
        self.watched_steps += 1
        with _waits(self.waits):
            super()._step(*args)

    def _profile(self, *args) -> None:
        if self._profiler is None:
            torch.cuda.synchronize()
            self._profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True)
            self._profiler.start()
        super()._step(*args)
        if self.steps_taken == _WARM + _PROFILED:
            torch.cuda.synchronize()
            self._profiler.stop()
            on_device = (e for e in self._profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA)
            self.intervals = [(event.time_range.start, event.time_range.end) for event in on_device]


@contextlib.contextmanager
def _waits(found: Counter[str]) -> Iterator[None]:
    """Counts what makes the host wait for the device, by the line of code."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found.update(f"{each.filename}:{each.lineno}" for each in told if "called a synchronizing" in str(each.message))


def busy_share(intervals: Iterable[tuple[float, float]]) -> float:
    """The share of the time from the first start to the last end in which anything ran; NaN where nothing did."""
    ordered = sorted(intervals)
    if not ordered:
        return math.nan
    busy, reached = 0.0, ordered[0][0]
    for start, end in ordered:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy / (reached - ordered[0][0])


def main(arguments: list[str] | None = None) -> int:
    """Trains, and writes what was found."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu_check.training", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        config = _config(options, Path(folder))
        run = RunFolder(config.run_dir)
        run.create()
        trainer = Watched(config, Runtime(config), open_dataset(config.data), run)
        status = trainer.fit(StopSignals())
        lines = [json.loads(line) for line in (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()]
    options.json.write_text(json.dumps(_found(trainer, status, lines), indent=1) + "\n")
    return 0


def _config(options: argparse.Namespace, folder: Path) -> Config:
    file = ROOT / ("tests/tiny.yaml" if options.tiny else "configs/celeba64.yaml")
    shards = options.shards or folder / "shards"
    if options.shards is None:
        prepare("shapes", None, shards, resolution=load_config([file]).data.resolution, count=512, workers=1)
    length, every = (6, 2) if options.tiny else (120, 40)
    forced = {
        "run_dir": folder / "run",
        "data.shards": shards,
        "data.fit": "crop",
        "train.device": options.device,
        "train.length": f"{length} steps",
        "tracking.every": f"{every} steps",
        "samples.every": f"{every} steps",
        "checkpoint.every": f"{every} steps",
    }
    return load_config([file], [f"{key}={value}" for key, value in forced.items()])


def _found(trainer: Watched, status: str, lines: list[dict]) -> dict:
    found: dict = {
        "status": status,
        "config": f"{trainer.config.critic.name} {trainer.config.data.resolution} px, {trainer.config.train.precision}",
        "batch_size": trainer.config.train.batch_size,
        "compiled": trainer.runtime.compiles,
        "images_per_second": lines[-1]["throughput/images_per_second"],
        "data_wait_fraction": lines[-1]["throughput/data_wait_fraction"],
        "lines": len(lines),
        "busy_share": "needs a CUDA device",
        "waits": "needs a CUDA device",
        "problems": [] if status == "finished" else [f"the training is {status}"],
    }
    if trainer.runtime.device.type == "cuda":
        found["busy_share"], found["busy_share_wanted"] = busy_share(trainer.intervals), _BUSY_WANTED
        found["waits"], found["watched_steps"] = dict(trainer.waits), trainer.watched_steps
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
        if trainer.waits:
            places = ", ".join(f"{place} ({count}×)" for place, count in trainer.waits.most_common())
            found["problems"].append(f"waits for the device outside of lines: {places}")
        if not found["busy_share"] >= _BUSY_WANTED:
            found["problems"].append(f"the GPU is busy {found['busy_share']:.0%}, less than {_BUSY_WANTED:.0%}")
    return found


if __name__ == "__main__":
    sys.exit(main())
