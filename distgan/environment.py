"""environment.json: with what, and on what, each start of a run ran."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

from distgan.run_folder import write_atomically

_PACKAGES = ("distgan", "torch", "torchvision", "accelerate", "webdataset", "wandb", "tensorboard", "numpy")
_SLURM = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST")


def record_start(path: Path, step: int, world_size: int, command: list[str]) -> dict:
    """Adds this start, and the `command` that made it, to environment.json. Returns what it says of this start."""
    try:
        starts = json.loads(path.read_text())["starts"]
    except (OSError, ValueError, KeyError, TypeError):
        starts = []
    start = {"step": step, "world_size": world_size, "command": command, **describe()}
    write_atomically(path, json.dumps({"starts": [*starts, start]}, indent=1) + "\n")
    return start


def describe() -> dict:
    """Versions, code and hardware of this process."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "git": git_commit(),
        "host": platform.node(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "slurm": {name: os.environ[name] for name in _SLURM if name in os.environ},
    }


def version(package: str) -> str | None:
    """Of what is installed; None of what is only on the path, as a checkout may be."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> dict | None:
    """Commit of the code, and whether files differ from it; None outside a checkout."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, timeout=10, check=True).stdout

    try:
        return {
            "commit": git("rev-parse", "HEAD").strip(),
            "changed": bool(git("status", "--porcelain", "-uno").strip()),
        }
    except (OSError, subprocess.SubprocessError):
        return None
