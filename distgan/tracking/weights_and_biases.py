"""Weights & Biases as a view of a run. Nothing that goes wrong with it stops the run."""

from __future__ import annotations

import atexit
import inspect
import math
import os
import secrets
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import wandb

from distgan.config import Config
from distgan.run_folder import RunFolder
from distgan.tracking.given import Given

START_SECONDS = 60
"""How long a server may take to accept the run before it goes on without."""
CLOSE_SECONDS = 120
"""How long the end of a run waits for what is still to be sent."""


def new_run_id() -> str:
    """An id that a run keeps through all its starts."""
    return secrets.token_hex(4)  # wandb's own generator of ids has no lasting place in its modules


class WandbSink:
    """One W&B run for a run folder, however often it is started, or goes back to a checkpoint; each step arrives
    once."""

    def __init__(self, config: Config, folder: RunFolder, run_id: str, given: Given) -> None:
        """`given`: what the run has had from earlier starts."""
        self._line, self._given_picture = given
        self._pictures: dict[str, int] = {}
        self._run = None
        settings = config.tracking.wandb
        mode = settings.mode
        if mode == "online" and not has_key():
            _warn("there is no API key (run `wandb login`, or set WANDB_API_KEY); writing offline instead")
            mode = "offline"
        self._run = self._guard(
            lambda: wandb.init(
                project=settings.project,
                entity=settings.entity,
                group=settings.group,
                name=settings.name or folder.path.resolve().name,
                tags=settings.tags,
                config=config.model_dump(mode="json"),
                dir=str(folder.path),
                id=run_id,
                resume="allow",
                mode=mode,
                settings=wandb.Settings(init_timeout=START_SECONDS, console="off", silent=True),
            )
        )
        self._guard(self._define_axes)

    def _define_axes(self) -> None:
        if self._run is not None:
            for axis in ("step", "kimg", "seconds"):
                self._run.define_metric(axis)
            self._run.define_metric("*", step_metric="step")

    def _guard(self, call: Callable):
        """The result of `call`; when it fails, None, one warning, and no further call."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001  whatever a logging service raises must not end a training run
            _warn(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")
            self._run = None
            return None

    def metrics(self, line: dict) -> None:
        run = self._run
        if run is None or line["step"] <= self._line:
            return
        self._line = line["step"]
        self._guard(
            lambda: run.log(
                {k: v for k, v in line.items() if isinstance(v, (int, float)) and math.isfinite(v)}, step=line["step"]
            )
        )

    def picture(self, name: str, path: Path, step: int) -> None:
        run = self._run
        if run is not None and step > self._pictures.get(name, self._given_picture):
            self._pictures[name] = step
            self._guard(lambda: run.log({name: wandb.Image(str(path))}, step=step))

    def close(self, status: str) -> None:
        run = self._run
        if run is not None:
            self._guard(lambda: run.summary.update({"status": status}))
            finishing = threading.Thread(
                target=self._guard, args=[lambda: run.finish(exit_code=1 if status == "failed" else 0)], daemon=True
            )
            finishing.start()
            finishing.join(CLOSE_SECONDS)
            if finishing.is_alive():
                _warn(f"what was left was not sent within {CLOSE_SECONDS} s; `wandb sync` sends it later")
                # wandb's own last act would wait for its service without end; handlers run last registered first.
                atexit.register(os._exit, 1 if status == "failed" else 0)


def has_key() -> bool:
    """Whether wandb finds a key of the user's without asking for one."""
    try:
        return bool(wandb.login(prompt=False)) if "prompt" in _LOGIN else bool(wandb.api.api_key)
    except Exception:  # noqa: BLE001  an unreadable netrc is the same as no key
        return False


_LOGIN = inspect.signature(wandb.login).parameters
"""Older versions have no `prompt`, newer ones no `api`."""


def _warn(problem: str) -> None:
    print(f"distgan: W&B: {problem}; the run goes on, metrics.jsonl has everything", file=sys.stderr, flush=True)
