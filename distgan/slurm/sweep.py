"""An array of runs: every combination of some keys' values, each with a folder named after them."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from distgan.config.yaml_files import parse_yaml, read_yaml
from distgan.errors import ConfigError

MOST = 1000
"""Elements of an array; as many as Slurm takes unless it is told otherwise."""
_RANGE = re.compile(r"(\d+)-(\d+)(?::(\d+))?")


class Element(NamedTuple):
    """One run of an array."""

    name: str
    """Of its folder in that of the array: `seed-0_lr-1e-4`."""
    overrides: list[str]
    """`key.path=value` of each key of the array."""


def elements(words: Sequence[str], file: Path | None = None) -> list[Element]:
    """The runs of `KEY=VALUES ...`, the last key's values changing fastest. VALUES are separated by commas; of whole
    numbers `a-b` and `a-b:step` are ranges, b included. A key with one value is laid on all, and in no name. `file`: a
    sweep of W&B, whose grid comes first; keys of `words` replace its own.

    Raises ConfigError with all that is wrong.
    """
    given = {**(grid_of(file) if file else {}), **_given(words)}
    sweep = {key: values for key, values in given.items() if len(values) > 1}
    if not sweep:
        asked = f"--array {words[0]}" if words else f"--array-file {file}"
        raise ConfigError(f"{asked}: one value makes no array; give several, such as seed=0-2, or no --array")
    if "run_dir" in sweep:
        raise ConfigError("--array run_dir=...: one folder holds those of all runs; give one")
    count = math.prod(map(len, sweep.values()))
    if count > MOST:
        raise ConfigError(f"--array: {count} runs; at most {MOST} fit into one array")
    fixed = [f"{key}={values[0]}" for key, values in given.items() if key not in sweep]
    short = _short_names(list(sweep))
    found = []
    for values in itertools.product(*sweep.values()):
        pairs = list(zip(sweep, values, strict=True))
        name = "_".join(f"{short[key]}-{_safe(value)}" for key, value in pairs)
        found.append(Element(name, [*fixed, *(f"{key}={value}" for key, value in pairs)]))
    again = [name for name, times in Counter(element.name for element in found).items() if times > 1]
    if again:
        raise ConfigError(f"--array: {again[0]} would be the folder of several runs; give values that differ more")
    return found


def grid_of(file: Path) -> dict[str, list[str]]:
    """The values of each key in a sweep of W&B, as texts of overrides; without the keys of tracking.wandb, which are
    for the sweep alone. Raises ConfigError for a file that is no grid."""
    sweep = read_yaml(file)
    parameters = sweep.get("parameters")
    if sweep.get("method") != "grid" or not isinstance(parameters, dict):
        raise ConfigError(f"--array-file {file}: needs method: grid, and parameters with a value or values each")
    grid = {}
    for key, asked in parameters.items():
        values = (
            asked.get("values", [asked["value"]] if "value" in asked else None) if isinstance(asked, dict) else None
        )
        if not isinstance(values, list) or not values:
            raise ConfigError(f"--array-file {file}: {key}: needs a value or a list of values; a grid has nothing else")
        if not key.startswith("tracking.wandb."):
            grid[key] = [_text(value) for value in values]
    return grid


def _text(value: object) -> str:
    """A value as the right side of an override."""
    if isinstance(value, str) and parse_yaml(value, "value") == value:
        return value
    return json.dumps(value)


def _given(words: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key. Raises ConfigError with all that is wrong."""
    mistakes: list[str] = []
    given: dict[str, list[str]] = {}
    for word in words:
        try:
            key, values = _values(word)
            if key in given:
                raise ConfigError(f"--array {word}: {key} is given twice")
            given[key] = values
        except ConfigError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return given


def _values(word: str) -> tuple[str, list[str]]:
    key, equals, text = word.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--array {word}: not KEY=VALUES; write for example seed=0-2 or seed=0,1,2")
    values = [value for part in _split(text) for value in _range(part, word)]
    if not all(values):
        raise ConfigError(f"--array {word}: a value is empty")
    twice = [value for value, times in Counter(values).items() if times > 1]
    if twice:
        raise ConfigError(f"--array {word}: {twice[0]} is given twice")
    return key, values


def _split(text: str) -> list[str]:
    """At the commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _range(part: str, word: str) -> list[str]:
    found = _RANGE.fullmatch(part)
    if not found:
        return [part]
    first, last, step = int(found[1]), int(found[2]), int(found[3] or 1)
    if first > last or not step:
        raise ConfigError(f"--array {word}: {part} is an empty range; write it upwards, e.g. 0-2 or 0-8:4")
    if (last - first) // step >= MOST:
        raise ConfigError(f"--array {word}: {part} are more than {MOST} values")
    return [str(value) for value in range(first, last + 1, step)]


def _short_names(keys: list[str]) -> dict[str, str]:
    """Of each key as many of its last parts as tell it from the others."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        others = [other for other in keys if other != key]
        names[key] = next((end for end in ends if not any(f".{o}".endswith(f".{end}") for o in others)), key)
    return names


def _safe(value: str) -> str:
    """A value as part of a file's name."""
    return re.sub(r"[^\w.+-]+", "-", value.strip("[]{}\"' "), flags=re.ASCII)


def numbered(file: Path, names: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """The lines that a file of elements is to have, and the number of each name in it: its line, from 0. The lines that
    it has stay where they are, since elements in the queue are found by them."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    lines += [name for name in names if name not in lines]
    return lines, {name: lines.index(name) for name in names}
