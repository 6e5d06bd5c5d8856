"""Whole trainings in real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import TINY, assert_same_weights, command, lines, options, train, without_machine, worst_difference
from PIL import Image


@pytest.fixture
def tiny(shapes_shards, tmp_path):
    """Arguments of a small run into `tmp_path / name`."""

    def arguments(name: str, *overrides: str) -> list[str]:
        return ["--config", str(TINY), f"data.shards={shapes_shards}", f"run_dir={tmp_path / name}", *overrides]

    return arguments


def test_one_and_two_processes_give_the_same_losses_in_fp32(tiny, tmp_path):
    for processes in (1, 2):
        train(*tiny(f"run{processes}"), processes=processes)
    assert len(lines(tmp_path / "run1")) == 20
    assert worst_difference(tmp_path / "run1", tmp_path / "run2") < 1e-3


def test_a_run_stopped_after_15_of_30_steps_ends_with_the_same_bits(tiny, tmp_path):
    """Three processes add up in an order that DDP's layout of its buckets decides; two cannot differ in it."""
    often = ["checkpoint.every=10 steps", "tracking.every=4 steps", "samples.every=10 steps", "train.batch_size=12"]
    train(*tiny("calm", *often, "train.length=30 steps"), processes=3)
    train(*tiny("stopped", *often, "train.length=15 steps"), processes=3)
    train(*tiny("stopped", *often, "train.length=30 steps"), processes=3)
    assert_same_weights(tmp_path / "calm", tmp_path / "stopped", 30)
    assert without_machine(tmp_path / "calm") == without_machine(tmp_path / "stopped")
    samples = [(tmp_path / name / "samples" / "00000030.png").read_bytes() for name in ("calm", "stopped")]
    assert samples[0] == samples[1]
    starts = json.loads((tmp_path / "stopped" / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 15]


def test_a_signal_to_one_of_two_processes_makes_all_save_and_the_next_start_goes_on(tiny, tmp_path):
    run = tmp_path / "signalled"
    train(*tiny("calm", "train.length=40 steps"), processes=2)
    arguments = tiny("signalled", "train.length=40 steps")
    process = subprocess.Popen(command(*arguments, processes=2), **_piped())
    _wait_for_line(run, process)
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(workers) == 2
    subprocess.run(["kill", f"-{int(signal.SIGUSR1)}", workers[1]], check=True)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    step = lines(run)[-1]["step"]
    assert (run / "status").read_text() == "preempted\n" and step < 40
    assert (run / "checkpoints" / f"{step:08d}").is_dir()
    assert f"\npreempted by SIGUSR1: {run}, step {step}; the same command goes on from there\n" in errors
    train(*arguments, processes=2)
    assert (run / "status").read_text() == "finished\n"
    assert [line["step"] for line in lines(run)] == list(range(1, 41))
    assert_same_weights(tmp_path / "calm", run, 40)


def test_processes_whose_launcher_was_killed_save_and_leave(tiny, tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(command(*tiny("run", "train.length=5000 steps"), processes=2), **_piped())
    _wait_for_line(run, process)
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while (run / "status").read_text() != "preempted\n":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_run_goes_on_from_its_newest_checkpoint(tiny, tmp_path):
    run = tmp_path / "killed"
    train(*tiny("calm", "checkpoint.every=5 steps", "train.length=60 steps"))
    arguments = tiny("killed", "checkpoint.every=5 steps", "train.length=60 steps")
    process = subprocess.Popen(command(*arguments), **_piped())
    _wait_for_line(run, process, 12)
    process.kill()
    process.communicate()
    assert (run / "status").read_text() == "running\n"
    train(*arguments)
    assert [line["step"] for line in lines(run)] == list(range(1, 61))
    assert_same_weights(tmp_path / "calm", run, 60)


def test_the_run_folder_has_what_is_promised(tiny, tmp_path):
    done = train(*tiny("whole", "samples.every=10 steps", "data.classes=4"), processes=2)
    run = tmp_path / "whole"
    assert "processes  2 on cpu" in done.stderr and "step 20/20" in done.stderr
    start = json.loads((run / "environment.json").read_text())["starts"][0]
    assert start["world_size"] == 2 and start["packages"]["torch"]
    assert {path.name for path in (run / "checkpoints" / "00000020").iterdir()} == {
        "generator.safetensors",
        "generator_ema.safetensors",
        "critic.safetensors",
        "state.safetensors",
        "state.json",
        "manifest.json",
    }
    for name in ("curves.png", "reals.png", "samples/00000000.png", "samples/00000010.png", "samples/00000020.png"):
        assert Image.open(run / name).size[0] > 100
    assert Image.open(run / "samples" / "evolution.gif").n_frames == 3
    again = train("--config", run / "config.yaml", f"run_dir={tmp_path / 'again'}")
    assert "finished" in again.stderr


MODES = {
    "relativistic r1r2 lazy": [
        "objective.loss=relativistic",
        "objective.penalty=r1r2",
        "objective.weight=1",
        "objective.every=2",
    ],
    "plain gan, batch norm": ["objective.loss=nonsaturating", "objective.penalty=none", "critic.norm=batch"],
    "gp, batch norm all the same": ["critic.norm=batch", "objective.allow_batch_norm=true"],
    "resnet, lp, drift": [
        "generator={name: resnet, width: 8}",
        "critic={name: resnet, width: 8, optimizer: {decay: linear}}",
        "objective.penalty=lp",
        "objective.drift=0.001",
    ],
    "mlp, hinge, clip, rmsprop, labels": [
        "generator={name: mlp, width: 16, optimizer: {name: rmsprop}}",
        "critic={name: mlp, width: 16, optimizer: {name: rmsprop}}",
        "objective.loss=hinge",
        "objective.penalty=clip",
        "data.classes=4",
    ],
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_same_curve_on_two_processes(tiny, tmp_path, mode):
    short = ["train.precision=fp64", "train.length=4 steps", *MODES[mode]]
    train(*tiny("one", *short))
    train(*tiny("two", *short), processes=2)
    assert len(lines(tmp_path / "two")) == 4
    assert worst_difference(tmp_path / "one", tmp_path / "two") < 1e-9


def test_bf16_follows_fp32(tiny, tmp_path):
    train(*tiny("fp32", "train.length=4 steps", "critic.norm=layer"))
    train(*tiny("bf16", "train.length=4 steps", "critic.norm=layer", "train.precision=bf16"), processes=2)
    penalties = [[line["critic/penalty"] for line in lines(tmp_path / name)] for name in ("fp32", "bf16")]
    assert penalties[1] == pytest.approx(penalties[0], rel=0.05) and penalties[0] != penalties[1]


def test_checkpoints_by_the_clock_are_no_closer_than_was_asked(tiny, tmp_path):
    train(*tiny("run", "checkpoint.every=1 s", "checkpoint.keep=100", "train.length=80 steps"), processes=2)
    folders = sorted((tmp_path / "run" / "checkpoints").iterdir())
    times = [json.loads((folder / "state.json").read_text())["progress"]["seconds"] for folder in folders]
    assert len(times) >= 2 and folders[-1].name == "00000080"
    assert all(later - earlier > 0.9 for earlier, later in zip(times[:-2], times[1:-1], strict=True))


def test_a_run_killed_before_its_last_line_writes_it_when_started_again(tiny, tmp_path):
    arguments = tiny("run", "train.length=5 steps", "tracking.every=3 steps")
    train(*arguments)
    metrics = tmp_path / "run" / "metrics.jsonl"
    whole = lines(tmp_path / "run")
    assert [line["step"] for line in whole] == [3, 5]
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    train(*arguments)
    again = lines(tmp_path / "run")
    assert [line["step"] for line in again] == [3, 5]
    assert again[1]["critic/loss"] == whole[1]["critic/loss"]


@pytest.mark.parametrize("moment", ["while starting", "while saving"])
def test_a_signal_outside_the_loop_loses_nothing(tiny, tmp_path, moment):
    run = tmp_path / "run"
    process = subprocess.Popen(command(*tiny("run", "train.length=25 steps", "generator.width=64")), **_piped())
    if moment == "while starting":
        time.sleep(1.5)
    else:
        _wait(process, lambda: any((run / "checkpoints").glob(".*.part")))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert (run / "status").read_text() in ("preempted\n", "finished\n")
    assert len(list((run / "checkpoints").glob("[0-9]*"))) == 1


def test_a_run_that_diverges_stops_before_it_spoils_its_checkpoints(tiny, tmp_path):
    wild = ["critic.optimizer.lr=1e30", "checkpoint.every=1 steps"]
    done = train(*tiny("run", *wild), check=False)
    assert done.returncode == 1 and "is not finite" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "run" / "status").read_text() == "failed\n"


def test_one_whose_every_update_is_skipped_says_whether_there_is_a_checkpoint(tiny, tmp_path):
    wild = ["critic.optimizer.lr=1e30", "train.bad_numbers=skip", "train.critic_steps=30", "train.length=3 steps"]
    done = train(*tiny("run", *wild), check=False)
    assert done.returncode == 1 and "updates of the critic in a row" in done.stderr
    assert done.stderr.endswith(". Try a lower learning rate; there is no checkpoint yet\n")


def test_training_that_computes_activations_again_follows_the_one_that_keeps_them(tiny, tmp_path):
    common = ["train.length=4 steps", "train.precision=fp64", "critic={dropout: 0.2, norm: layer}"]
    train(*tiny("kept", *common), processes=2)
    train(*tiny("again", *common, "train.checkpoint_activations=true"), processes=2)
    assert worst_difference(tmp_path / "kept", tmp_path / "again") < 1e-9


def test_compiled_training_follows_the_eager_one(tiny, tmp_path):
    small = [
        "train.length=3 steps",
        "generator={name: mlp, width: 8}",
        "critic={name: mlp, width: 8}",
        "train.precision=fp64",
    ]
    train(*tiny("eager", *small))
    compiled = train(*tiny("compiled", *small, "train.compile=true"))
    assert ", compiled" in compiled.stderr and "the compiler failed" not in compiled.stderr
    # Rounding alone differs; Adam with beta1 0 then magnifies it where a gradient is nearly nothing.
    assert worst_difference(tmp_path / "eager", tmp_path / "compiled") < 1e-9


def _piped() -> dict:
    settings = options(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return {key: value for key, value in settings.items() if key not in ("capture_output", "timeout")}


def _wait_for_line(run: Path, process: subprocess.Popen, count: int = 3) -> None:
    """Until the run has written `count` lines of metrics."""
    metrics = run / "metrics.jsonl"
    _wait(process, lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= count)


def _wait(process: subprocess.Popen, happened: Callable[[], bool]) -> None:
    """Until something has happened, which a process that has ended can no longer do."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.002)
