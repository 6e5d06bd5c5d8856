"""How runs begin with the weights of others, go on, and end in time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from launching import TINY, assert_same_weights, lines, train


@pytest.fixture
def tiny(shapes_shards, tmp_path):
    """Arguments of a small run into `tmp_path / name`."""

    def arguments(name: str, *overrides: str) -> list[str]:
        return ["--config", str(TINY), f"data.shards={shapes_shards}", f"run_dir={tmp_path / name}", *overrides]

    return arguments


def progress(run: Path, step: int) -> dict:
    return json.loads((run / "checkpoints" / f"{step:08d}" / "state.json").read_text())["progress"]


def test_a_run_begins_with_the_weights_of_another(tiny, tmp_path):
    train(*tiny("first", "train.length=6 steps"))
    arguments = [*tiny("second", "train.length=3 steps", "train.batch_size=8"), "--init-from", tmp_path / "first"]
    train(*arguments, processes=2)
    ends, begins = tmp_path / "first" / "samples" / "00000006.png", tmp_path / "second" / "samples" / "00000000.png"
    assert ends.read_bytes() == begins.read_bytes()
    assert [line["step"] for line in lines(tmp_path / "second")] == [1, 2, 3]
    found = progress(tmp_path / "second", 3)
    assert found["init"].startswith(f"{tmp_path / 'first' / 'checkpoints' / '00000006'} ") and found["images"] == 48
    again = train(*arguments)
    assert "goes on from its own checkpoint" in again.stderr and "step 3 to 3" in again.stderr


@pytest.mark.parametrize("there", [True, False])
def test_what_is_no_checkpoint_is_refused_before_anything_is_made(tiny, tmp_path, there):
    if there:
        (tmp_path / "nothing").mkdir()
    done = train(*tiny("run"), "--init-from", tmp_path / "nothing", check=False)
    assert done.returncode == 2 and done.stderr.startswith(f"distgan: --init-from {tmp_path / 'nothing'}: neither a")
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_checkpoint_or_a_damaged_one_is_nothing_to_begin_with(tiny, tmp_path):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    done = train(*tiny("run"), "--init-from", tmp_path / "empty", check=False, processes=2)
    assert done.returncode == 1 and done.stderr.count("has no checkpoint yet") == 1
    train(*tiny("first", "train.length=1 steps"))
    only = tmp_path / "first" / "checkpoints" / "00000001"
    (only / "critic.safetensors").write_bytes(b"")
    for source in (only, tmp_path / "first"):
        done = train(*tiny("run"), "--init-from", source, check=False)
        assert done.returncode == 1 and "critic.safetensors: damaged: 0 bytes" in done.stderr


def test_weights_of_another_network_are_refused(tiny, tmp_path):
    train(*tiny("first", "train.length=1 steps"))
    only = tmp_path / "first" / "checkpoints" / "00000001"
    done = train(*tiny("run", "critic.width=16", "seed=3"), "--init-from", tmp_path / "first", check=False)
    assert done.returncode == 2, "another run_dir would not help"
    assert f"--init-from {only}: its weights do not fit the config; its run has critic.width=8\n" in done.stderr
    done = train(*tiny("run", "critic={name: mlp}"), "--init-from", tmp_path / "first", check=False)
    assert done.returncode == 2 and "config; its run has critic.name=dcgan, critic.width=8\n" in done.stderr
    shutil.copytree(only, tmp_path / "alone")
    done = train(*tiny("run", "critic.width=16"), "--init-from", tmp_path / "alone", check=False)
    assert done.returncode == 2 and "do not fit the config (" in done.stderr


def test_a_run_leaves_before_its_time_is_up_and_goes_on(tiny, tmp_path):
    run = tmp_path / "run"
    arguments = tiny("run", "train.length=100000 steps")
    done = train(*arguments, "train.max_time=15 s", processes=2)
    assert (run / "status").read_text() == "preempted\n"
    step = lines(run)[-1]["step"]
    assert (run / "checkpoints" / f"{step:08d}").is_dir()
    onward = "; the same command goes on from there\n"
    assert f"\npreempted by train.max_time: {run}, step {step}; " in done.stderr and done.stderr.endswith(onward)
    done = train(*arguments, "train.max_time=1 s")
    assert lines(run)[-1]["step"] == step + 1
    remark = "train.max_time 1 s is too short for this run: it left time for 1 step"
    assert done.stderr.endswith(f"\npreempted by train.max_time: {run}, step {step + 1}; {remark}{onward}")


def test_the_best_checkpoint_stays(tiny, tmp_path):
    run = tmp_path / "run"
    train(*tiny("run", "checkpoint.every=2 steps", "checkpoint.keep=1", "checkpoint.keep_every=7 steps",
                "checkpoint.best=critic/loss", "checkpoint.best_is=highest"))  # fmt: skip
    losses = {line["step"]: line["critic/loss"] for line in lines(run) if line["step"] % 2 == 0}
    best = max(losses, key=losses.get)
    kept = {int(path.name) for path in (run / "checkpoints").iterdir()}
    assert kept == {8, 14, 20, best} and progress(run, 20)["best_step"] == best


def test_a_damaged_checkpoint_is_named_and_the_one_before_gives_the_same_end(tiny, tmp_path):
    often = ["checkpoint.every=3 steps", "train.length=12 steps"]
    train(*tiny("calm", *often))
    train(*tiny("run", *often, "train.length=9 steps"))
    critic = tmp_path / "run" / "checkpoints" / "00000009" / "critic.safetensors"
    critic.write_bytes(critic.read_bytes()[:-1])
    done = train(*tiny("run", *often), processes=1)
    assert done.stderr.count(f"distgan: checkpoint {critic}: damaged: ") == 1 and "; using 00000006" in done.stderr
    assert_same_weights(tmp_path / "calm", tmp_path / "run", 12)
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(1, 13))


def test_a_preempted_run_that_has_nothing_to_go_on_from_has_failed(tiny, tmp_path):
    train(*tiny("run", "train.length=2 steps"))
    (tmp_path / "run" / "status").write_text("preempted\n")
    (tmp_path / "run" / "checkpoints" / "00000002" / "manifest.json").unlink()
    assert train(*tiny("run"), check=False).returncode == 1
    assert (tmp_path / "run" / "status").read_text() == "failed\n"


def test_a_run_whose_checkpoints_are_all_damaged_stays_as_it_is(tiny, tmp_path):
    train(*tiny("run", "train.length=2 steps"))
    (tmp_path / "run" / "checkpoints" / "00000002" / "manifest.json").unlink()
    done = train(*tiny("run"), check=False, processes=2)
    assert done.returncode == 1 and done.stderr.count("is whole; restore one, remove them all, or use another") == 1
    assert len(lines(tmp_path / "run")) == 2 and (tmp_path / "run" / "status").read_text() == "finished\n"
