from __future__ import annotations

import time

import pytest

from distgan.config.duration import parse_duration
from distgan.periodic import Clock, Periodic


def periodic(every: str) -> Periodic:
    return Periodic.of(parse_duration(every), 250, lambda: None)


@pytest.mark.parametrize(
    ("every", "due"),
    [("3 steps", [3, 6, 9]), ("1 steps", list(range(1, 11))), ("1 kimg", [4, 8]), ("1.1 kimg", [5, 10]), ("1 min", [])],
)
def test_steps_and_images_are_due_by_the_step(every, due):
    assert [step for step in range(1, 11) if periodic(every).is_due(step)] == due


def test_a_time_is_late_by_the_clock_and_steps_never_are():
    assert [periodic("1 min").is_late(seconds) for seconds in (0, 59.9, 60, 61)] == [False, False, True, True]
    assert not periodic("3 steps").is_late(1e9)


def test_the_action_is_kept():
    done = []
    Periodic.of(parse_duration("1 steps"), 1, lambda: done.append(1)).action()
    assert done == [1]


def test_the_clock_goes_on_from_the_starts_before():
    clock = Clock(before=100.0)
    time.sleep(0.02)
    assert 100.02 <= clock.seconds() < 101 and 0.02 <= clock.since_save() < 1


def test_a_save_starts_the_time_since_it_and_not_the_clock():
    clock = Clock(before=0.0)
    time.sleep(0.05)
    clock.saved()
    assert clock.since_save() < 0.05 <= clock.seconds()
