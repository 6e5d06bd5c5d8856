"""Processes that have a watchdog and nothing else: killed, stopped, stuck, or only slow."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from distgan.watchdog import Watchdog, listen, posts, this_process, watch

GONE = 10
TICK = 0.05


def told(words: str) -> list[str]:
    return [line for line in words.splitlines() if line.startswith("distgan: ")]


class Pack:
    """Processes that have a watchdog and nothing else."""

    def __init__(self, size: int, folder: Path, behaviour: Callable, stuck_after: float) -> None:
        context = multiprocessing.get_context("fork")
        server, self.meeting = listen(alone=True)
        pipes = [context.Pipe() for _ in range(size)]
        self.said = [folder / f"said {rank}" for rank in range(size)]
        self.processes = [
            context.Process(target=_live, args=(rank, pipes, server, self, behaviour, stuck_after), daemon=True)
            for rank in range(size)
        ]
        for process in self.processes:
            process.start()
        server.close()
        members = [ours.recv() for ours, _ in pipes]
        for ours, _ in pipes:
            ours.send(members)
        for ours, _ in pipes:
            assert ours.recv() == "watched"
        for ours, _ in pipes:
            ours.send("go")

    def send(self, number: int, *ranks: int) -> None:
        for rank in ranks:
            os.kill(self.processes[rank].pid, number)

    def statuses(self, seconds: float = 20) -> list[int | None]:
        """The exit statuses; None of one that goes on."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def words(self) -> str:
        return "".join(file.read_text() for file in self.said)


