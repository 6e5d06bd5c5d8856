"""Which checkpoints stay."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.checkpoint import kept, prune


def of(every):
    """Stretches of so many steps."""
    return None if every is None else lambda step: step // every


STEPS = st.lists(st.integers(0, 60), min_size=1, unique=True).map(sorted)


@pytest.mark.parametrize(
    ("keep", "every", "best", "stay"),
    [
        (1, None, None, {12}),
        (2, None, 4, {4, 10, 12}),
        (1, 5, None, {6, 10, 12}),
        (9, None, None, {2, 4, 6, 8, 10, 12}),
        (1, None, 99, {12}),
    ],
)
def test_the_newest_one_of_each_stretch_and_the_best_stay(keep, every, best, stay):
    assert kept([2, 4, 6, 8, 10, 12], keep, of(every), best) == stay


@given(STEPS, st.integers(1, 5), st.integers(1, 20), st.integers(0, 60))
def test_whenever_it_is_asked_the_same_stay_for_ever(steps, keep, every, best):
    """Pruned after each save or once at the end: the same checkpoints are left."""
    have: list[int] = []
    for step in steps:
        have = sorted(kept([*have, step], keep, of(every), best if best in steps and best <= step else None))
    assert set(have) == kept(steps, keep, of(every), best if best in steps else None)
    assert set(steps[-keep:]) <= set(have)


@pytest.fixture
def folder(tmp_path):
    for step in (1000, 2000, 9000, 10000, 12000):
        (tmp_path / f"{step:08d}").mkdir()
        (tmp_path / f"{step:08d}" / "file").touch()
    for rest in (".00003000.part", ".00000500.old", "notes", ".git"):
        (tmp_path / rest).mkdir()
    (tmp_path / "00013000").write_text("a file, no checkpoint")
    return tmp_path


def test_what_is_not_ours_stays_and_what_a_killed_process_left_goes(folder):
    prune(folder, 12000, 2)
    assert sorted(os.listdir(folder)) == [".git", "00010000", "00012000", "00013000", "notes"]


def test_later_ones_than_that_just_written_were_damaged_and_go(folder):
    prune(folder, 10000, 2)
    assert sorted(os.listdir(folder)) == [".git", "00009000", "00010000", "00013000", "notes"]
