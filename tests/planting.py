"""Trainings in which bad numbers are planted, on one process, in one update."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from launching import TINY
from torch import Tensor

from distgan import phases as phases_module
from distgan import recorder
from distgan.bad_numbers import Guard
from distgan.config import load_config
from distgan.data.dataset import open_dataset
from distgan.errors import Diverged
from distgan.phases import Phase
from distgan.run_folder import RunFolder
from distgan.runtime import Runtime
from distgan.stopping import StopSignals
from distgan.trainer import Trainer


class Plant(NamedTuple):
    """A bad number in update `repeat` (from 0) of each of `steps` (steps done before), on one process."""

    phase: str
    steps: tuple[int, ...]
    repeat: int
    rank: int
    kind: str
    rollbacks: int = 0
    """Only while so many rollbacks were made; all that follows from other noise is well. -1: always."""
    micro: int = 0
    """In which micro-batch."""


class Outcome(NamedTuple):
    status: str
    """What training returned, or what it said when it failed."""
    rollbacks: int
    reals: list[Tensor]
    """Pictures [n, C, H, W] that the critic was given, update after update."""


def run(
    rank: int, shards: Path, folder: Path, settings: list[str], plants: list[Plant], lagged: bool | None = None
) -> Outcome:
    """A training in which the plants are. With `lagged` True or False, fused optimisers, and a guard that does not wait
    for the device, or does."""
    config = load_config([TINY], [f"data.shards={shards}", f"run_dir={folder}", *settings])
    recorder.save_curves = recorder.pictures.save_evolution = lambda *_: None  # they take longer than the training
    if lagged is not None:
        phases_module.make_optimizer = fused
    runtime, run_folder = Runtime(config), RunFolder(config.run_dir)
    torch.set_num_threads(1)
    run_folder.create()
    trainer, reals = Trainer(config, runtime, open_dataset(config.data), run_folder), []
    if lagged is not None:
        trainer.phases.guard = Guard(config.train.bad_numbers, runtime.device, lagged=lagged)
    for phase in trainer.phases:
        _put(trainer, phase, [plant for plant in plants if plant.phase == phase.name and plant.rank == rank], reals)
    try:
        status = trainer.fit(StopSignals())
    except Diverged as error:
        status = str(error)
    return Outcome(status, trainer.progress.rollbacks, reals)


def fused(settings, network) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), settings.lr, betas=settings.betas, eps=settings.eps, fused=True)


def _put(trainer: Trainer, phase: Phase, plants: list[Plant], reals: list[Tensor]) -> None:
    objective = getattr(phase.objective, "module", phase.objective)
    compute, before = objective.compute, [(-1, -1), 0]

    def planted(**kwargs):
        loss, metrics = compute(**kwargs)
        if not kwargs["real"].any():  # the update that is thrown away at the beginning
            return loss, metrics
        progress = trainer.progress
        now = progress.step, progress.tried[phase.name] - progress.step * phase.repeats
        before[:] = [now, before[1] + 1 if before[0] == now else 0]
        if phase.name == "critic":
            reals.append(kwargs["real"])
        for plant in plants:
            here = progress.step in plant.steps and now[1] == plant.repeat and before[1] == plant.micro
            if here and plant.rollbacks in (-1, progress.rollbacks):
                loss, metrics = _broken(plant.kind, loss, metrics, phase)
        return loss, metrics

    objective.compute = planted


def _broken(kind: str, loss: Tensor, metrics: dict[str, Tensor], phase: Phase) -> tuple[Tensor, dict[str, Tensor]]:
    if kind == "gradient":  # of one weight alone
        parameter = next(phase.network.parameters())

        def spoil(gradient: Tensor) -> Tensor:
            handle.remove()
            gradient = gradient.clone()
            gradient.view(-1)[3] = math.nan
            return gradient

        handle = parameter.register_hook(spoil)
        return loss, metrics
    if kind == "moments":
        for fields in phase.optimizer.state.values():
            fields["exp_avg_sq"].view(-1)[0] = math.inf
        return loss, metrics
    # A sum with a constant has a finite gradient, a product has not.
    loss = loss + math.inf if kind == "infinite loss" else loss * math.nan
    return loss, {**metrics, f"{phase.name}/loss": loss.detach()}
