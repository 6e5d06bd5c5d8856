"""The history of a W&B run as lines of metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from distgan.tracking.names import HISTOGRAM

_KIND = "._type"


def lines_of(rows: Iterable[Mapping]) -> list[dict]:
    """Rows of a history, oldest first, as lines of metrics.jsonl; those of one step are joined, the later one wins."""
    found: dict[int, dict] = {}
    for row in rows:
        flat = flat_row(row)
        step = _whole(flat.get("step", flat.get("_step")))
        if step is not None:
            found.setdefault(step, {}).update(_line(flat, step))
    return list(found.values())


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


def _line(flat: dict[str, object], step: int) -> dict:
    typed = tuple(name.removesuffix("_type") for name in flat if name.endswith(_KIND))
    plain = {name: _number(value) for name, value in flat.items() if name[0] != "_" and not name.startswith(typed)}
    if f"{HISTOGRAM}.values" in flat:
        plain[HISTOGRAM] = flat[f"{HISTOGRAM}.values"]
    elif isinstance(flat.get(HISTOGRAM), list):
        plain[HISTOGRAM] = flat[HISTOGRAM]
    if "_runtime" in flat:
        plain.setdefault("seconds", flat["_runtime"])
    return {**{name: value for name, value in plain.items() if value != ""}, "step": step}


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, (int, float)) and value == value // 1 else None


def _number(value: object) -> object:
    """None for a number that is not finite, which W&B writes as a word; the empty string for what is no number."""
    if value in ("NaN", "Infinity", "-Infinity", None):
        return None
    return value if isinstance(value, (int, float)) else ""
