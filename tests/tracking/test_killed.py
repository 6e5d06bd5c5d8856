"""A real training that is killed twice: what its views have of it in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import launching
import numpy as np
from launching import TINY, command, family, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_records import history, lines, segments

from distgan.run_folder import read_lines

TIMED = ("seconds", "throughput/", "memory/")
"""Metrics that no two trainings have alike."""


def kill_later(arguments: list, run: Path, steps: int, whole: bool) -> None:
    """Starts a training and kills it once it has written so many more lines and W&B has begun; `whole`: with all its
    children, as a cluster does."""
    starts, lines_before = len(segments(run)), last_step(run)
    process = subprocess.Popen(command(*arguments), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(segments(run)) == starts or last_step(run) < lines_before + steps:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    for one in family(process.pid) if whole else [process.pid]:
        os.kill(one, signal.SIGKILL)
    process.wait()


def last_step(run: Path) -> int:
    return max((line["step"] for line in read_lines(run / "metrics.jsonl")), default=0)


def test_no_view_of_a_trial_has_a_gap_or_a_step_twice(shapes_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "trial1")  # as the agent of a sweep does
    run = tmp_path / "sweep" / "trial1"
    views = ["tracking.wandb.mode=offline", "tracking.tensorboard=true", "samples.every=5 steps"]
    arguments = ["--config", TINY, f"data.shards={shapes_shards}", f"run_dir={run.parent}", *views]
    arguments += ["train.length=10000 steps", "checkpoint.every=8 steps"]
    kill_later(arguments, run, 10, whole=False)
    kill_later(arguments, run, 10, whole=True)
    length = last_step(run) + 10
    train(*arguments, f"train.length={length} steps")

    record, steps = launching.lines(run), list(range(1, length + 1))
    assert [line["step"] for line in record] == steps
    rows = history(run)
    assert [row["step"] for row in lines(rows)] == steps and len(segments(run)) == 3
    assert {segment.name for segment in segments(run)} == {"run-trial1.wandb"}
    for line, row in zip(record, lines(rows), strict=True):
        numbers = {name: value for name, value in line.items() if isinstance(value, (int, float))}
        assert {name: value for name, value in numbers.items() if not name.startswith(TIMED)}.items() <= row.items()
    pictures = sorted({*range(0, length, 5), length})  # the last step has one too
    assert [row["step"] for row in rows if "samples.path" in row] == pictures

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    found = events.Scalars("critic/loss")
    assert [event.step for event in found] == steps
    assert [event.value for event in found] == [np.float32(line["critic/loss"]) for line in record]
    assert [event.step for event in events.Images("samples")] == pictures
