"""Amounts of data with a unit: "100 GB", "512 MB"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


@dataclass(frozen=True)
class Size:
    """An amount of data as a person wrote it, e.g. "1.5 TB"; units are powers of 1000."""

    text: str
    bytes: int

    def __str__(self) -> str:
        return self.text


def parse_size(value: Any) -> Size:
    """A Size from its text. Raises ValueError naming the form."""
    if isinstance(value, Size):
        return value
    match = _FORM.fullmatch(value) if isinstance(value, str) else None
    if not match or match[2].upper() not in _UNITS or not float(match[1]):
        raise ValueError('an amount of data: a number and a unit, such as "500 MB", "100 GB" or "1.5 TB"')
    unit = match[2].upper()
    return Size(f"{match[1]} {unit}", int(Fraction(match[1]) * _UNITS[unit]))


AnySize = Annotated[Size, BeforeValidator(parse_size), PlainSerializer(str), WithJsonSchema({"type": "string"})]
"""A size in MB, GB or TB."""
