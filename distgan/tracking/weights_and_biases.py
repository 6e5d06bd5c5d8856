"""Weights & Biases as a view of a run: the end of the pipe to the process that speaks with it. Imports no wandb."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path

from distgan.config import Config, flatten
from distgan.grouping import group_of
from distgan.run_folder import RunFolder
from distgan.trouble import tell

NAME = "W&B"
LATER = "and the next start of the run gives W&B what it lacks"
START_SECONDS = 60.0
"""How long a server may take to accept the run before it goes on offline."""
ORPHAN_SECONDS = 60.0
"""How long what was told may still be sent when the run has died."""
_SYNC = "`wandb sync` sends run_dir/wandb later"
_SCRIPT = Path(__file__).with_name("wandb_process.py")


def new_run_id() -> str:
    """An id that a run keeps through all its starts."""
    return secrets.token_hex(4)  # wandb's own generator of ids has no lasting place in its modules


class WandbSink:
    """One W&B run for a run folder, however often it is started, or goes back to a checkpoint; each step arrives once.

    Its methods may take long, and raise RuntimeError when the process that does the work has failed."""

    def __init__(self, config: Config, folder: RunFolder, run_id: str, step: int, environment: dict) -> None:
        """`config` without secrets; `step`: from which the run goes on; `environment`: shown beside the config."""
        self._order = _order(config, folder, run_id, step, environment)
        self._lock = threading.Lock()
        self._abandoned = False
        self._process: subprocess.Popen | None = None

    def begin(self) -> None:
        """Waits until W&B has begun, offline where the server cannot be reached. Raises RuntimeError."""
        why = self._start(self._order["mode"])
        if why and self._order["mode"] == "online" and not self._abandoned:
            tell(f"{NAME}: {why}; writing offline instead, {_SYNC}; metrics.jsonl has everything")
            why = self._start("offline")
        if why:
            raise RuntimeError(why)

    def _start(self, mode: str) -> str | None:
        """Starts the process; why W&B cannot begin, if so. Waits for its answer."""
        environment = {
            **os.environ,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_DATA_DIR": str(Path(self._order["folder"], "wandb", "data")),  # artifacts that wait, else at home
        }
        environment.pop("WANDB_MODE", None)  # the config's is meant
        with self._lock:
            if self._abandoned:
                return "abandoned"
            self._process = subprocess.Popen(
                [sys.executable, str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C is for the trainer
                env=environment,
            )
        self._send({**self._order, "mode": mode})
        return self._problem()

    def _send(self, message: dict) -> None:
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def _problem(self) -> str | None:
        """What the process says next, which is nothing where all is well."""
        answer = self._process.stdout.readline()
        if not answer:
            return "its process has ended"
        return json.loads(answer).get("problem")

    def _tell(self, message: dict) -> None:
        try:
            self._send(message)
        except OSError:
            raise RuntimeError(self._problem()) from None

    def metrics(self, line: dict) -> None:
        self._tell({"metrics": [line]})

    def picture(self, name: str, path: Path, step: int) -> None:
        self._tell({"picture": [name, str(path.absolute()), step]})

    def checkpoint(self, path: Path) -> None:
        self._tell({"checkpoint": [str(path.absolute())]})

    def rewind(self, step: int) -> None:
        """W&B takes nothing back: steps that are trained again are not given again."""

    def close(self, status: str) -> None:
        self._tell({"close": status})
        if why := self._problem():
            raise RuntimeError(why)
        self._process.wait()

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            if self._process is not None:
                self._process.kill()


def _order(config: Config, folder: RunFolder, run_id: str, step: int, environment: dict) -> dict:
    """See distgan.tracking.wandb_process.Order."""
    settings = config.tracking.wandb
    return {
        "folder": str(folder.path.absolute()),
        "run_id": run_id,
        "step": step,
        "mode": settings.mode,
        "init": {
            "project": settings.project,
            "entity": settings.entity,
            "group": settings.group or group_of(flatten(config)),
            "job_type": settings.job_type,
            "name": settings.name or folder.path.resolve().name,
            "notes": settings.notes,
            "tags": settings.tags,
            "config": {**config.model_dump(mode="json"), "environment": environment},
        },
        "trainer": os.getpid(),
        "start_seconds": START_SECONDS,
        "orphan_seconds": ORPHAN_SECONDS,
        "checkpoints": settings.checkpoints,
        "best": [config.checkpoint.best, config.checkpoint.best_is],
    }
