"""How far a run drifts from the same run on another number of processes, or with micro-batches.

    python benchmarks/invariance.py --config configs/mnist_wgan_gp.yaml [key.path=value ...]
        [--processes 1 2 4] [--micro-batches K ...] [--precision fp32] [--steps 50]

Trains the config through `accelerate launch --config_file launch/cpu.yaml`, each time for the same steps, and compares
every run with the first: the first of the process counts, without micro-batches. Prints a Markdown table of the largest
difference up to step 10 and up to the last one. That of a metric is relative to its largest value in the first run up
to there; that of the weights of a network, at that step, to its largest weight; that of the samples, at that step, to
255. Progress goes to stderr, the runs to a temporary folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / "cpu.yaml")]
NETWORKS = ("generator", "generator_ema", "critic")
EARLY = 10
"""The step at which the drift is looked at first, and between two checkpoints."""


class Split(NamedTuple):
    """How a run divides its batches."""

    processes: int
    micro_batch: int | None

    def __str__(self) -> str:
        micro = f", micro-batch {self.micro_batch}" if self.micro_batch else ""
        return f"{self.processes} process{'es' * (self.processes > 1)}{micro}"


def splits(processes: list[int], micro_batches: list[int]) -> list[Split]:
    return [Split(count, micro) for micro, count in itertools.product([None, *micro_batches], processes)]


def train(options: argparse.Namespace, split: Split, folder: Path) -> None:
    """A run into `folder`; ends the script with the run's own words when it fails."""
    forced = {
        "run_dir": folder,
        "train.precision": options.precision,
        "train.length": f"{options.steps} steps",
        "tracking.every": "1 steps",
        "samples.every": f"{EARLY} steps",
        "checkpoint.every": f"{EARLY} steps",
        "checkpoint.keep": options.steps,
        **({"train.micro_batch": split.micro_batch} if split.micro_batch else {}),
    }
    script = [ROOT / "distgan" / "train.py", "--config", options.config]
    overrides = [*options.overrides, *(f"{key}={value}" for key, value in forced.items())]
    words = [*LAUNCH, "--num_processes", split.processes, *script, *overrides]
    started = time.monotonic()
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{split}: ended with {done.returncode}\n{done.stderr}")
    print(f"{split}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def drift(first: Path, other: Path, step: int) -> dict[str, float]:
    """The largest difference of everything that is compared, up to `step`."""
    found = metric_drift(_lines(first, step), _lines(other, step))
    for network in NETWORKS:
        found[f"weights, {network}"] = weight_drift(*(_weights(run, step, network) for run in (first, other)))
    pixels = [np.asarray(Image.open(run / "samples" / f"{step:08d}.png"), dtype=int) for run in (first, other)]
    return {**found, "samples": float(np.abs(pixels[0] - pixels[1]).max() / 255)}


def metric_drift(first: list[dict], other: list[dict]) -> dict[str, float]:
    """For each loss and norm the largest difference in a line, relative to the largest value in the `first` lines."""
    names = [name for name in dict.fromkeys(itertools.chain(*first)) if name.startswith(("critic/", "generator/"))]
    return {name: _relative(*(_column(lines, name) for lines in (first, other))) for name in names}


def weight_drift(first: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest difference of a weight or running statistic, relative to the largest weight of the network."""
    return _relative(*(np.concatenate([tensors[name].ravel() for name in first]) for tensors in (first, other)))


def _relative(first: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(first - other).max() / (np.abs(first).max() or 1))


def _column(lines: list[dict], name: str) -> np.ndarray:
    return np.array([line[name] for line in lines if name in line])


def _lines(run: Path, step: int) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["step"] <= step]


def _weights(run: Path, step: int, network: str) -> dict[str, np.ndarray]:
    """The floating-point tensors: a batch norm's counter of updates would be the largest number among them."""
    tensors = load_file(run / "checkpoints" / f"{step:08d}" / f"{network}.safetensors")
    return {name: tensor for name, tensor in tensors.items() if tensor.dtype.kind == "f"}


def table(columns: dict[str, dict[str, float]]) -> str:
    """Markdown, a line for each thing compared."""
    names = list(next(iter(columns.values())))
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    rows += [[f"`{name}`" if "/" in name else name, *(f"{c[name]:.1e}" for c in columns.values())] for name in names]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], metavar="N")
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[], metavar="K", help="besides none")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16", "fp64"], default="fp32")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    options = parser.parse_intermixed_args()
    first, *others = splits(options.processes, options.micro_batches)
    steps = sorted({min(EARLY, options.steps), options.steps})
    with tempfile.TemporaryDirectory() as folder:
        runs = {split: Path(folder) / str(number) for number, split in enumerate([first, *others])}
        for split, run in runs.items():
            train(options, split, run)
        print(f"Against {first}, {options.precision}:\n")
        print(table({f"{other}, step {at}": drift(runs[first], runs[other], at) for other in others for at in steps}))


if __name__ == "__main__":
    main()
