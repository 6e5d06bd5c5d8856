from __future__ import annotations

import time
from pathlib import Path

import pytest
from forked import in_processes
from planting import run

from distgan.checkpoint import writer
from distgan.config.duration import parse_duration
from distgan.periodic import Clock, Periodic, TimeLimit


def periodic(every: str) -> Periodic:
    return Periodic.of(parse_duration(every), 250, lambda: None)


@pytest.mark.parametrize(
    ("every", "due"),
    [("3 steps", [3, 6, 9]), ("1 steps", list(range(1, 11))), ("1 kimg", [4, 8]), ("1.1 kimg", [5, 10]), ("1 min", [])],
)
def test_steps_and_images_are_due_by_the_step(every, due):
    assert [step for step in range(1, 11) if periodic(every).is_due(step)] == due


def test_a_time_is_late_by_the_clock_and_steps_never_are():
    assert [periodic("1 min").is_late(seconds) for seconds in (0, 59.9, 60, 61)] == [False, False, True, True]
    assert not periodic("3 steps").is_late(1e9)


def test_the_action_is_kept():
    done = []
    Periodic.of(parse_duration("1 steps"), 1, lambda: done.append(1)).action()
    assert done == [1]


def test_the_clock_goes_on_from_the_starts_before():
    clock = Clock(before=100.0)
    time.sleep(0.02)
    assert 100.02 <= clock.seconds() < 101 and 0.02 <= clock.since_save() < 1


def test_a_save_starts_the_time_since_it_and_not_the_clock():
    clock = Clock(before=0.0)
    time.sleep(0.05)
    clock.saved()
    assert clock.since_save() < 0.05 <= clock.seconds()


def test_a_limit_needs_to_know_how_long_a_checkpoint_takes_and_no_limit_does_not():
    limit = TimeLimit(60.0, time.monotonic())
    assert limit.is_guessing(0.0) and not limit.is_guessing(0.1)
    assert not limit.is_up(24.0) and limit.is_up(26.0)
    assert not TimeLimit(None, 0.0).is_guessing(0.0)


def run_on_a_slow_disk(rank: int, shards: Path, folder: Path, settings: list[str]) -> tuple[str, float]:
    """How a run ends on a disk that takes a second for a checkpoint, and after how many seconds."""
    write, TimeLimit.CLOSING, began = writer.write, 0.0, time.monotonic()

    def slow(*args):
        time.sleep(1)
        write(*args)

    writer.write = slow
    return run(rank, shards, folder, settings, []).status, time.monotonic() - began


@pytest.mark.parametrize("processes", [1, 2])
def test_a_start_leaves_room_for_its_only_checkpoint(shapes_shards, tmp_path, processes):
    small = ["generator={name: mlp, latent: 8, width: 16, norm: layer}", "critic={name: mlp, width: 16}"]
    settings = ["train.max_time=5 s", "train.length=100000 steps", "tracking.every=1000 steps", *small]
    told = in_processes(processes, tmp_path, run_on_a_slow_disk, shapes_shards, tmp_path / "run", settings)
    assert [status for status, _ in told] == ["preempted"] * processes
    assert max(seconds for _, seconds in told) < 5
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2, "that after the first step, and the last"
