"""Real signals to real processes."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import ROOT

ANOTHER = 1.2
"""Seconds after which a SIGINT is not the first one passed on."""

LOOP = """
import sys, time
from distgan.stopping import StopSignals, ignore_stop_signals
signals = StopSignals().install()
print("ready", flush=True)
for _ in range(2000):
    time.sleep(0.01)
    if signals.received and sys.argv[1] == "leave":
        break
    if signals.received:
        print("noted", flush=True)
print("left", signals.reason, flush=True)
ignore_stop_signals()
if sys.argv[1] == "leave":
    time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 0)
"""


@pytest.fixture
def loop():
    started = []

    def call(*manner: str, code: str = LOOP) -> subprocess.Popen:
        command = [sys.executable, "-c", code, *manner]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_lets_the_step_end_and_then_leave(loop, number):
    process = loop("leave")
    process.send_signal(number)
    out, errors = process.communicate(timeout=10)
    assert (process.returncode, out, errors) == (0, f"left {number.name}\n", "")


def test_what_nohup_ignores_stays_ignored(loop, monkeypatch):
    started = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **how: started(["nohup", *words], **how))
    process = loop("leave")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[0] == "left SIGTERM\n"


def test_a_second_interrupt_stops_at_once_and_one_that_comes_twice_does_not(loop):
    process = loop("stay")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "noted\n"
    process.send_signal(signal.SIGINT)  # as torchrun passes on what its processes have had already
    time.sleep(ANOTHER)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors == "distgan: interrupted; start again to go on from the newest checkpoint\n"


BLOCKED = """
import ctypes, sys
from distgan.stopping import StopSignals
signals = StopSignals().install()
def tell(): print("put down", flush=True)
def never(): ctypes.CDLL(None).pause()
signals.on_interrupt = {"tell": tell, "never": never}[sys.argv[1]]
print("ready", flush=True)
while True:
    ctypes.CDLL(None).usleep(900_000)
    ctypes.CDLL(None).select(0, None, None, None, None)
"""
"""A main thread that never comes back from C, as from a collective whose other half is missing."""


@pytest.mark.parametrize("hook", ["tell", "never"])
def test_a_second_interrupt_ends_a_process_that_does_not_come_back_from_c(loop, hook):
    process = loop(hook, code=BLOCKED)
    mask = int(re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())[1], 16)
    assert mask >> (signal.SIGINT - 1) & 1, "it is caught"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(ANOTHER)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "put down\n" if hook == "tell" else "")
    assert errors == "distgan: interrupted; start again to go on from the newest checkpoint\n"


def test_an_interrupt_after_a_termination_still_lets_the_step_end(loop):
    process = loop("stay")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "noted\n"
    process.send_signal(signal.SIGINT)
    time.sleep(ANOTHER)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_that_waits_in_vain_for_others_leaves_some_time_after_a_signal(loop, monkeypatch, processes):
    for name, value in {"RANK": "0", "WORLD_SIZE": str(processes)}.items():
        monkeypatch.setenv(name, value)
    process = loop("tell", code=f"from distgan import stopping; stopping._IN_VAIN = 1\n{BLOCKED}")
    process.send_signal(signal.SIGTERM)
    if processes == 1:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        return
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert (
        errors == "distgan: process 0: SIGTERM, and 1 s later it has not found the other processes; nothing was begun\n"
    )


LAUNCHED = """
import os, subprocess, sys
place = dict(os.environ, TORCHELASTIC_RUN_ID="1")
process = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=place, stdout=subprocess.PIPE, text=True)
assert process.stdout.readline() == "ready\\n"
"""
ORPHAN = """
import sys, time
from distgan.stopping import StopSignals
signals = StopSignals().install()
print("ready", flush=True)
end = time.monotonic() + 30
while not signals.asked and time.monotonic() < end:
    time.sleep(0.01)
print(signals.reason, file=sys.stderr, flush=True)
"""


def test_the_end_of_the_launcher_is_a_reason_to_stop():
    done = subprocess.run([sys.executable, "-c", LAUNCHED, ORPHAN], capture_output=True, text=True, timeout=30)
    assert done.stderr == "the end of its launcher\n"


def test_the_end_of_an_accelerate_that_started_one_process_is_a_reason_to_stop(tmp_path):
    (tmp_path / "orphan.py").write_text(ORPHAN)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ROOT / "launch" / "single_gpu.yaml"]
    process = subprocess.Popen([*launch, tmp_path / "orphan.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    _, errors = process.communicate(timeout=10)  # until its child is gone too
    assert errors.endswith(b"the end of its launcher\n")


def test_children_inherit_nothing():
    """A command that a process starts dies of a signal as it would anywhere."""
    code = """
import subprocess
from distgan.stopping import StopSignals
StopSignals().install()
child = subprocess.Popen(["sleep", "60"])
for _ in range(2):
    child.send_signal(2)
print(child.wait(10))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ("-2\n", "", 0)


def test_a_second_termination_changes_nothing(loop):
    process = loop("stay")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "noted\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "noted\n" and process.poll() is None


def test_a_signal_after_the_run_does_not_turn_it_into_a_failure(loop):
    process = loop("leave", "2")
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == "left SIGUSR1\n"
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=10)
    assert process.returncode == 0
