"""Run folders as trainings leave them, without training."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from pathlib import Path

import numpy as np
from launching import TINY
from PIL import Image

from distgan.compare import command
from distgan.config import dump_config, load_config
from distgan.histogram import CELLS

IMAGES_A_STEP = 40


def make_run(path: Path, *overrides: str, count: int = 10, level: float = 1.0, status: str = "finished") -> Path:
    """A run of `count` lines, a line a step, whose metrics are about `level`."""
    lines = [line(step, level) for step in range(1, count + 1)]
    return make_run_of(path, lines, *overrides, status=status)


def make_run_of(path: Path, lines: list[dict], *overrides: str, status: str = "finished") -> Path:
    (path / "samples").mkdir(parents=True)
    config = load_config([TINY], [f"run_dir={path}", "data.shards=nowhere", *overrides])
    (path / "config.yaml").write_text(dump_config(config))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "status").write_text(status + "\n")
    start = {
        "world_size": 2,
        "devices": ["H100", "H100"],
        "host": "node7",
        "cpu_cores": 8,
        "packages": {"torch": "2.9"},
        "git": {"commit": "0123456789abcdef", "changed": True},
    }
    (path / "environment.json").write_text(json.dumps({"starts": [start]}))
    return path


def line(step: int, level: float = 1.0, **more: object) -> dict:
    return {
        "step": step,
        "kimg": step * IMAGES_A_STEP / 1000,
        "seconds": step * 36.0,
        "critic/loss": -level * step,
        "critic/wasserstein": level * step,
        "evaluate/fid": 10 * level + (step - 7) ** 2,
        "critic/grad_norm_histogram": [0] * 30 + [step] * 6 + [0] * (CELLS - 36),
        "throughput/images_per_second": 100.0 * level + step,
        "throughput/data_wait_fraction": 0.25,
        **more,
    }


def add_grid(run: Path, step: int, shade: int) -> None:
    Image.fromarray(np.full((64, 64, 3), shade, np.uint8)).save(run / "samples" / f"{step:08d}.png")


def compare(*words: object) -> str:
    """What `distgan compare ...` prints; raises what it tells in a line."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        command.run(parser.parse_args([str(word) for word in words]))
    return printed.getvalue()
