from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.schedules import ema_decay, learning_rate

SHARE = st.floats(0, 1)
START = st.floats(0, 0.999)


@given(progress=SHARE, start=START)
def test_without_decay_the_rate_stays(progress, start):
    assert learning_rate(0.3, "none", start, progress) == 0.3


@pytest.mark.parametrize(
    ("decay", "start", "progress", "share"),
    [
        ("linear", 0.0, 0.25, 0.75),
        ("linear", 0.5, 0.5, 1),
        ("linear", 0.5, 0.75, 0.5),
        ("linear", 0.0, 1, 0),
        ("linear", 0.0, 1.5, 0),
        ("cosine", 0.0, 0.5, 0.5),
        ("cosine", 0.0, 1 / 3, 0.75),
        ("cosine", 0.5, 0.75, 0.5),
        ("cosine", 0.0, 1, 0),
    ],
)
def test_the_rate_falls_to_zero_at_the_end(decay, start, progress, share):
    assert learning_rate(2e-4, decay, start, progress) == pytest.approx(2e-4 * share, abs=1e-19)


@given(decay=st.sampled_from(["linear", "cosine"]), start=START, one=SHARE, two=SHARE)
def test_the_rate_never_rises_and_is_whole_until_the_start(decay, start, one, two):
    early, late = sorted((one, two))
    rates = [learning_rate(1.0, decay, start, progress) for progress in (early, late)]
    assert 1 >= rates[0] >= rates[1] >= 0
    if early <= start:
        assert rates[0] == 1


@given(half_life=st.floats(0.1, 100), images=st.integers(1, 1000))
def test_after_its_half_life_half_of_the_average_is_left(half_life, images):
    updates = half_life * 1000 / images
    assert ema_decay(half_life, 0, images, 10**9) ** updates == pytest.approx(0.5)


def test_early_the_half_life_is_a_share_of_what_was_seen():
    assert ema_decay(10, 0.05, 100, 2000) == 0.5
    assert ema_decay(10, 0.05, 100, 10**6) == 0.5 ** (100 / 10_000)
    assert ema_decay(10, 0.05, 100, 200_000) == ema_decay(10, 0, 100, 200_000)


def test_no_half_life_is_no_average():
    assert ema_decay(0, 0.05, 100, 1000) == ema_decay(0, 0, 100, 1000) == 0


@given(images=st.integers(1, 10**6), seen=st.integers(1, 10**9), rampup=st.floats(0, 1), half_life=st.floats(0, 1000))
def test_a_decay_is_between_zero_and_one(images, seen, rampup, half_life):
    assert 0 <= ema_decay(half_life, rampup, images, seen) <= 1 and math.isfinite(ema_decay(1, 0, images, seen))
