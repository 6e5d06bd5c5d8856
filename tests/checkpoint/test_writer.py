"""Checkpoints written by a thread: while training goes on, one at a time, and again where the disk did not take one."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch
from states import assert_same, fresh, move, train

from distgan import checkpoint
from distgan.checkpoint import Writer, writer
from distgan.errors import UserError


@pytest.fixture
def state():
    made = fresh("adam", 0)
    train(made, 3)
    return made


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(writer, "LAST_SECONDS", 0.5)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_is_written_is_the_state_when_it_was_saved(tmp_path, state):
    gate = threading.Event()
    saving = Writer(tmp_path, keep=3, before=lambda step: gate.wait(20))
    saving.save(state, {"meter": torch.ones(2)})
    move(state)  # while it is being written
    gate.set()
    saving.finish()
    saving.close()
    again, calm = fresh("adam", 1), fresh("adam", 0)
    train(calm, 3)
    assert torch.equal(checkpoint.load(checkpoint.newest_complete(tmp_path), again)["meter"], torch.ones(2))
    assert_same(again, calm)
    assert saving.written == 3 and saving.slowest > 0


def test_one_is_written_at_a_time_and_the_next_waits(tmp_path, state):
    gate, inside = threading.Event(), []
    saving = Writer(
        tmp_path, keep=3, before=lambda step: (inside.append(sorted(tmp_path.glob(".*.part"))), gate.wait(20))
    )
    saving.save(state, {})
    wait_for(lambda: inside)
    move(state)
    second = threading.Thread(target=saving.save, args=(state, {}))
    second.start()
    second.join(0.2)
    assert second.is_alive() and saving.written == -1
    gate.set()
    second.join(20)
    saving.finish()
    saving.close()
    assert checkpoint.steps_in(tmp_path) == [3, 4] and [len(parts) for parts in inside] == [1, 1]
    assert saving.waited >= 0.2


def test_what_the_disk_does_not_take_is_told_once_and_written_when_it_does(tmp_path, state, capfd):
    folder = tmp_path / "checkpoints"
    folder.write_text("in the way")
    saving = Writer(folder, keep=3)
    saving.save(state, {})
    wait_for(lambda: "tries again" in capfd.readouterr().err)
    time.sleep(0.3)  # some attempts later
    assert capfd.readouterr().err == ""
    folder.unlink()
    saving.finish()
    saving.close()
    checkpoint.verify(folder / "00000003")
    assert capfd.readouterr().err.endswith("written after all\n")


def test_a_later_state_takes_the_place_of_one_that_the_disk_does_not_take(tmp_path, state, capfd):
    folder = tmp_path / "checkpoints"
    folder.write_text("in the way")
    saving = Writer(folder, keep=3)
    saving.save(state, {})
    wait_for(lambda: "tries again" in capfd.readouterr().err)
    move(state)
    saving.save(state, {})  # does not wait
    folder.unlink()
    saving.finish()
    saving.close()
    assert checkpoint.steps_in(folder)[-1] == 4


def test_the_end_of_a_run_tries_for_a_while_and_then_says_what_is_lost(tmp_path, state):
    folder = tmp_path / "checkpoints"
    folder.write_text("in the way")
    saving = Writer(folder, keep=3)
    saving.save(state, {})
    with pytest.raises(UserError, match="checkpoints/00000003: cannot be written: .*; make room and start again"):
        saving.finish()
    saving.close()


def test_what_is_withdrawn_is_never_written(tmp_path, state, capfd):
    refuses = threading.Event()
    refuses.set()

    def before(step):
        if refuses.is_set():
            raise UserError("no room")

    saving = Writer(tmp_path, keep=3, before=before)
    saving.save(state, {})
    wait_for(lambda: "tries again" in capfd.readouterr().err)
    saving.withdraw()
    refuses.clear()
    assert not saving.busy
    time.sleep(0.3)  # some attempts later
    assert os.listdir(tmp_path) == []
    move(state)
    saving.save(state, {})
    saving.finish()
    saving.close()
    assert checkpoint.steps_in(tmp_path) == [4] and capfd.readouterr().err == ""


def test_what_is_being_written_when_it_is_withdrawn_becomes_whole_first(tmp_path, state):
    gate, inside = threading.Event(), threading.Event()
    saving = Writer(tmp_path, keep=3, before=lambda step: (inside.set(), gate.wait(20)))
    saving.save(state, {})
    assert inside.wait(20)
    withdrawing = threading.Thread(target=saving.withdraw)
    withdrawing.start()
    withdrawing.join(0.2)
    assert withdrawing.is_alive() and saving.slowest > 0.1
    gate.set()
    withdrawing.join(20)
    assert checkpoint.steps_in(tmp_path) == [3]
    saving.close()


def test_a_snapshot_that_the_thread_has_not_seen_yet_is_written_at_the_end(tmp_path, state, monkeypatch):
    saving, begin = Writer(tmp_path, keep=3), threading.Event()
    run = saving._run
    monkeypatch.setattr(saving, "_run", lambda: (begin.wait(20), run()))
    saving.save(state, {})
    closing = threading.Thread(target=saving.close)
    closing.start()
    wait_for(lambda: saving._closed)
    begin.set()
    closing.join(20)
    assert checkpoint.steps_in(tmp_path) == [3]


def test_a_refused_one_does_not_keep_the_end_waiting(tmp_path, state, capfd):
    folder = tmp_path / "checkpoints"
    folder.write_text("in the way")
    saving = Writer(folder, keep=3)
    saving.save(state, {})
    wait_for(lambda: "tries again" in capfd.readouterr().err)
    saving.close()
    assert capfd.readouterr().err == ""


def test_what_must_be_on_the_disk_before_may_refuse_too(tmp_path, state):
    def refuse(step):
        raise UserError("metrics.jsonl: cannot be written")

    saving = Writer(tmp_path, keep=3, before=refuse)
    saving.save(state, {})
    with pytest.raises(UserError, match="metrics.jsonl"):
        saving.finish()
    saving.close()
    assert os.listdir(tmp_path) == []


def test_a_defect_of_ours_is_raised_in_the_training(tmp_path, state):
    saving = Writer(tmp_path, keep=3, before=lambda step: step / 0)
    saving.save(state, {})
    with pytest.raises(ZeroDivisionError):
        saving.finish()
    with pytest.raises(ZeroDivisionError):
        saving.save(state, {})
    saving.close()


def test_the_best_and_some_for_ever_stay(tmp_path, state):
    saving = Writer(tmp_path, keep=1, stretch=lambda step: step // 4)
    state.progress.best_step = 5
    while state.progress.step < 12:
        saving.save(state, {})
        move(state)
    saving.finish()
    saving.close()
    assert checkpoint.steps_in(tmp_path) == [4, 5, 8, 11]
    assert sorted(os.listdir(tmp_path)) == ["00000004", "00000005", "00000008", "00000011"]
