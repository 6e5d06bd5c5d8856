"""Trainings that grow, in real processes: 4 steps at 8 pixels, 8 at 16, 12 at 32, of each new resolution 4 in which its
layers come in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from launching import (
    ROOT,
    assert_same_weights,
    command,
    family,
    lines,
    train,
    without_machine,
    worst_difference,
    worst_weight_difference,
)
from PIL import Image
from safetensors.torch import load_file

from distgan.config import load_config
from distgan.sampling.fixed import fixed_grid, generate
from distgan.sampling.source import find

GROWING = ROOT / "tests" / "growing.yaml"
TO_STEP = [4, 6, 14]
"""Where it grows, and twice while layers come in."""


@pytest.fixture(scope="module")
def growing(shapes_shards, tmp_path_factory):
    """Arguments of a run that grows into `folder / name`, and the folder."""
    folder = tmp_path_factory.mktemp("growing")

    def arguments(name: str, *overrides: str) -> list[str]:
        return ["--config", str(GROWING), f"data.shards={shapes_shards}", f"run_dir={folder / name}", *overrides]

    return arguments, folder


@pytest.fixture(scope="module")
def whole(growing):
    """A run that was never stopped, on two processes."""
    arguments, folder = growing
    train(*arguments("whole", "samples.every=2 steps", "checkpoint.every=2 steps", "checkpoint.keep=99"), processes=2)
    return folder / "whole"


def test_one_and_two_processes_give_the_same_curve_through_all_resolutions(growing, whole):
    arguments, folder = growing
    assert [line["step"] for line in lines(whole)] == list(range(1, 25))
    runs = [folder / f"on {processes}" for processes in (1, 2)]
    for processes, run in enumerate(runs, start=1):  # in fp64: new optimisers make rounding grow
        train(*arguments(run.name, "train.precision=fp64"), processes=processes)
    assert worst_difference(*runs) < 1e-10
    assert worst_weight_difference(*runs, 24) < 1e-10


@pytest.mark.parametrize("step", TO_STEP)
def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(growing, whole, step):
    arguments, folder = growing
    stopped = folder / f"stopped{step}"
    train(*arguments(stopped.name, f"train.length={step} steps"), processes=2)
    train(*arguments(stopped.name), processes=2)
    assert_same_weights(whole, stopped, 24)
    assert without_machine(whole) == without_machine(stopped)


def test_a_run_that_was_killed_while_layers_come_in_ends_with_the_same_bits(growing, whole):
    arguments, folder = growing
    killed = folder / "killed"
    words = arguments("killed", "checkpoint.every=1 steps")
    process = subprocess.Popen(command(*words, processes=2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "00000005").is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    for one in family(process.pid):
        os.kill(one, signal.SIGKILL)
    process.wait()
    reached = max(int(path.name) for path in (killed / "checkpoints").iterdir() if path.name.isdecimal())
    train(*words, processes=2)
    starts = json.loads((killed / "environment.json").read_text())["starts"]
    assert starts[-1]["step"] >= 5 and reached < 24
    assert_same_weights(whole, killed, 24)


def moments(checkpoint) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "state.safetensors")


def test_at_a_new_resolution_the_optimisers_begin_anew(whole):
    """As Progressive GAN's code has it, which resets them when layers are added."""
    counts = {}
    for number in (4, 6, 12, 14):
        found = moments(whole / "checkpoints" / f"{number:08d}")
        counts[number] = {found[name].item() for name in found if name.startswith("critic.") and name.endswith("step")}
    assert counts == {4: {8}, 6: {4}, 12: {16}, 14: {4}}


def test_only_the_layers_of_the_resolutions_so_far_have_moments(whole):
    sizes = [
        sum(name.endswith("exp_avg") for name in moments(whole / "checkpoints" / f"{step:08d}")) for step in (4, 12, 24)
    ]
    assert sizes[0] < sizes[1] < sizes[2]


def test_pictures_are_of_the_full_size_all_along_and_no_finer_than_the_resolution_of_now(whole):
    for step, side in ((2, 8), (4, 8), (10, 16), (12, 16), (24, 32)):
        drawn = generate(find(whole, step=step).generator, torch.arange(4), None)
        squares = drawn.reshape(4, 3, side, 32 // side, side, 32 // side).transpose(3, 4).flatten(4, 5)
        assert drawn.shape == (4, 3, 32, 32) and (squares == squares[..., :1]).all()
        assert not (drawn[..., ::2] == drawn[..., 1::2]).all() or side < 32
    assert len({Image.open(path).size for path in (whole / "samples").glob("*.png")}) == 1


def test_a_checkpoint_from_while_layers_come_in_is_drawn_as_training_drew_it(whole):
    state = load_file(whole / "checkpoints" / "00000014" / "generator_ema.safetensors")
    assert state["growth.resolution"] == 32 and state["growth.share"] == 0.5
    config = load_config([whole / "config.yaml"])
    found = find(whole, step=14)
    expected = Image.open(whole / "samples" / "00000014.png")
    assert np.array_equal(fixed_grid(found.generator, config), np.array(expected))


def test_there_is_a_checkpoint_of_the_end_of_each_resolution(growing):
    arguments, folder = growing
    often = ["checkpoint.every=100 steps", "checkpoint.keep=9", "train.length=20 steps", "tracking.every=100 steps"]
    done = train(*arguments("seldom", *often), processes=1)
    kept = sorted(int(path.name) for path in (folder / "seldom" / "checkpoints").iterdir())
    assert kept == [4, 12, 20]
    assert "before" not in done.stderr
    done = train(*arguments("short", "train.length=10 steps"), processes=1)
    assert "growing    8 px to step 4, 16 px to step 10; train.length ends before 32 px" in done.stderr
