"""Where a run goes on from: at its start, and after bad numbers."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from forked import in_processes
from planting import Plant, run

from distgan.checkpoint import writer
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
