"""Durations are values with a unit: "20 steps", "500 kimg", "15 min"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
_UNITS = {"step": "steps", "steps": "steps", "kimg": "kimg", "s": "s", "min": "min", "h": "h"}
_SECONDS = {"s": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Duration:
    """An amount of training.

    `unit` is `steps` (critic_steps critic updates and one generator update each), `kimg` (thousand real images shown
    to the critic) or, where a wall-clock time makes sense, `s`, `min` or `h`.
    """

    amount: float
    unit: str

    def __str__(self) -> str:
        whole = self.amount == int(self.amount)
        return f"{int(self.amount) if whole else format(Decimal(repr(self.amount)), 'f')} {self.unit}"

    def steps(self, images_per_step: int) -> int:
        """The number of steps, rounded up. Raises ValueError for a wall-clock duration."""
        if self.unit == "steps":
            return math.ceil(self.amount)
        if self.unit == "kimg":
            return math.ceil(self.images / images_per_step)
        raise ValueError(f"{self} is a time, not a number of steps")

    @property
    def images(self) -> Fraction:
        """The number of images of a duration in kimg, exact: 16.1 kimg are 16,100."""
        return Fraction(repr(self.amount)) * 1000

    @property
    def seconds(self) -> float | None:
        """The wall-clock seconds, or None for a duration counted in steps or images."""
        return self.amount * _SECONDS[self.unit] if self.unit in _SECONDS else None


_ANY = 'a duration: a number and a unit, such as "20 steps", "500 kimg" or "15 min"'
_PROGRESS = 'a duration in steps or kimg, such as "20 steps" or "500 kimg"'
_TIME = 'a wall-clock time: a number and s, min or h, such as "90 s", "15 min" or "23 h"'


def parse_duration(value: Any, form: str = _ANY) -> Duration:
    """A Duration from its text. Raises ValueError naming the `form`."""
    if isinstance(value, Duration):
        return value
    match = _FORM.fullmatch(value) if isinstance(value, str) else None
    if not match or match[2] not in _UNITS:
        raise ValueError(form)
    if float(match[1]) == 0:
        raise ValueError(f"longer than nothing: {form}")
    return Duration(float(match[1]), _UNITS[match[2]])


def _parse_progress(value: Any) -> Duration:
    duration = parse_duration(value, _PROGRESS)
    if duration.seconds is not None:
        raise ValueError(_PROGRESS)
    if duration.unit == "steps" and duration.amount != int(duration.amount):
        raise ValueError("a whole number of steps")
    return duration


def _parse_time(value: Any) -> Duration:
    duration = parse_duration(value, _TIME)
    if duration.seconds is None:
        raise ValueError(_TIME)
    return duration


_as_text = PlainSerializer(str)
_schema = WithJsonSchema({"type": "string"})
Progress = Annotated[Duration, BeforeValidator(_parse_progress), _as_text, _schema]
"""A duration that does not depend on the clock: steps or kimg."""
AnyDuration = Annotated[Duration, BeforeValidator(parse_duration), _as_text, _schema]
"""A duration in steps, kimg, or wall-clock time."""
Time = Annotated[Duration, BeforeValidator(_parse_time), _as_text, _schema]
"""A wall-clock time."""
