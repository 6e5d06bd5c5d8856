"""A run that an agent of a W&B sweep has started."""

from __future__ import annotations

import os
from pathlib import Path

from distgan.config import Config


def trial_id() -> str | None:
    """The id that the agent has given to this run; None outside of sweeps."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return run if sweep and run else None


def with_own_folder(config: Config) -> Config:
    """The config of a trial has a folder of its own in the run_dir that all trials are given. The agent tells a trial
    its id in the environment alone: no macro of its command line has it."""
    trial = trial_id()
    return config.model_copy(update={"run_dir": str(Path(config.run_dir) / trial)}) if trial else config
