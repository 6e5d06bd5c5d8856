from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.config.duration import Duration, parse_duration


@pytest.mark.parametrize(
    ("text", "amount", "unit", "seconds"),
    [
        ("20 steps", 20, "steps", None),
        ("1 step", 1, "steps", None),
        (" 500kimg ", 500, "kimg", None),
        ("0.5 kimg", 0.5, "kimg", None),
        ("15 min", 15, "min", 900),
        ("1.5 h", 1.5, "h", 5400),
        ("30 s", 30, "s", 30),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, amount, unit, seconds):
    duration = parse_duration(text)
    assert (duration.amount, duration.unit, duration.seconds) == (amount, unit, seconds)


@pytest.mark.parametrize(
    "value", ["20", 20, "steps", "-1 steps", "1e3 steps", "3 weeks", "0 steps", "0.0 h", None, "1,5 h"]
)
def test_what_is_no_duration_is_refused_with_an_example(value):
    with pytest.raises(ValueError, match='"1?20? steps"|"1 steps"'):
        parse_duration(value)


@pytest.mark.parametrize(("text", "steps"), [("7 steps", 7), ("1 kimg", 4), ("0.25 kimg", 1), ("1.001 kimg", 5)])
def test_images_become_steps_rounded_up(text, steps):
    assert parse_duration(text).steps(250) == steps


@given(tenths=st.integers(1, 10**7), images=st.integers(1, 10**4))
def test_images_are_counted_exactly(tenths, images):
    """16.1 * 1000 / 100 is 161.00000000000003 in floating point: a step too many."""
    whole, tenth = divmod(tenths, 10)
    assert parse_duration(f"{whole}.{tenth} kimg").steps(images) == -(-tenths * 100 // images)


def test_a_time_has_no_steps():
    with pytest.raises(ValueError, match="15 min is a time"):
        Duration(15, "min").steps(64)


@given(amount=st.decimals("0.000001", "10000000", places=6), unit=st.sampled_from(["steps", "kimg", "s", "min", "h"]))
def test_its_text_is_read_back_as_the_same_duration(amount, unit):
    duration = parse_duration(f"{amount:f} {unit}")
    assert parse_duration(str(duration)) == duration
    assert Fraction(str(duration).split()[0]) == Fraction(repr(duration.amount))
