"""Trainings that grow, in this process or a few: what goes wrong around a growth step, and what the lines say there."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from forked import in_processes
from launching import ROOT, lines, worst_difference, worst_weight_difference
from safetensors.torch import load_file

from distgan import phases as phases_module
from distgan import recorder
from distgan.bad_numbers import Guard
from distgan.config import load_config
from distgan.data.dataset import open_dataset
from distgan.errors import Diverged
from distgan.run_folder import RunFolder
from distgan.runtime import Runtime
from distgan.stopping import StopSignals
from distgan.trainer import Trainer

GROWING = ROOT / "tests" / "growing.yaml"
EACH_THIRD = "checkpoint.every=3 steps"


class Told(NamedTuple):
    status: str
    rollbacks: int
    alive: list[int]
    """Each time that it changed from stage to stage, how many of the objectives before were still there."""


def fused(settings, network) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), settings.lr, betas=settings.betas, eps=settings.eps, fused=True)


def grow(
    rank: int,
    shards: Path,
    folder: Path,
    settings: list[str],
    bad: tuple[int, str] | None = None,
    lagged: bool | None = None,
    init_from: Path | None = None,
) -> Told:
    """A training, in which after `bad` steps a gradient of a network is not finite, until that led to a rollback.
    `lagged`: as for a Guard."""
    config = load_config([GROWING], [f"data.shards={shards}", f"run_dir={folder}", *settings])
    recorder.save_curves = recorder.pictures.save_evolution = lambda *_: None
    if lagged is not None:
        phases_module.make_optimizer = fused
    runtime, run_folder = Runtime(config), RunFolder(config.run_dir)
    torch.set_num_threads(1)
    run_folder.create()
    trainer = Trainer(config, runtime, open_dataset(config.data), run_folder)
    phases, alive = trainer.phases, []
    if lagged is not None:
        phases.guard = Guard(config.train.bad_numbers, runtime.device, lagged=lagged)
    gradients, enter = phases.gradients, phases.enter

    def spoiled(phase, *args, **kwargs):
        found = gradients(phase, *args, **kwargs)
        if bad == (trainer.progress.step, phase.name) and not trainer.progress.rollbacks:
            phase.parameters[0].grad.view(-1)[0] = math.nan
        return found

    def watched(stage):
        before = [weakref.ref(phase.objective) for phase in phases]
        enter(stage)
        alive.append(sum(one() is not None for one in before))

    phases.gradients, phases.enter = spoiled, watched
    try:
        status = trainer.fit(StopSignals(), init_from=init_from)
    except Diverged as error:
        status = str(error)
    return Told(status, trainer.progress.rollbacks, alive)


def growing(folder: Path, processes: int, shards: Path, name: str, *args) -> list[Told]:
    return in_processes(processes, folder / f"{name} processes", grow, shards, folder / name, *args)


@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_of_the_stage_before_is_left_when_the_next_one_begins(shapes_shards, tmp_path, processes):
    told = growing(tmp_path, processes, shapes_shards, "run", ["train.length=13 steps"])
    assert [(one.status, one.alive) for one in told] == [("finished", [0, 0])] * processes


@pytest.mark.parametrize(("step", "length"), [(4, 6), (13, 14)])
def test_a_run_goes_back_over_a_growth_step(shapes_shards, tmp_path, step, length):
    settings = [f"train.length={length} steps", "train.bad_numbers=rollback", "train.precision=fp64", EACH_THIRD]
    for processes in (1, 2):
        told = growing(tmp_path, processes, shapes_shards, f"run{processes}", settings, (step, "critic"))
        assert [one[:2] for one in told] == [("finished", 1)] * processes
        assert not any(any(one.alive) for one in told), "DDP before is in the way of DDP now"
        assert [line["step"] for line in lines(tmp_path / f"run{processes}")] == list(range(1, length + 1))
    assert worst_difference(tmp_path / "run1", tmp_path / "run2") < 1e-8
    assert worst_weight_difference(tmp_path / "run1", tmp_path / "run2", length) < 1e-8


@pytest.mark.parametrize("policy", ["stop", "rollback"])
def test_bad_numbers_of_the_last_step_before_a_growth_step_are_told_of(shapes_shards, tmp_path, policy):
    """Also where the host hears of them a step later."""
    settings = ["train.length=6 steps", f"train.bad_numbers={policy}", EACH_THIRD, "tracking.every=9 steps"]
    (told,) = growing(tmp_path, 1, shapes_shards, "run", settings, (3, "generator"), True)
    if policy == "stop":
        assert "after step 3, in update 1 of the generator" in told.status
    else:
        assert told[:2] == ("finished", 1)


def test_no_line_says_that_training_waited_for_less_than_nothing(shapes_shards, tmp_path):
    growing(tmp_path, 1, shapes_shards, "run", ["train.length=13 steps"])
    assert all(0 <= line["throughput/data_wait_fraction"] <= 1 for line in lines(tmp_path / "run"))


def test_a_run_that_does_not_grow_begins_at_the_full_size_with_the_weights_of_one_that_does(shapes_shards, tmp_path):
    growing(tmp_path, 1, shapes_shards, "small", ["train.length=6 steps"])
    source = (None, None, tmp_path / "small")
    settings = ["train.length=2 steps", "growing=null"]
    (told,) = growing(tmp_path, 1, shapes_shards, "full", settings, *source)
    kept = load_file(tmp_path / "full" / "checkpoints" / "00000002" / "generator_ema.safetensors")
    assert told.status == "finished" and (kept["growth.resolution"], kept["growth.share"]) == (32, 1)
    (told,) = growing(tmp_path, 1, shapes_shards, "again", ["train.length=5 steps"], None, None, tmp_path / "full")
    kept = load_file(tmp_path / "again" / "checkpoints" / "00000005" / "generator_ema.safetensors")
    assert told.status == "finished" and (kept["growth.resolution"], kept["growth.share"]) == (16, 0.25)


def test_a_run_that_ended_while_layers_came_in_and_is_started_again_leaves_the_same_pictures(shapes_shards, tmp_path):
    seen = []
    for start in ("first", "second"):
        told = in_processes(1, tmp_path / start, grow, shapes_shards, tmp_path / "run", ["train.length=6 steps"])
        assert told[0].status == "finished"
        seen.append((tmp_path / "run" / "samples" / "00000006.png").read_bytes())
    assert seen[0] == seen[1]
