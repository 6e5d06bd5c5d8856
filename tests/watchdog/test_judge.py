"""What is concluded from what was heard, and who a process is."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from distgan.watchdog import this_process
from distgan.watchdog.judge import Judge, Verdict
from distgan.watchdog.members import Member, neighbour


@pytest.fixture
def judge() -> Judge:
    """Of three processes, which are all at their first mark."""
    judge = Judge(gone=5, stuck=20)
    for rank in range(3):
        judge.hear(rank, 1, f"place of {rank}")
    return judge


def after(judge: Judge, ticks: int, *, hear: tuple[int, ...] = (), stopped: int | None = None) -> Verdict | None:
    """The first verdict in so many ticks, in which these processes say where they are without having moved."""
    for _ in range(ticks):
        for rank in hear:
            judge.hear(rank, judge._seen[rank].marks, f"place of {rank}")
        if stopped is not None:
            judge.see(stopped, True)
        if (verdict := judge.tick()) is not None:
            return verdict
    return None


def test_a_stopped_process_is_given_some_time_and_then_named(judge):
    assert after(judge, 4, hear=(0, 2), stopped=1) is None
    assert after(judge, 2, hear=(0, 2), stopped=1) == Verdict("stopped", {1: "place of 1"})


def test_silence_alone_is_no_alarm_before_the_time_of_a_long_pause(judge):
    assert after(judge, 19, hear=(0, 2)) is None
    assert after(judge, 1, hear=(0, 2)) == Verdict("silent", {1: "place of 1"})


def test_those_that_are_behind_are_the_ones_that_have_stopped_moving(judge):
    for rank in (0, 2):
        judge.hear(rank, 2, f"place of {rank}")
    assert after(judge, 19, hear=(0, 1, 2)) is None
    assert after(judge, 1, hear=(0, 1, 2)) == Verdict("stuck", {1: "place of 1"})


def test_any_movement_of_anybody_is_movement_of_all(judge):
    assert after(judge, 15, hear=(0, 1, 2)) is None
    judge.hear(2, 2, "the next")
    assert after(judge, 19, hear=(0, 1, 2)) is None


def test_when_nobody_is_behind_the_network_is_to_blame(judge):
    verdict = after(judge, 30, hear=(0, 1, 2))
    assert verdict.kind == "network" and set(verdict.culprits) == {0, 1, 2}


def test_what_marks_nothing_is_not_judged_by_its_movement():
    judge = Judge(gone=5, stuck=20)
    judge.hear(0, 0, "a comparison of hours")
    judge.hear(1, 0, "a comparison of hours")
    assert after(judge, 100, hear=(0, 1)) is None


def test_a_judge_that_has_stood_still_itself_begins_afresh(judge):
    assert after(judge, 4, stopped=1) is None
    judge.afresh()
    assert after(judge, 4, stopped=1) is None


def test_one_that_is_done_is_not_missed(judge):
    assert judge.left(1, "done") is None
    assert judge.left(1, "gone") is None, "its line closes when it ends"
    assert judge.left(2, "gone") == Verdict("gone", {2: "place of 2"})


def test_every_process_of_a_machine_is_seen_by_one_other():
    me = this_process(0)
    machines = ["a", "a", "b", "a", "b", "c"]
    members = [replace(me, rank=rank, machine=machine) for rank, machine in enumerate(machines)]
    seen = [neighbour(members, rank) for rank in range(6)]
    assert [other and other.rank for other in seen] == [1, 3, 4, 0, 2, None]


def test_a_pid_that_belongs_to_a_later_process_is_not_ended():
    child = subprocess.Popen(["sleep", "60"])
    try:
        me = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
        member = Member(1, child.pid, me, "here", "here")
        replace(member, started=str(int(me) - 1)).end()
        time.sleep(0.1)
        assert child.poll() is None
        member.end()
        assert child.wait(10) == -signal.SIGKILL
    finally:
        child.kill()
