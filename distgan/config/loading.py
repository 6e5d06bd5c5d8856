"""From files and overrides to a Config, with all mistakes reported at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from distgan.config.conflicts import Mistake, conflicts, measure_of
from distgan.config.keys import family_names, known_keys, nearest_key
from distgan.config.schema import Config, Measure
from distgan.config.yaml_files import parse_yaml, read_yaml, write_yaml
from distgan.errors import ConfigError


def load_config(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Config:
    """The config of `files` (later ones win) and then `key.path=value` overrides.

    Raises ConfigError listing every mistake, each with its key, the value, what is allowed and the nearest key.
    """
    if not files:
        raise ConfigError("no config: give one or more --config FILE, e.g. --config configs/quickstart.yaml")
    tree: dict = {}
    for file in files:
        tree = merge(tree, _with_parents(Path(file), ()))
    for override in overrides:
        tree = merge(tree, _override(override))
    return validate(tree)


def read_config(path: str | Path) -> Config:
    """The config in one file, e.g. the resolved one of a run folder."""
    return load_config([path])


def dump_config(config: Config) -> str:
    """YAML text that loads as the same config, every default written out."""
    return write_yaml(_names_first(config.model_dump(mode="json")))


def _names_first(tree: dict) -> dict:
    keys = sorted(tree, key=lambda key: key != "name")
    return {key: _names_first(tree[key]) if isinstance(tree[key], dict) else tree[key] for key in keys}


def flatten(config: Config) -> dict[str, object]:
    """Every value by its key path."""
    result: dict[str, object] = {}

    def walk(tree: dict, prefix: str) -> None:
        for key, value in tree.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                result[prefix + key] = value

    walk(config.model_dump(mode="json"), "")
    return result


def raise_mistakes(mistakes: Sequence[Mistake]) -> None:
    """Raises ConfigError with a line for each mistake, if there is any."""
    if mistakes:
        raise ConfigError("\n".join(str(mistake) for mistake in mistakes))


_FAMILIES = {"generator": None, "critic": None, "optimizer": "adam"}
"""Sections whose `name` says what their other keys mean, and the name they have when none is given."""


def merge(base: dict, over: dict) -> dict:
    """`over` laid on `base`. A network or optimiser that takes another name starts afresh: the settings of one
    family mean nothing to the next. An empty mapping empties what it is laid on."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        name = _name(key, old) if both and key in _FAMILIES else None
        renamed = name is not None and value.get("name", name) != name
        result[key] = merge(old, value) if both and value and not renamed else value
    return result


def _name(section: str, tree: dict) -> str | None:
    return tree.get("name", _FAMILIES[section])


