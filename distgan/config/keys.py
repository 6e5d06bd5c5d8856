"""The keys of a config as data: their help, and which one a person meant."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from distgan.config.schema import Config


def nearest_key(key: str) -> str | None:
    """The known key most like `key`, by its last part within the same section first."""
    known = list(known_keys())
    section, _, last = key.rpartition(".")
    inside = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == section}
    found = difflib.get_close_matches(last, inside, 1, 0.6)
    if found:
        return inside[found[0]]
    anywhere = difflib.get_close_matches(key, known, 1, 0.6)
    if anywhere:
        return anywhere[0]
    same = [k for k in known if k.rpartition(".")[2] == last]
    return same[0] if same else None


def known_keys() -> dict[str, str]:
    """Every key of a config with its help, sections included."""
    return {key: help_text for key, help_text, _ in walk_keys()}


def walk_keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(key, help, field) of every key, depth first; a key that several families share comes once for each."""
    for name, field in model.model_fields.items():
        key = prefix + name
        sections = [t for t in _types(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
        text = field.description or (sections[0].__doc__ or "" if sections else "")
        yield key, " ".join(text.split()), field
        for section in sections:
            yield from walk_keys(section, key + ".")


def family_names(section: str) -> list[str]:
    """The values that `section.name` may take."""
    return sorted({name for key, name in _tags() if key == section})


def _tags() -> Iterator[tuple[str, str]]:
    for key, _, field in walk_keys():
        if key.endswith(".name"):
            for value in typing.get_args(field.annotation):
                if isinstance(value, str):
                    yield key.removesuffix(".name"), value


def _types(annotation: Any) -> list[Any]:
    """The types of an annotation with unions opened."""
    inner = [a for a in typing.get_args(annotation) if isinstance(a, type) or typing.get_args(a)]
    return [annotation] if isinstance(annotation, type) and not inner else [t for a in inner for t in _types(a)]


def reference() -> str:
    """Every key with its default and its help, as YAML comments and lines."""
    rows: dict[str, tuple[str, str]] = {}
    for key, help_text, field in walk_keys():
        if _is_section(field.annotation):
            if field.default is None:  # a section that is not there unless a key of it is given
                _add(rows, key, "unset", f"{help_text} It is set by any of the keys below.")
        else:
            choices = [str(value) for value in typing.get_args(field.annotation) if isinstance(value, str)]
            told = len(choices) < 2 or all(choice in help_text for choice in choices)
            allowed = "" if told else f" ({', '.join(choices)})"
            _add(rows, key, _default(field), help_text + allowed)
    width = max(len(f"{key}: {default}") for key, (default, _) in rows.items())
    return "".join(f"{f'{key}: {default}'.ljust(width)}  {text}\n" for key, (default, text) in rows.items())


def _add(rows: dict[str, tuple[str, str]], key: str, default: str, text: str) -> None:
    """A key that several families share has one row; the names of the families are its choices."""
    if key in rows and key.endswith(".name") and default not in rows[key][0].split("/"):
        default = f"{rows[key][0]}/{default}"
        rows[key] = (default, text)
    rows.setdefault(key, (default, text))


def _is_section(annotation: Any) -> bool:
    return any(isinstance(t, type) and issubclass(t, BaseModel) for t in _types(annotation))


def _default(field: Any) -> str:
    if field.is_required():
        choices = [value for value in typing.get_args(field.annotation) if isinstance(value, str)]
        return "/".join(choices) or "(required)"
    value = field.default
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)
