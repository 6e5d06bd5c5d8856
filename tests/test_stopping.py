"""Real signals to real processes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

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
print("left", signals.received, flush=True)
ignore_stop_signals()
if sys.argv[1] == "leave":
    time.sleep(float(sys.argv[2]) if len(sys.argv) > 2 else 0)
"""


@pytest.fixture
def loop():
    started = []

    def call(*manner: str) -> subprocess.Popen:
        command = [sys.executable, "-c", LOOP, *manner]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_lets_the_step_end_and_then_leave(loop, number):
    process = loop("leave")
    process.send_signal(number)
    out, errors = process.communicate(timeout=10)
    assert (process.returncode, out, errors) == (0, "left True\n", "")


def test_a_second_interrupt_stops_at_once(loop):
    process = loop("stay")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "noted\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors


def test_a_second_termination_changes_nothing(loop):
    process = loop("stay")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "noted\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "noted\n" and process.poll() is None


def test_a_signal_after_the_run_does_not_turn_it_into_a_failure(loop):
    process = loop("leave", "2")
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == "left True\n"
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=10)
    assert process.returncode == 0
