"""Every experiment of docs/results.md: data, trainings, evaluations, pictures of curves and tables.

    python -m benchmarks.experiments [NAME ...] --data FOLDER_OF_ARCHIVES --out FOLDER
        [--processes 2] [--count 2000] [key.path=value ...]

FOLDER_OF_ARCHIVES has those that `distgan prepare` reads: mnist, cifar*, *celeba* and quickdraw*. What is in --out is
not made again: shards, runs that are finished, evaluations. It receives results.json, results.md, clip_values.png and
oscillation.png too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.experiments.cases import CHECKERED, EXPERIMENTS
from benchmarks.experiments.checkerboards import checkerboards
from benchmarks.experiments.curves import curve, draw
from benchmarks.experiments.report import facts, machine, tables
from benchmarks.experiments.running import Bench
from distgan.errors import ConfigError, UserError

CLIPPED = {"clip 0.01": "mnist_wgan", "clip 0.005": "mnist_wgan_clip_0.005"}
OSCILLATING = "quickdraw_gan"


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 failed, 2 bad usage."""
    options = _parser().parse_intermixed_args(words)
    overrides = [word for word in options.words if "=" in word]
    names = [word for word in options.words if "=" not in word] or list(EXPERIMENTS)
    bench = Bench(options.data.absolute(), options.out.absolute(), options.processes, overrides)
    try:
        _check(names)
        print(_run(bench, names, options.count))
    except ConfigError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="of archives")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for shards, runs, pictures, tables")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="of each training")
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="pictures of each evaluation")
    parser.add_argument("words", nargs="*", metavar="NAME or key.path=value", help=", ".join(EXPERIMENTS))
    return parser


def _run(bench: Bench, names: Sequence[str], count: int) -> str:
    """The tables of the runs, once everything is made."""
    for name in names:
        bench.prepare(EXPERIMENTS[name].source)
        bench.train(name)
    found = {name: _facts(bench, name, count) for name in names}
    _draw(bench, names)
    whole = {"machine": machine(bench.processes), "count": count, "runs": found}
    (bench.out / "results.json").write_text(json.dumps(whole, indent=1) + "\n")
    told = tables(found)
    (bench.out / "results.md").write_text(told + "\n")
    return told


def _facts(bench: Bench, name: str, count: int) -> dict:
    run, config = bench.run(name), bench.config(name)
    found = {**facts(name, config, run), "evaluations": bench.evaluate(name, count)}
    if config.objective.loss == "wasserstein":
        estimates = curve(run, "critic/wasserstein")
        for one in found["evaluations"]:
            one["wasserstein"] = next((value for kimg, value in reversed(estimates) if kimg <= one["kimg"]), None)
    if name in CHECKERED:
        found["checkerboard"] = checkerboards(config, run)
    return found


def _draw(bench: Bench, names: Sequence[str]) -> None:
    """The pictures of curves whose runs are among `names`."""
    if set(CLIPPED.values()) <= set(names):
        runs = {label: bench.run(name) for label, name in CLIPPED.items()}
        metrics = {"critic/wasserstein": "E D(real) - E D(fake)", "generator/loss": "loss of the generator"}
        panels = {
            title: {label: curve(run, metric) for label, run in runs.items()} for metric, title in metrics.items()
        }
        draw(panels, bench.out / "clip_values.png")
    if OSCILLATING in names:
        losses = {metric: curve(bench.run(OSCILLATING), metric) for metric in ("critic/loss", "generator/loss")}
        draw({"plain GAN on Quick, Draw!": losses}, bench.out / "oscillation.png")


def _check(names: list[str]) -> None:
    for name in names:
        if name not in EXPERIMENTS:
            raise ConfigError(f"{name}: no such experiment; there are {', '.join(EXPERIMENTS)}")


if __name__ == "__main__":
    sys.exit(main())
