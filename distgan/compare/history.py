"""The history of a W&B run as lines of metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from distgan.compare.environment import of_start
from distgan.compare.run_data import settings_of
from distgan.tracking.names import HISTOGRAM

_ENVIRONMENT = "environment"
_KIND = "._type"
_ENDS = ("finished", "preempted", "failed", "stopped")


def lines_of(rows: Iterable[Mapping]) -> list[dict]:
    """Rows of a history, oldest first, as lines of metrics.jsonl; those of one step are joined, the later one wins."""
    flat = [flat_row(row) for row in rows]
    clock = "seconds" if any("seconds" in row for row in flat) else "_runtime"
    found: dict[int, dict] = {}
    for row in flat:
        step, line = step_of(row), _line(row, clock)
        if step is not None and line:
            found.setdefault(step, {"step": step}).update(line)
    return list(found.values())


def taken_apart(config: Mapping) -> tuple[dict[str, object], dict[str, str]]:
    """The config of a W&B run: the settings by key path, and the environment that distgan puts beside them."""
    settings = {key: value for key, value in config.items() if key != _ENVIRONMENT}
    environment = config.get(_ENVIRONMENT)
    return settings_of(settings) if settings else {}, of_start(environment) if environment else {}


def step_of(flat: Mapping[str, object]) -> int | None:
    """distgan's own, or else that of W&B."""
    step = flat.get("step", flat.get("_step"))
    return int(step) if isinstance(step, (int, float)) and step == step // 1 else None


def flat_row(row: Mapping, prefix: str = "") -> dict[str, object]:
    """Objects within objects as dotted names, which is how the offline file has them."""
    flat: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= flat_row(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def pictures_in(flat: Mapping[str, object]) -> dict[str, str]:
    """The files of pictures in a flat row, by the name under which they were logged."""
    names = [name.removesuffix(_KIND) for name, kind in flat.items() if name.endswith(_KIND) and kind == "image-file"]
    return {name: str(flat[f"{name}.path"]) for name in names if f"{name}.path" in flat}


def ended(status: object, otherwise: str) -> str:
    """The state of a run that has ended: the word that distgan leaves in its summary, or else W&B's."""
    return str(status) if status in _ENDS else otherwise


def _line(flat: dict[str, object], clock: str) -> dict:
    """Without its step; `clock`: the name of the seconds of training."""
    typed = tuple(name.removesuffix("_type") for name in flat if name.endswith(_KIND))
    own = {name for name in flat if name[0] != "_" and name not in ("step", "seconds") and not name.startswith(typed)}
    line = {name: number for name in sorted(own) if (number := _number(flat[name])) != ""}
    for name in (HISTOGRAM, f"{HISTOGRAM}.values"):
        if isinstance(flat.get(name), list):
            line[HISTOGRAM] = flat[name]
    if line and clock in flat:
        line["seconds"] = _number(flat[clock])
    return line


def _number(value: object) -> object:
    """None for a number that is not finite, which W&B writes as a word; the empty string for what is no number."""
    if value in ("NaN", "Infinity", "-Infinity", None):
        return None
    return value if isinstance(value, (int, float)) else ""
