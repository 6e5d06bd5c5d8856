"""What all views of a run cost it: its speed with W&B offline, TensorBoard and pictures, against metrics.jsonl alone.

    python benchmarks/tracking_cost.py --config configs/quickstart.yaml --steps 200 --rounds 3 [key.path=value ...]

Real trainings of one process on drawn pictures, in turn, the order turned round each time. Three rows: without views,
with all of them, and with W&B online at a server on this machine that takes every request and never answers. The speed
is that of training from a fifth of the steps on, and the ratio the median over the rounds.

    python benchmarks/tracking_cost.py --alternate --steps 2000

One training with all views, in which every other line is kept from W&B and TensorBoard: what follows a line that they
were given, against what follows one that they were not. So other programs on the machine slow both alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

from distgan.config import load_config
from distgan.data.prepare import prepare

ROOT = Path(__file__).resolve().parent.parent
OFF = ["tracking.wandb.mode=off", "tracking.tensorboard=false"]
ALL = ["tracking.wandb.mode=offline", "tracking.tensorboard=true"]
HANGS = ["tracking.wandb.mode=online", "tracking.tensorboard=true"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    parser.add_argument("--alternate", action="store_true", help="one training, whose lines are told in turn")
    options = parser.parse_intermixed_args()
    if options.alternate:
        return alternate(options)
    rows = {"off": OFF, "all on": ALL, "server hangs": HANGS}
    speeds: dict[str, list[float]] = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as folder, _silent_server() as url:
        shared = _shared(options, Path(folder))
        for number in range(options.rounds):
            for name in list(rows) if number % 2 == 0 else list(reversed(rows)):
                run = Path(folder, f"{name.replace(' ', '-')}-{number}")
                speeds[name].append(_train([*shared, *rows[name], f"run_dir={run}"], run, options.steps, url))
    for name, found in speeds.items():
        ratios = [mine / off for mine, off in zip(found, speeds["off"], strict=True)]
        rounds = " ".join(f"{speed:.1f}" for speed in found)
        print(f"{name:13} ratio {statistics.median(ratios):.3f}  images/s {rounds}")


def alternate(options: argparse.Namespace) -> None:
    """Prints seconds from line to line with and without views, and the ratio of the medians."""
    from distgan.tracking.tracker import Tracker
    from distgan.train import main as train

    told: list[tuple[float, bool]] = []
    tell = Tracker.metrics

    def in_turn(self: Tracker, line: dict) -> None:
        gives = len(told) % 2 == 0
        told.append((time.perf_counter(), gives))
        if gives:
            tell(self, line)

    with tempfile.TemporaryDirectory() as folder:
        Tracker.metrics = in_turn
        os.environ.setdefault("WANDB_SILENT", "true")
        few = ["samples.every=1000000 steps", "checkpoint.every=1000000 steps", f"run_dir={folder}/run"]
        sys.argv[1:] = [*_shared(options, Path(folder)), *ALL, *few]
        with contextlib.suppress(SystemExit):
            train()
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for (began, gives), (ended, _) in pairwise(told[len(told) // 5 :]):
        seconds[gives].append(ended - began)
    given, kept = (statistics.median(seconds[gives]) for gives in (True, False))
    speeds = f"told {given:.3f} s, kept {kept:.3f} s, {len(seconds[True])} of each"
    print(f"from line to line: {speeds}; ratio {kept / given:.3f}")


def _shared(options: argparse.Namespace, folder: Path) -> list[str]:
    """The arguments that all trainings have."""
    data = load_config([options.config], options.overrides).data
    prepare("shapes", None, folder / "shards", resolution=data.resolution, count=512, shard_size=512, workers=1)
    length = [f"data.shards={folder / 'shards'}", f"train.length={options.steps} steps"]
    return ["--config", options.config, *options.overrides, *length]


def _train(arguments: list[str], run: Path, steps: int, url: str) -> float:
    """Real images a second."""
    environment = {**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40}
    command = [sys.executable, str(ROOT / "distgan" / "train.py"), *arguments]
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["step"] >= steps / 5]
    first, last = lines[0], lines[-1]
    return 1000 * (last["kimg"] - first["kimg"]) / (last["seconds"] - first["seconds"])


class _silent_server:
    """Accepts connections at a port of this machine and never answers; its URL."""

    def __enter__(self) -> str:
        self._socket, self._kept = socket.create_server(("127.0.0.1", 0), backlog=64), []
        threading.Thread(target=self._accept, daemon=True).start()
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                self._kept.append(self._socket.accept())
            except OSError:
                return

    def __exit__(self, *error) -> None:
        self._socket.close()


if __name__ == "__main__":
    main()
