"""Trainings of which one process is killed, stopped or stuck, and what becomes of the others."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launching import ROOT, TINY, assert_same_weights, command, lines, options, train


def told(words: str) -> list[str]:
    return [line for line in words.splitlines() if line.startswith("distgan: ")]


@pytest.fixture
def tiny(shapes_shards, tmp_path):
    def arguments(name: str, *overrides: str) -> list[str]:
        return ["--config", str(TINY), f"data.shards={shapes_shards}", f"run_dir={tmp_path / name}", *overrides]

    return arguments


@pytest.fixture
def launched():
    """Starts a training that is gone after the test."""
    started = []

    def start(words: list[str]) -> Training:
        started.append(Training(words))
        return started[-1]

    yield start
    for training in started:
        training.kill()


class Training:
    """A training under `accelerate launch`, and its processes by rank."""

    def __init__(self, words: list[str]) -> None:
        settings = options(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.launcher = subprocess.Popen(
            words, **{k: v for k, v in settings.items() if k not in ("capture_output", "timeout")}
        )
        self.ranks: dict[int, int] = {}

    def reaches(self, run: Path, count: int) -> None:
        """Waits until the run has written so many lines."""
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or len(lines(run)) < count:
            assert self.launcher.poll() is None and time.monotonic() < deadline, self.launcher.communicate()[1]
            time.sleep(0.01)
        self._find()

    def starts(self, count: int) -> None:
        """Waits until there are so many processes."""
        deadline = time.monotonic() + 60
        while len(self.ranks) < count:
            assert self.launcher.poll() is None and time.monotonic() < deadline, self.launcher.communicate()[1]
            time.sleep(0.01)
            self._find()

    def _find(self) -> None:
        found = subprocess.run(["pgrep", "-P", str(self.launcher.pid)], capture_output=True, text=True).stdout.split()
        for pid in found:
            environment = ""
            with contextlib.suppress(OSError):  # a child that has been gone since
                environment = Path(f"/proc/{pid}/environ").read_text()
            rank = re.search(r"\0RANK=(\d+)\0", environment)
            if rank:  # not before it has become the training
                self.ranks[int(rank[1])] = int(pid)

    def ends(self, seconds: float = 60) -> str:
        """What it said, once all of it has ended."""
        _, errors = self.launcher.communicate(timeout=seconds)
        assert not [pid for pid in self.ranks.values() if Path(f"/proc/{pid}").exists()], errors
        return errors

    def kill(self) -> None:
        for pid in self.ranks.values():
            if "train.py" in _command_of(pid) or "hanging.py" in _command_of(pid):
                os.kill(pid, signal.SIGKILL)
        self.launcher.kill()
        self.launcher.communicate()


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_kill_9_of_process_0_ends_the_job_and_its_record(tiny, tmp_path, launched):
    training = launched(command(*tiny("run", "train.length=5000 steps"), processes=2))
    training.reaches(tmp_path / "run", 3)
    killed = training.ranks[0]
    os.kill(killed, signal.SIGKILL)
    errors = training.ends(30)
    (line,) = told(errors)
    assert f"process 0 (pid {killed} on" in line and "was killed" in line
    assert training.launcher.returncode != 0
    assert (tmp_path / "run" / "status").read_text() == "failed\n"


def test_kill_9_while_the_processes_look_for_each_other_ends_the_job_sooner_than_torchrun_would(tiny, launched):
    training = launched(command(*tiny("run", "train.length=5000 steps"), processes=2))
    training.starts(2)
    time.sleep(1.0)  # the handlers of signals are there, torch is not yet
    os.kill(training.ranks[1], signal.SIGKILL)
    errors = training.ends(25)
    assert training.launcher.returncode != 0
    assert told(errors) == ["distgan: process 0: another process has ended before the training began"]


def test_kill_9_of_a_worker_with_max_restarts_goes_on_to_the_same_bits(tiny, tmp_path, launched):
    often = ["checkpoint.every=5 steps", "train.length=40 steps"]
    train(*tiny("calm", *often), processes=2)
    words = command(*tiny("killed", *often), processes=2)
    place = words.index("--num_processes")
    training = launched([*words[:place], "--max_restarts", "1", *words[place:]])
    training.reaches(tmp_path / "killed", 12)
    os.kill(training.ranks[1], signal.SIGKILL)
    errors = training.ends(120)
    assert training.launcher.returncode == 0, errors
    line, *_ = told(errors)
    assert f"process 1 (pid {training.ranks[1]} on" in line and "the same command goes on from step" in errors
    assert (tmp_path / "killed" / "status").read_text() == "finished\n"
    assert [line["step"] for line in lines(tmp_path / "killed")] == list(range(1, 41))
    assert_same_weights(tmp_path / "calm", tmp_path / "killed", 40)


HANGING = """
import os, sys, threading, time
from distgan.trainer import Trainer
read = Trainer._read
def hanging(self, phase, repeat):
    if os.environ["RANK"] == "1" and self.progress.step == 4:
        time.sleep(3)
    if os.environ["RANK"] == "1" and self.progress.step == 8:
        time.sleep(600)
    return read(self, phase, repeat)
Trainer._read = hanging
flush = os.fsync
def slow(file):
    time.sleep(1.2 * (threading.current_thread().name == "checkpoint"))
    flush(file)
os.fsync = slow
from distgan.train import main
sys.exit(main())
"""


def test_a_read_that_hangs_ends_the_run_with_all_stacks_and_a_slow_one_does_not(tiny, tmp_path, launched):
    (tmp_path / "hanging.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{HANGING}")
    words = command(*tiny("run", "train.stuck_after=6 s", "checkpoint.every=8 steps"), processes=2)
    words[words.index(str(ROOT / "distgan" / "train.py"))] = str(tmp_path / "hanging.py")
    training = launched(words)
    training.reaches(tmp_path / "run", 8)
    errors = training.ends()
    line, onward = told(errors)
    assert onward == "distgan: the same command goes on from step 8"
    assert f"process 1 (pid {training.ranks[1]} on" in line and "has stopped moving" in line
    assert "step 9, critic update 1: reading the batch" in line
    assert "in hanging\n" in errors and "[process 1]     time.sleep(600)" in errors
    assert "[process 0] process 0, at step 9, critic update 1: gradients" in errors
    checkpoints = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert checkpoints == ["00000008"], "the one that was being written is whole"
    assert (tmp_path / "run" / "status").read_text() == "failed\n"


def test_a_second_interrupt_ends_a_process_that_waits_in_a_collective(tiny, tmp_path, launched):
    training = launched(command(*tiny("run", "train.length=5000 steps"), processes=2))
    training.reaches(tmp_path / "run", 3)
    os.kill(training.ranks[1], signal.SIGSTOP)
    time.sleep(1)  # by now it waits for the other one
    for _ in range(2):
        os.kill(training.ranks[0], signal.SIGINT)
        time.sleep(1.2)  # sooner it would be the first one passed on
    deadline = time.monotonic() + 10
    while (tmp_path / "run" / "status").read_text() != "failed\n":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(training.ranks[1], signal.SIGCONT)
    errors = training.ends()
    assert "distgan: interrupted; start again to go on from the newest checkpoint" in errors