def _live(rank: int, pipes, server: socket.socket, pack: Pack, behaviour: Callable, stuck_after: float) -> None:
    os.dup2(os.open(pack.said[rank], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    pipe = pipes[rank][1]
    pipe.send(this_process(rank))
    members = pipe.recv()
    if rank > 0:
        server.close()
    watchdog = Watchdog(members, rank, pack.meeting, server if rank == 0 else None, stuck_after).start()
    seen = len(members) if rank == 0 else 1
    while len(watchdog._judge._seen) < seen:
        time.sleep(0.01)
    pipe.send("watched")
    assert pipe.recv() == "go"
    behaviour(rank, watchdog)
    os._exit(0)


@pytest.fixture
def pack(tmp_path, monkeypatch):
    """Starts processes whose watchdogs are twenty times as quick."""
    for name, value in {"TICK": TICK, "GONE": GONE, "_LATE": 0.3, "_SETTLE": 0.1, "_STAY": 0.4}.items():
        monkeypatch.setattr(watch, name, value)
    started = []

    def start(size: int, behaviour: Callable, stuck_after: float = 60.0) -> Pack:
        started.append(Pack(size, tmp_path, behaviour, stuck_after))
        return started[-1]

    yield start
    for process in (process for one in started for process in one.processes):
        process.kill()
        process.join()


def wait_for_others(rank: int, watchdog: Watchdog) -> None:
    """As in a collective whose last part never comes."""
    watchdog.mark(7, "gradients", "critic", 3)
    time.sleep(600)


def stacks(words: str) -> set[int]:
    """The processes that have told their stack."""
    return {int(rank) for rank in re.findall(r"^\[process (\d)\] .*in wait_for_others$", words, re.MULTILINE)}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_is_named_once(pack, rank):
    three = pack(3, wait_for_others)
    time.sleep(1.0)  # all have said where they are
    three.send(signal.SIGKILL, rank)
    assert three.statuses() == [-signal.SIGKILL if other == rank else 1 for other in range(3)]
    (line,) = told(three.words())
    named = f"distgan: process {rank} (pid {three.processes[rank].pid} on "
    assert line.startswith(named) and "was killed, or ended without a word" in line
    assert line.endswith("step 7, critic update 3: gradients; ending the run")
    assert stacks(three.words()) == {0, 1, 2} - {rank}


def test_processes_that_are_killed_together_do_not_silence_the_others(pack):
    four = pack(4, wait_for_others)
    four.send(signal.SIGKILL, 0, 1)
    assert four.statuses() == [-signal.SIGKILL, -signal.SIGKILL, 1, 1]
    assert len(told(four.words())) == 1


def save_for(seconds: float) -> Callable:
    """Process 0 writes for so long, while its training waits for one that is gone."""

    def behaviour(rank: int, watchdog: Watchdog) -> None:
        end = time.monotonic() + seconds
        if rank == 0:
            watchdog.saves = lambda: time.monotonic() < end
            watchdog.on_end = lambda *_: os.write(2, b"on record\n")
            threading.Timer(seconds, lambda: os.write(2, b"whole\n")).start()
        wait_for_others(rank, watchdog)

    return behaviour


def test_a_checkpoint_that_is_being_written_becomes_whole_when_another_process_is_lost(pack):
    two = pack(2, save_for(4.0))
    two.send(signal.SIGKILL, 1)
    assert two.statuses() == [1, -signal.SIGKILL]
    assert two.words().index("on record\n") < two.words().index("whole\n")


def test_one_that_takes_too_long_is_not_waited_for(pack, monkeypatch):
    monkeypatch.setattr(watch, "_SAVED", 1.0)
    monkeypatch.setattr(watch, "_LAST_WORDS", 1.0)
    two = pack(2, save_for(60.0))
    two.send(signal.SIGKILL, 1)
    assert two.statuses() == [1, -signal.SIGKILL]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_stopped_process_ends_all_itself_included(pack, rank):
    three = pack(3, wait_for_others)
    time.sleep(1.0)  # all have said where they are
    three.send(signal.SIGSTOP, rank)
    assert three.statuses() == [-signal.SIGKILL if other == rank else 1 for other in range(3)]
    (line,) = told(three.words())
    assert f"process {rank} (pid" in line and "was stopped (SIGSTOP)" in line
    assert "step 7, critic update 3: gradients" in line
    assert stacks(three.words()) == {0, 1, 2} - {rank}


def hang_behind(rank: int, watchdog: Watchdog) -> None:
    if rank != 1:
        watchdog.mark(7, "reading the batch", "critic", 3)
    wait_for_others(rank, watchdog)


def test_a_process_that_hangs_while_others_wait_is_named_with_the_stacks_of_all(pack):
    three = pack(3, hang_behind, stuck_after=1.0)
    assert three.statuses() == [1, 1, 1]
    (line,) = told(three.words())
    assert "process 1 (pid" in line and "has stopped moving" in line and "train.stuck_after" in line
    assert stacks(three.words()) == {0, 1, 2}
    assert three.said[1].read_text().startswith("[process 1] process 1, which has not moved")


def test_when_no_process_is_behind_none_is_blamed(pack):
    two = pack(2, wait_for_others, stuck_after=1.0)
    assert two.statuses() == [1, 1]
    (line,) = told(two.words())
    assert (
        "none is behind" in line and "network between them or something else" in line and stacks(two.words()) == {0, 1}
    )


def pause_and_leave(rank: int, watchdog: Watchdog) -> None:
    """Far more ticks than a stopped process has; rank 0, which the others speak with, is the first to go."""
    watchdog.mark(1, "drawing samples")
    time.sleep(3 * GONE * TICK)
    watchdog.mark(2, "closing")
    if rank == 0:
        watchdog.close()
        os._exit(0)
    time.sleep(3 * GONE * TICK)
    watchdog.close()


def test_long_pauses_and_ordinary_ends_are_no_alarm(pack):
    three = pack(3, pause_and_leave)
    assert three.statuses() == [0, 0, 0] and three.words() == ""


def hold_pythons_lock(rank: int, watchdog: Watchdog) -> None:
    """As a library does that writes a large file."""
    watchdog.mark(1, "saving a checkpoint")
    if rank == 1:
        ctypes.PyDLL(None).usleep(int(4 * GONE * TICK * 1e6))
    time.sleep(5 * GONE * TICK)
    watchdog.close()


def test_a_process_that_is_busy_and_cannot_answer_is_waited_for(pack):
    two = pack(2, hold_pythons_lock)
    assert two.statuses() == [0, 0] and two.words() == ""


def work_for_long(rank: int, watchdog: Watchdog) -> None:
    watchdog.mark(1, "drawing samples")
    time.sleep(5)
    watchdog.close()


def test_a_job_that_is_suspended_as_a_whole_goes_on(pack, monkeypatch):
    """One machine somewhat earlier than the other, and later again: both together are longer than a stopped process
    is given."""
    monkeypatch.setattr(watch, "GONE", 40)
    two = pack(2, work_for_long)
    two.send(signal.SIGSTOP, 1)
    time.sleep(1.3)
    two.send(signal.SIGSTOP, 0)
    time.sleep(0.8)
    two.send(signal.SIGCONT, 0)
    time.sleep(1.2)
    two.send(signal.SIGCONT, 1)
    assert two.statuses() == [0, 0] and two.words() == ""


def fail_or_ask(rank: int, watchdog: Watchdog) -> None:
    watchdog.mark(3, "reading the batch", "critic", 1)
    if rank == 2:
        watchdog.failed()
        os._exit(1)
    line = watchdog.lost()
    os.write(2, f"distgan: {line}\n".encode() if line else b"" if line == "" else b"distgan: unknown\n")


def test_one_that_tells_its_failure_is_not_said_to_be_killed(pack):
    three = pack(3, fail_or_ask)
    assert three.statuses() == [0, 0, 1]
    (line,) = told(three.words())
    assert re.fullmatch(r"distgan: process 2 \(pid \d+ on .*\) has failed; see what it said", line)


def ask_in_vain(rank: int, watchdog: Watchdog) -> None:
    os.write(2, f"{watchdog.lost()}\n".encode())


def test_nothing_is_said_where_nothing_is_known(pack, monkeypatch):
    monkeypatch.setattr(watch, "_ASK", 0.3)
    two = pack(2, ask_in_vain)
    two.statuses()
    assert "None\n" in two.words()


def test_a_stranger_at_the_door_does_no_harm(pack):
    two = pack(2, pause_and_leave)
    for words in (b"GET / HTTP/1.1\r\n\r\n", b'{"word": "guess", "rank": 1}\n', b'{"rank": 1}\n', b"[]\n", b""):
        with socket.create_connection(("127.0.0.1", two.meeting.port)) as stranger:
            stranger.sendall(words)
    assert two.statuses() == [0, 0] and two.words() == ""


def test_one_that_cannot_reach_process_0_says_that_it_is_unwatched(monkeypatch, capsys):
    monkeypatch.setattr(watch, "TICK", TICK)
    monkeypatch.setattr(posts, "_PATIENCE", 2.0)
    server, meeting = listen(alone=True)
    server.close()  # nobody listens any more, as behind a firewall
    me = this_process(0)
    watchdog = Watchdog([me, replace(me, rank=1, machine="another")], 1, meeting, None, 60.0).start()
    time.sleep(10 * TICK)
    watchdog.close()
    line = f"distgan: process 1 goes on unwatched: it cannot reach process 0 at .*, port {meeting.port} "
    assert re.fullmatch(line + r"\(a firewall\?\)\n", capsys.readouterr().err)
