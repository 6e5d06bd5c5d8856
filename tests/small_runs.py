"""Run folders with a checkpoint, as a training leaves them, without a training."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from launching import TINY

from distgan import checkpoint
from distgan.assembly import generator_settings, make_critic, make_generator
from distgan.config import dump_config, load_config
from distgan.run_folder import RunFolder

_IMAGES = 40
"""Of a step: not those of tests/tiny.yaml, as after a change of the batch size."""


def make_run(folder: Path, *overrides: str, steps: tuple[int, ...] = (5,)) -> Path:
    """A run of tests/tiny.yaml that stands after the last of `steps`, each of which has a checkpoint with other
    weights."""
    config = load_config([TINY], [f"run_dir={folder}", *overrides])
    run = RunFolder(folder)
    run.create()
    run.config.write_text(dump_config(config))
    for step in steps:
        generator = make_generator(config)
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.mul_(1 + step / 10)
        networks = {
            checkpoint.GENERATOR: generator,
            checkpoint.GENERATOR_EMA: copy.deepcopy(generator),
            checkpoint.CRITIC: make_critic(config),
        }
        with torch.no_grad():
            next(generator.parameters()).mul_(1.5)
        progress = checkpoint.Progress(step=step, images=_IMAGES * step)
        state = checkpoint.TrainState(networks, {}, progress, generator_settings=generator_settings(config))
        checkpoint.save(run.checkpoint(step), state, {})
    return folder
