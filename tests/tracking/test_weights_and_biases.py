"""W&B as it is, without a network: what it writes is read back by its own tool."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import wandb
from launching import TINY
from recorded import Pictures, recorder_of, tell

from distgan.checkpoint import Progress
from distgan.config.loading import load_config, validate
from distgan.recorder import _without_secrets
from distgan.run_folder import RunFolder
from distgan.tracking import pictures
from distgan.tracking.given import Given, remember_given
from distgan.tracking.weights_and_biases import WandbSink, new_run_id


def config(folder: Path, mode: str):
    return validate(
        {
            "run_dir": str(folder),
            "data": {"shards": "x", "resolution": 32},
            "train": {"length": "10 steps"},
            "generator": {"name": "mlp"},
            "critic": {"name": "mlp"},
            "tracking": {"wandb": {"mode": mode, "project": "tests", "tags": ["a"], "group": "g"}},
        }
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run folder, and no account anywhere near."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    found = RunFolder(tmp_path / "run")
    found.create()
    return found


def start(
    folder: RunFolder, run_id: str, step: int, *steps: int, mode: str = "offline", status: str = "finished"
) -> None:
    """A start of a run: a grid at its first step, a line at each of `steps`."""
    sink = WandbSink(config(folder.path, mode), folder, run_id, Given(step))
    pictures.save(pictures.grid(torch.zeros(1, 3, 32, 32), 1), folder.sample(step))
    if step == 0:
        sink.picture("samples", folder.sample(0), 0)
    for number in steps:
        sink.metrics(
            {"step": number, "kimg": number / 10, "seconds": 1.0, "critic/loss": number / 3, "bad": float("nan")}
        )
    sink.close(status)


def records(folder: RunFolder) -> list[list[dict]]:
    """The records of each start, in order of time, by `wandb leet inspect`."""
    found = []
    for log in sorted(folder.path.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime):
        command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(log)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:
            pytest.skip(f"`wandb leet inspect` is not there: {done.stderr.strip()[:100]}")
        found.append([json.loads(line) for line in done.stdout.splitlines()])
    return found


def history(start: list[dict]) -> list[dict]:
    """The history rows of a start, by name of the metric."""
    return [record["history"]["item"] for record in start if record["type"] == "history"]


def test_each_step_of_two_starts_is_written_once_under_one_id(folder):
    run_id = new_run_id()
    start(folder, run_id, 0, 10, 20, 20, status="preempted")
    start(folder, run_id, 20, 10, 20, 30)
    starts = records(folder)
    rows = [row for one in starts for row in history(one)]
    assert len(starts) == 2
    assert [row["step"] for row in rows if "critic/loss" in row] == [10, 20, 30]
    assert [row["critic/loss"] for row in rows if "critic/loss" in row] == [10 / 3, 20 / 3, 10]
    assert not any("bad" in row for row in rows)
    assert [row["step"] for row in rows if "samples.path" in row] == [0]
    for one in starts:
        assert run_id in json.dumps(one) and '"tests"' in json.dumps(one)


def test_steps_that_a_resume_trains_again_are_not_given_again(folder):
    """Two starts that fail after their checkpoint, and one that goes back to a checkpoint of its own."""
    progress = Progress()

    def begin(step: int):
        progress.step, progress.images, progress.seconds = step, 32 * step, float(step)
        progress.lines = progress.last_line = step
        recorder, generator = recorder_of(folder.path, progress, overrides=["tracking.wandb.mode=offline"])
        recorder.start(generator, Pictures(), "a run")
        return recorder, generator

    def train(recorder, generator, *steps: int) -> None:
        for step in steps:
            tell(recorder, step)
            if step % 2 == 0:
                recorder.sample(step, generator)

    for first, last in ((0, 57), (50, 53)):  # both end between two checkpoints
        recorder, generator = begin(first)
        train(recorder, generator, *range(first + 1, last + 1))
        recorder.close("failed")
    recorder, generator = begin(50)
    train(recorder, generator, *range(51, 64))
    progress.step, progress.images, progress.seconds = 55, 32 * 55, 55.0
    recorder.rewind(55)
    train(recorder, generator, *range(56, 60))
    recorder.close("failed")
    recorder, generator = begin(55)
    train(recorder, generator, *range(56, 66))
    recorder.close("finished")

    written = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    assert written == list(range(1, 66))
    rows = [row for one in records(folder) for row in history(one)]
    assert [row["step"] for row in rows if "critic/loss" in row] == list(range(1, 66))
    assert [row["samples.path"].split("_")[1] for row in rows if "samples.path" in row] == [
        str(step) for step in range(0, 65, 2)
    ]


def test_what_another_run_was_given_counts_for_nothing(folder):
    folder.wandb_id.write_text("first\n")
    folder.metrics.write_text('{"step": 57}\n')
    (folder.samples / "00000040.png").touch()
    assert remember_given(folder, "first") == (57, 40)
    assert remember_given(folder, "other") == (0, -1)
    folder.metrics.write_text('{"step": 50}\n')  # cut back to a checkpoint
    (folder.samples / "00000040.png").unlink()
    assert remember_given(folder, "first") == (57, 40)
    folder.wandb_given.write_text("damaged")
    assert remember_given(folder, "first") == (50, -1)


def test_online_without_a_key_writes_offline_with_one_warning(folder, capfd):
    start(folder, new_run_id(), 0, 10, mode="online")
    errors = capfd.readouterr().err
    assert errors.count("distgan: W&B:") == 1 and "no API key" in errors and "writing offline instead" in errors
    assert len(list(folder.path.glob("wandb/offline-run-*/*.wandb"))) == 1


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_nothing_that_it_raises_stops_a_run(folder, monkeypatch, capfd, where):
    class Run:
        summary = {}

        def __getattr__(self, name):
            def call(*args, **kwargs):
                if name == where:
                    raise ConnectionError("the server\nis gone")

            return call

    def init(**_):
        if where == "init":
            raise ConnectionError("the server\nis gone")
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    start(folder, "id", 0, 10, 20)
    errors = capfd.readouterr().err
    assert errors.count("distgan: W&B: ConnectionError: the server;") == 1 and "metrics.jsonl has everything" in errors
    assert "is gone" not in errors


def test_no_secret_of_a_url_reaches_weights_and_biases():
    url, seen = "https://me:word@host/set/x-{0..3}.tar?X-Signature=secret", "https://host/set/x-{0..3}.tar"
    config = load_config([TINY])
    for given, told in ((url, seen), (["data/here", url], ["data/here", seen])):
        changed = config.model_copy(update={"data": config.data.model_copy(update={"shards": given})})
        assert _without_secrets(changed).data.shards == told
