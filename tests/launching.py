"""Starts real trainings, as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import warm
from PIL import Image
from safetensors.numpy import load_file

from distgan.tracking.names import OF_THE_MACHINE

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "tiny.yaml"


def train(
    *arguments: str | Path, processes: int | None = None, check: bool = True, **kwargs
) -> subprocess.CompletedProcess:
    """`python distgan/train.py ...`, or with `processes` under `accelerate launch`.

    Forked from a process that has loaded torch already (warm.py), but for a launcher of trainings that may fail, which
    has a say in how they end."""
    import torch

    if (processes is not None and not check) or torch.cuda.is_available():  # CUDA does not survive a fork
        return run(command(*arguments, processes=processes), check=check, **kwargs)
    given, words = options(**kwargs), [str(argument) for argument in arguments]
    folder = Path(given.get("cwd", Path.cwd()))
    done = warm.finish(words, given["env"], folder, processes, given["timeout"])
    assert not check or done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stderr}"
    return done


def run(words: list[str], *, check: bool = True, **kwargs) -> subprocess.CompletedProcess:
    """A command to its end, which must be a success with `check`."""
    done = subprocess.run(words, **options(**kwargs))
    assert not check or done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stderr}"
    return done


def command(*arguments: str | Path, processes: int | None = None) -> list[str]:
    launcher = [sys.executable]
    if processes is not None:
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ROOT / "launch" / "cpu.yaml"]
        launcher = [*launch, "--num_processes", processes]
    return [str(part) for part in [*launcher, ROOT / "distgan" / "train.py", *arguments]]


def options(**kwargs) -> dict:
    environment = {**os.environ, "WANDB_MODE": "offline", **kwargs.pop("env", {})}
    return {"capture_output": True, "text": True, "timeout": 300, "env": environment, **kwargs}


def family(process: int) -> list[int]:
    """A process and all that descend from it."""
    found = [process]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def lines(run: Path) -> list[dict]:
    """metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_machine(run: Path) -> list[dict]:
    """metrics.jsonl without what tells of the machine."""
    return [{name: value for name, value in line.items() if name not in OF_THE_MACHINE} for line in lines(run)]


def worst_difference(one: Path, other: Path) -> float:
    """The largest difference of a loss or norm between two runs, relative to the largest value of that metric."""
    first, second = lines(one), lines(other)
    assert [line["step"] for line in first] == [line["step"] for line in second]
    names = {name for line in first for name in line if name.startswith(("critic/", "generator/"))}
    assert names
    pairs = list(zip(first, second, strict=True))
    return max(_worst([(_numbers(a[name]), _numbers(b[name])) for a, b in pairs if name in a]) for name in names)


def _numbers(value: float | list[int]) -> np.ndarray:
    """Of a histogram the shares of what lies below each edge, which hardly change when a norm crosses one."""
    return np.cumsum(value) / np.sum(value) if isinstance(value, list) else np.array([value])


def worst_weight_difference(one: Path, other: Path, step: int) -> float:
    """The largest difference of a weight or statistic at a checkpoint, relative to the largest value of its tensor."""
    found = []
    for name in ("generator", "generator_ema", "critic"):
        first, second = (load_file(run / "checkpoints" / f"{step:08d}" / f"{name}.safetensors") for run in (one, other))
        assert {key: first[key].shape for key in first} == {key: second[key].shape for key in second}
        found += [np.abs(first[key] - second[key]).max() / (np.abs(first[key]).max() or 1.0) for key in first]
    return float(np.max(found))


def worst_pixel_difference(one: Path, other: Path, step: int) -> int:
    """The largest difference of a pixel of the samples of a step, of 255."""
    first, second = (np.asarray(Image.open(run / "samples" / f"{step:08d}.png"), dtype=int) for run in (one, other))
    return int(np.abs(first - second).max())


def _worst(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    largest = max(np.abs(a).max() for a, _ in pairs)
    return float(max(np.abs(a - b).max() for a, b in pairs) / (largest or 1.0))


def assert_same_weights(one: Path, other: Path, step: int) -> None:
    """All safetensors of a checkpoint are equal to the bit."""
    for name in ("generator", "generator_ema", "critic", "state"):
        first = one / "checkpoints" / f"{step:08d}" / f"{name}.safetensors"
        second = other / "checkpoints" / f"{step:08d}" / f"{name}.safetensors"
        assert first.read_bytes() == second.read_bytes(), name
