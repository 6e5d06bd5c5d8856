"""Where a run goes on from: at its start, and after bad numbers."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from forked import in_processes
from launching import lines
from planting import Plant, run

from distgan import checkpoint
from distgan.checkpoint import seal, writer
from distgan.errors import UserError
from distgan.restoring import Restorer

SMALL = ["generator={name: mlp, latent: 8, width: 16, norm: layer}", "critic={name: mlp, width: 16}"]


def run_on_a_disk_that_is_full_until_the_rollback(rank: int, shards: Path, folder: Path, settings: list[str]):
    """The checkpoints that are written after it, as (step, rollbacks)."""
    writer.RETRY_SECONDS, writer.LAST_SECONDS = 0.05, 0.1
    has_room, written, write, go_back = threading.Event(), [], writer.write, Restorer.go_back

    def limited_write(path, snapshot, before):
        if snapshot.step == 6 and not has_room.is_set():
            raise UserError(f"checkpoint {path}: cannot be written: No space left on device")
        write(path, snapshot, before)
        if has_room.is_set():
            written.append((snapshot.step, snapshot.record["progress"]["rollbacks"]))

    def go_back_and_make_room(self, newest):
        go_back(self, newest)
        has_room.set()
        threading.Event().wait(0.5)  # some attempts later

    writer.write, Restorer.go_back = limited_write, go_back_and_make_room
    outcome = run(rank, shards, folder, settings, [Plant("critic", (7,), 0, 0, "nan loss")])
    return outcome.status, outcome.rollbacks, written


def test_a_checkpoint_that_the_disk_refused_is_not_written_once_the_run_has_gone_back(shapes_shards, tmp_path):
    settings = ["train.bad_numbers=rollback", "checkpoint.every=3 steps", "train.length=9 steps", *SMALL]
    (told,) = in_processes(
        1, tmp_path, run_on_a_disk_that_is_full_until_the_rollback, shapes_shards, tmp_path / "run", settings
    )
    assert told == ("finished", 1, [(6, 1), (9, 1)])
    record = json.loads((tmp_path / "run" / "checkpoints" / "00000006" / "state.json").read_text())
    assert record["progress"]["rollbacks"] == 1


def run_until_all_are_damaged(rank: int, shards: Path, folder: Path, settings: list[str], plant: Plant) -> str:
    """What a run says whose checkpoints lose their last file before a bad number is met."""
    newest_complete = checkpoint.newest_complete

    def damage(checkpoints, tell):
        for path in checkpoints.glob("0*/critic.safetensors"):
            path.write_bytes(b"")
        return newest_complete(checkpoints, tell)

    checkpoint.newest_complete = damage
    return run(rank, shards, folder, settings, [plant]).status


@pytest.mark.parametrize("policy", ["stop", "rollback"])
def test_bad_numbers_are_kept_for_study_though_all_checkpoints_are_damaged(shapes_shards, tmp_path, policy):
    folder, plant = tmp_path / "run", Plant("critic", (4,), 0, 1, "nan loss")
    settings = [f"train.bad_numbers={policy}", "checkpoint.every=2 steps", *SMALL]
    told = in_processes(2, tmp_path, run_until_all_are_damaged, shapes_shards, folder, settings, plant)
    kept = folder / "bad_numbers" / "00000004-critic-1"
    assert json.loads((kept / "report.json").read_text())["step"] == 4
    for status in told:
        assert "after step 4, in update 1 of the critic: its loss is not finite on process 1;" in status
        assert f"{kept} has what is needed to study it. " in status
    assert "no checkpoint in" in told[0] and told[0].count("critic.safetensors: damaged: 0 bytes") == 2


def test_what_a_killed_start_left_is_gone_before_the_next_checkpoint(shapes_shards, tmp_path):
    folder, settings = tmp_path / "run", ["train.length=1 steps", *SMALL]
    in_processes(1, tmp_path / "a", run, shapes_shards, folder, settings, [])
    for name in (".00000002.part", ".00000001.old"):
        (folder / "checkpoints" / name).mkdir()
        (folder / "checkpoints" / name / "critic.safetensors").write_bytes(bytes(1000))
    in_processes(1, tmp_path / "b", run, shapes_shards, folder, settings, [])  # writes none
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["00000001"]


def test_a_best_checkpoint_that_is_gone_is_forgotten(shapes_shards, tmp_path):
    folder = tmp_path / "run"
    settings = ["checkpoint.every=1 steps", "checkpoint.keep=2", "checkpoint.best=critic/loss", "train.length=4 steps"]
    in_processes(1, tmp_path / "a", run, shapes_shards, folder, [*settings, *SMALL], [])
    losses = {line["step"]: line["critic/loss"] for line in lines(folder)}
    third, fourth = (folder / "checkpoints" / f"{step:08d}" for step in (3, 4))
    assert progress(third)["best_step"] == 1 and progress(fourth)["best_step"] == 4, losses
    (fourth / "critic.safetensors").write_bytes(b"")
    record = json.loads((third / "state.json").read_text())
    record["progress"]["best"] = -1e9  # what is gone was better than all that will come
    (third / "state.json").write_text(json.dumps(record))
    seal(third, 3)
    in_processes(1, tmp_path / "b", run, shapes_shards, folder, [*settings, *SMALL], [])
    assert (progress(fourth)["best_step"], progress(fourth)["best"]) == (4, pytest.approx(losses[4], rel=1e-5))


def progress(folder: Path) -> dict:
    return json.loads((folder / "state.json").read_text())["progress"]
