"""A slow view never holds up a run."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from distgan.tracking import background
from distgan.tracking.background import Background
from distgan.tracking.tracker import Tracker


class Slow:
    """Takes what it is told into `told`, once `free` is set; `fails` says at which call it raises."""

    def __init__(self, fails: str = "", free: bool = True):
        self.told, self.fails, self.free, self.abandoned = [], fails, threading.Event(), False
        if free:
            self.free.set()

    def begin(self):
        self._take("begin")

    def _take(self, what: str, *arguments):
        self.free.wait(10)
        if what == self.fails:
            raise ConnectionError("the server\nis gone")
        self.told.append((what, *arguments))

    def metrics(self, line):
        self._take("metrics", line["step"])

    def picture(self, name, path, step):
        self._take("picture", name, step)

    def checkpoint(self, path):
        self._take("checkpoint", path.name)

    def rewind(self, step):
        self._take("rewind", step)

    def close(self, status):
        self._take("close", status)

    def abandon(self):
        self.abandoned = True
        self.free.set()


def use(sink) -> float:
    """Tells all there is to tell; how long that took, the end left out, seconds."""
    began = time.monotonic()
    view = Background("W&B", sink, "later")
    for step in range(1, 6):
        view.metrics({"step": step})
    view.picture("samples", Path("x.png"), 5)
    view.checkpoint(Path("00000005"))
    view.rewind(5)
    took = time.monotonic() - began
    view.close("finished")
    return took


def test_everything_comes_in_its_order(capsys):
    sink = Slow()
    use(sink)
    assert sink.told == [
        ("begin",),
        *(("metrics", step) for step in range(1, 6)),
        ("picture", "samples", 5),
        ("checkpoint", "00000005"),
        ("rewind", 5),
        ("close", "finished"),
    ]
    assert capsys.readouterr().err == "" and not sink.abandoned


@pytest.mark.parametrize("where", ["begin", "metrics", "picture", "close"])
def test_what_it_raises_is_told_once_and_ends_it_alone(capsys, where):
    began = time.monotonic()
    use(Slow(where))
    assert capsys.readouterr().err == (
        "distgan: W&B: ConnectionError: the server; metrics.jsonl has everything, later\n"
    )
    assert time.monotonic() - began < 2


def test_one_that_never_comes_back_is_not_waited_for(monkeypatch, capsys):
    monkeypatch.setitem(background.CLOSE_SECONDS, "finished", 0.2)
    sink, began = Slow(free=False), time.monotonic()
    took = use(sink)
    assert took < 0.1 and time.monotonic() - began < 2 and sink.abandoned
    assert capsys.readouterr().err.count("did not take everything within 0 s; metrics.jsonl has everything") == 1


def test_views_that_never_come_back_are_waited_for_together(monkeypatch):
    monkeypatch.setitem(background.CLOSE_SECONDS, "preempted", 1.0)
    sinks = [Slow(free=False), Slow(), Slow(free=False)]
    tracker, began = Tracker([Background("W&B", sink, "later") for sink in sinks]), time.monotonic()
    tracker.close("preempted")
    assert 0.9 < time.monotonic() - began < 1.7
    assert [sink.abandoned for sink in sinks] == [True, False, True] and ("close", "preempted") in sinks[1].told


def test_a_queue_that_is_full_closes_it_and_what_it_has_is_a_beginning(monkeypatch, capsys):
    monkeypatch.setattr(background, "ROOM", 3)
    sink = Slow(free=False)
    view = Background("W&B", sink, "later")
    for step in range(1, 100):
        view.metrics({"step": step})
    sink.free.set()
    for step in range(100, 110):
        view.metrics({"step": step})
    view.close("finished")
    assert capsys.readouterr().err.count("distgan: W&B: 3 lines and pictures wait for it; it is given no more;") == 1
    assert sink.told == [("begin",), ("metrics", 1), ("metrics", 2), ("metrics", 3), ("close", "finished")]