def _with_parents(path: Path, below: tuple[Path, ...]) -> dict:
    """The tree of a file laid on those of the files that its `extends` names, relative to its folder."""
    if path.resolve() in below:
        raise ConfigError(f"config {path}: extends itself through {' -> '.join(p.name for p in below)}")
    tree = read_yaml(path)
    parents = tree.pop("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"config {path}: extends: {parents!r} must be a file name or a list of them")
    result: dict = {}
    for parent in parents:
        result = merge(result, _with_parents(path.parent / parent, (*below, path.resolve())))
    return merge(result, tree)


def _override(text: str) -> dict:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{text!r} is not an override: write key.path=value, e.g. train.batch_size=128")
    tree: Any = parse_yaml(value, f"override {key}")
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return tree


def validate(tree: dict) -> Config:
    """A Config of a tree of plain values. Raises ConfigError with all that is wrong."""
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        wrong = [_place(problem) for problem in problems if _is_of_key(problem)]
        mistakes = _joined(
            _mistake(problem, tree)
            for problem in problems
            if _is_of_key(problem) or not any(_place(problem)[: len(place)] == place for place in wrong)
        )
        told = {mistake.key for mistake in mistakes}
        also = [mistake for mistake in _conflicts_of_the_rest(tree, error) if mistake.key not in told]
        raise ConfigError("\n".join(map(str, [*mistakes, *also]))) from None
    raise_mistakes(conflicts(config))
    return config


def _joined(mistakes: Iterable[Mistake]) -> list[Mistake]:
    """One mistake a key: the branches of a union each report their own."""
    found: dict[str, Mistake] = {}
    for mistake in mistakes:
        if mistake.key in found:
            branch = mistake.text.partition("; must be ")[2]
            mistake = Mistake(mistake.key, f"{found[mistake.key].text} or {branch}" if branch else mistake.text)
        found[mistake.key] = mistake
    return list(found.values())


def _conflicts_of_the_rest(tree: dict, error: ValidationError) -> list[Mistake]:
    """The conflicts among the keys that are right, so that they too are told at once."""
    for problem in error.errors():
        tree = _without(tree, _path(_place(problem), tree))
    try:
        return conflicts(Config.model_validate(tree))
    except ValidationError:
        return []


def _without(tree: Any, path: Sequence) -> Any:
    if not path or not isinstance(tree, dict) or path[0] not in tree:
        return tree
    if len(path) == 1:
        return {key: value for key, value in tree.items() if key != path[0]}
    return {**tree, path[0]: _without(tree[path[0]], path[1:])}


def _is_of_key(problem: dict) -> bool:
    """Whether a problem is of a key of a mapping whose keys are values, such as resolutions."""
    return problem["loc"][-1:] == ("[key]",)


def _place(problem: dict) -> tuple:
    return problem["loc"][:-1] if _is_of_key(problem) else problem["loc"]


def _path(loc: Sequence, tree: Any) -> list:
    """`loc` of a pydantic problem without the tags of unions, which are no keys of the file.

    A tag is a part of loc that is not found in the tree while something after it, or the tree's own name, is."""
    path: list = []
    here: Any = tree
    for part in loc:
        section = path[-1] if path else None
        is_tag = section in _FAMILIES and isinstance(here, dict) and part == _name(section, here)
        if is_tag or _is_branch(part, here):
            continue
        path.append(part)
        here = _child(here, part)
    return path


def _is_branch(part: Any, here: Any) -> bool:
    """Whether a part of loc names a branch of a plain union (`str`, `literal['auto']`), not a key."""
    return not isinstance(here, (dict, list)) or (isinstance(here, list) and not isinstance(part, int))


def _child(here: Any, part: Any) -> Any:
    if isinstance(here, dict):
        return here.get(part)
    return here[part] if isinstance(here, list) and isinstance(part, int) and part < len(here) else None


def _at(tree: Any, path: Sequence) -> Any:
    for part in path:
        tree = _child(tree, part)
    return tree


def _mistake(problem: dict, tree: dict) -> Mistake:
    path = _path(_place(problem), tree)
    key = ".".join(map(str, path))
    kind = problem["type"]
    if kind in ("extra_forbidden", "invalid_key"):
        near = nearest_key(key)
        hint = f"; nearest: {near}" if near else ""
        if near == key:
            hint = f" for this {key.rpartition('.')[0]}.name"
        return Mistake(key, f"{_shown(problem['input'])} is set, but there is no such key{hint}")
    if kind == "missing":
        return Mistake(key, f"is required{_help_of(path)}")
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        allowed = problem["ctx"].get("expected_tags") or ", ".join(_names(path))
        found = problem["ctx"].get("tag")
        text = f"{found!r} is not known" if found is not None else "is required"
        return Mistake(f"{key}.name", f"{text}; allowed: {allowed.replace(chr(39), '')}")
    if _is_of_key(problem):
        return Mistake(key, f"{_shown(problem['input'])} is not allowed as a key; {_allowed(problem)}")
    value = _at(tree, path)
    return Mistake(key, f"{_shown(value)} is not allowed; {_allowed(problem)}{_measure_hint(path, value)}")


def _measure_hint(path: Sequence, value: Any) -> str:
    """By which metric of evaluate.metrics a value is measured that is none of them but told beside one."""
    measure = measure_of(value) if list(path[:2]) == ["evaluate", "metrics"] and isinstance(value, str) else value
    return f"; {measure} tells {value} too" if measure in get_args(Measure) else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _allowed(problem: dict) -> str:
    """What the schema says of a value, in words."""
    if problem["type"] in ("model_type", "model_attributes_type"):
        return "must be a section: a mapping of keys"
    if problem["type"] == "dict_type":
        return "must be a mapping, such as {32: ...}"
    if problem["type"] == "too_short":
        return "must not be empty"
    words = {
        "a valid boolean": "true or false",
        "a valid integer": "a whole number",
        "a valid number": "a number",
        "a valid string": "text",
        "a valid list": "a list",
    }
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"must be {words.get(text, text)}"


def _help_of(path: Sequence) -> str:
    text = known_keys().get(".".join(map(str, path)))
    return f": {text}" if text else ""


def _names(path: Sequence) -> list[str]:
    return family_names(".".join(map(str, path)))
