"""What runs at 256 to 1024 pixels take: parameters, multiplications and least memory by the shapes alone, and with
--measure the seconds, memory and so the time of the whole run on this machine.

    python -m benchmarks.high_resolution                                        all of configs/high_resolution
    python -m benchmarks.high_resolution CONFIG ... [key.path=value ...]
    python -m benchmarks.high_resolution CONFIG --measure [--steps N] [--json FILE]
    python -m benchmarks.high_resolution CONFIG --measure --resolutions 256 512 1024    not growing, at each of these
    accelerate launch --config_file launch/multi_gpu.yaml --num_processes 8 --module benchmarks.high_resolution ...

A run that grows is taken stage by stage: each has a step's time of its own, the run's is their sum. Reading pictures is
not in it (benchmarks.loader), nor checkpoints and samples (benchmarks.step --training).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from benchmarks.step.counting import multiplications, synchronise
from benchmarks.tables import grid
from distgan.assembly import make_critic, make_generator
from distgan.config import Config, load_config
from distgan.config.growing import Stage
from distgan.data.memory import taken_memory
from distgan.doctor.room import least
from distgan.doctor.steps import Steps
from distgan.errors import UserError
from distgan.runtime import Runtime, parameters

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "high_resolution"
_FORMS = {"_8gpu": 8, "_nodes": 16}
"""Processes that a config of ours is meant for, by the end of its name; others for one."""


def of_shapes(path: Path, config: Config) -> dict:
    """What the shapes of the last stage say."""
    grown = config.grown
    processes = next((count for end, count in _FORMS.items() if path.stem.endswith(end)), 1)
    local = grown.train.batch_size // processes
    with torch.device("meta"):
        generator, critic = make_generator(grown), make_critic(grown)
        group = getattr(config.critic, "minibatch_std", 0) or 1
        labels = torch.zeros(group, dtype=torch.int64) if config.data.classes else None
        latent, side = torch.empty(group, config.generator.latent), config.data.resolution
        pictures = torch.empty(group, config.data.channels, side, side)
        makes = multiplications(lambda: generator(latent, labels)) / group
        scores = multiplications(lambda: critic(pictures, labels)) / group
    needed = least(grown, processes, eager=False)
    return {
        "config": path.stem,
        "processes": processes,
        "batch": grown.train.batch_size,
        "a process": local,
        "precision": config.train.precision,
        "generator": parameters([generator]),
        "critic": parameters([critic]),
        "generator multiplies": makes,
        "critic multiplies": scores,
        "least bytes": needed.of(min(config.train.micro_batch or local, local)),
    }


def stages_of(config: Config, resolutions: Sequence[int]) -> list[Stage]:
    """Those of the run, or one at each of these resolutions, as long as the last one."""
    if not resolutions:
        return list(config.course.stages)
    return [dataclasses.replace(config.grown.course.stage(0), resolution=side) for side in resolutions]


def measured(config: Config, stages: Sequence[Stage], steps: int) -> list[dict]:
    """Of each stage the seconds of a step and the most memory of a process."""
    found = []
    for stage in stages:
        is_grown_into = stage in config.course.stages
        here = config if is_grown_into else config.always(stage.resolution, stage.batch_size)
        runtime = Runtime(here)
        taken = Steps(here, runtime, stage if is_grown_into else None)
        if runtime.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for number in range(3 if runtime.compiles else 2):
            taken.take(number)
        seconds = [_seconds(taken, number) for number in range(3, 3 + steps)]
        on_cuda = runtime.device.type == "cuda"
        found.append(
            {
                "resolution": stage.resolution,
                "batch": stage.batch_size,
                "steps": stage.last - stage.first,
                "seconds a step": median(seconds),
                "seconds a kimg": 1000 * median(seconds) / stage.images_per_step,
                "most bytes": torch.cuda.max_memory_allocated() if on_cuda else taken_memory()[1],
                "device": torch.cuda.get_device_name() if on_cuda else "cpu",
                "processes": runtime.world_size,
            }
        )
        del taken
        torch.compiler.reset()
    return found


def _seconds(taken: Steps, number: int) -> float:
    synchronise()
    began = time.perf_counter()
    taken.take(number)
    synchronise()
    return time.perf_counter() - began


def table_of_shapes(rows: Sequence[dict]) -> str:
    heading = [
        "config",
        "processes",
        "batch",
        "on each",
        "precision",
        "parameters G, D",
        "forward G, D",
        "memory, least",
    ]
    lines = [
        [
            row["config"],
            str(row["processes"]),
            str(row["batch"]),
            str(row["a process"]),
            row["precision"],
            f"{row['generator'] / 1e6:.1f} M, {row['critic'] / 1e6:.1f} M",
            f"{row['generator multiplies'] / 1e9:.1f} G, {row['critic multiplies'] / 1e9:.1f} G",
            f"{row['least bytes'] / 1e9:.1f} GB",
        ]
        for row in rows
    ]
    return grid([heading, *lines])


def table_of_times(rows: Sequence[dict]) -> str:
    heading = ["resolution", "batch", "s a step", "s a kimg", "memory", "hours"]
    lines = [
        [
            str(row["resolution"]),
            str(row["batch"]),
            f"{row['seconds a step']:.3g}",
            f"{row['seconds a kimg']:.3g}",
            f"{row['most bytes'] / 1e9:.1f} GB",
            f"{row['steps'] * row['seconds a step'] / 3600:.3g}",
        ]
        for row in rows
    ]
    where = f"{rows[0]['processes']} process{'es' * (rows[0]['processes'] > 1)} on {rows[0]['device']}"
    return f"{grid([heading, *lines])}\n\n{where}"


def whole(rows: Sequence[dict]) -> str:
    """The time of all stages."""
    hours = sum(row["steps"] * row["seconds a step"] for row in rows) / 3600
    return f"the whole run takes {hours:.3g} hours, {hours / 24:.2g} days"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.high_resolution", description=__doc__.partition("\n\n")[0])
    add = parser.add_argument
    add("words", nargs="*", metavar="CONFIG", help="configs, or key.path=value laid on each")
    add("--measure", action="store_true", help="take steps of every stage here")
    add("--steps", type=int, default=5, metavar="N", help="steps that are timed of each stage (default 5)")
    add("--resolutions", nargs="+", type=int, default=[], metavar="R", help="without growing, at each of these")
    add("--json", type=Path, metavar="FILE", help="receives all figures")
    options = parser.parse_intermixed_args(arguments)
    overrides = [word for word in options.words if re.match(r"[\w.]+=", word)]
    paths = [Path(word) for word in options.words if word not in overrides] or sorted(CONFIGS.glob("*.yaml"))
    try:
        configs = {path: load_config([path], overrides) for path in paths}
    except UserError as error:
        print(f"high_resolution: {error}", file=sys.stderr)
        return error.exit_status
    found = {"shapes": [of_shapes(path, config) for path, config in configs.items()], "measured": {}}
    is_main = os.environ.get("RANK", "0") == "0"
    if is_main:
        print(table_of_shapes(found["shapes"]), flush=True)
    for path, config in configs.items() if options.measure else ():
        rows = measured(config, stages_of(config, options.resolutions), options.steps)
        found["measured"][path.stem] = rows
        if is_main:
            told = table_of_times(rows) + ("" if options.resolutions else f": {whole(rows)}")
            print(f"\n{path.stem}\n\n{told}", flush=True)
    if options.json and is_main:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
