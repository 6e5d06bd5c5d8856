"""What `data.shards` names: folders, tars, patterns, lists and URLs, as the places of single shards."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from distgan.data.index_file import INDEX_FILE, JOURNAL_FILE, read_index
from distgan.data.remote import read_small
from distgan.data.urls import EXTRAS, check_url, is_remote, join_url, shown
from distgan.errors import DataError

Spec = str | os.PathLike | Sequence[str | os.PathLike]
_WILD = "*?["


class Named(NamedTuple):
    """A shard that a spec names."""

    place: str
    """Absolute path, or URL."""
    index: str
    """Folder or URL in which its index is to be looked for."""


def named_shards(spec: Spec) -> list[Named]:
    """The shards that a spec names, in order, each once. Nothing is opened but an index.

    Raises `DataError` where it names nothing, or a shard twice.
    """
    parts = [spec] if isinstance(spec, (str, os.PathLike)) else list(spec)
    named = [one for part in parts for one in _expand(os.fspath(part))]
    if not named:
        raise DataError("data.shards names nothing; give a folder of shards, a tar, a pattern, a URL, or a list")
    seen = set()
    for place, _ in named:
        if place in seen:
            raise DataError(f"{shown(place)}: named twice in data.shards; name each shard once")
        seen.add(place)
    return named


def folder_of(place: str) -> str:
    """The folder or URL that a shard lies in; of a command ("pipe:...") nothing."""
    if not is_remote(place):
        return os.path.dirname(place)
    return "pipe:" if place.startswith("pipe:") else place.split("?")[0].rpartition("/")[0] + "/"


def _expand(spec: str) -> list[Named]:
    if is_remote(spec):
        return _remote(spec)
    path = Path(spec.removeprefix("file://")).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.name == INDEX_FILE and path.exists():
        return _in_folder(path.parent)
    wild = any(mark in spec for mark in "{" + _WILD)
    if not path.exists() and path.suffix != ".tar" and not wild:
        raise DataError(f"{spec}: no such folder; make it with `distgan prepare SOURCE INPUT --out {spec}`")
    if path.exists() or not wild:
        return _beside([os.path.abspath(path)])
    places = [found for name in braces(str(path)) for found in _globbed(name)]
    if not places:
        raise DataError(f"{spec}: no shard has such a name; look at the folder and the pattern")
    return _beside([os.path.abspath(place) for place in places])


def _refuse_strangers(folder: Path, known: set[str]) -> None:
    """A tar that was added after the index was made would be left out without a word."""
    unknown = sorted(path.name for path in folder.glob("[!.]*.tar") if path.name not in known)
    if unknown and any("/" not in name for name in known):
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(
            f"{folder}: holds a tar that its {INDEX_FILE} does not know ({unknown[0]}{more}); index the folder anew "
            f"with `distgan index {folder}`, or name the tars that are meant, e.g. {folder}/NAME-*.tar"
        )


def _beside(places: Sequence[str]) -> list[Named]:
    return [Named(place, folder_of(place)) for place in places]


def _remote(spec: str) -> list[Named]:
    """A tar or a brace pattern of tars at a URL, or the folder of an index there."""
    if not spec.startswith("pipe:") and any(mark in spec.split("?")[0] for mark in "*["):
        raise DataError(f"{shown(spec)}: no patterns at a URL but braces; write for example x-{{00000..00007}}.tar")
    check_url(spec, allow_shell=True)  # whether a command may be run is asked where it would be
    if spec.startswith("pipe:") or ".tar" in spec.split("?")[0]:
        return _beside(braces(spec))
    folder = spec.removesuffix(INDEX_FILE).rstrip("/") + "/"
    content = read_small(join_url(folder, INDEX_FILE))
    if content is None:
        raise DataError(
            f"{shown(spec)}: no {INDEX_FILE} there; name the tars, e.g. {shown(folder)}x-{{00000..00007}}.tar"
        )
    index = read_index(join_url(folder, INDEX_FILE), content)
    return [Named(locate(folder, shard["name"]), folder) for shard in index["shards"]]


def locate(folder: str, name: str) -> str:
    """Where a shard of an index lies: the index may name whole paths or URLs, or files beside itself.

    Raises `DataError` where an index from far away names a file of this machine, or a command.
    """
    elsewhere = os.path.isabs(name) or ":" in name
    if is_remote(folder) and elsewhere and ("::" in name or name.partition("://")[0] not in EXTRAS):
        raise DataError(f"{shown(folder)}: its {INDEX_FILE} names {shown(name)}, which is not far away; do not use it")
    if is_remote(name) or os.path.isabs(name):
        return name
    return join_url(folder, name) if is_remote(folder) else os.path.join(folder, name)


def _in_folder(folder: Path) -> list[Named]:
    base = os.path.abspath(folder)
    index = read_index(folder / INDEX_FILE)
    if index is not None:
        if index.get("source") == "index":  # what lies beside the shards of a prepare is none of its pictures
            _refuse_strangers(folder, {shard["name"] for shard in index["shards"]})
        return [Named(locate(base, shard["name"]), base) for shard in index["shards"]]
    if (folder / JOURNAL_FILE).exists():
        raise DataError(f"{folder}: its prepare has not finished; run the same command again, it goes on")
    tars = sorted(path.name for path in folder.glob("*.tar") if not path.name.startswith("."))
    packed = [path.name for path in folder.iterdir() if path.name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))]
    if not tars and packed:
        raise DataError(
            f"{folder}: its tars are compressed ({packed[0]}), and cannot be indexed; unpack them to plain .tar, or "
            "name them in data.shards with data.order: resampled"
        )
    if not tars:
        make = f"distgan prepare SOURCE INPUT --out {folder}"
        raise DataError(f"{folder}: no shards (.tar) here; make them with `{make}`")
    return _beside([os.path.join(base, name) for name in tars])


def braces(pattern: str) -> list[str]:
    """A pattern with each {00000..00007} or {a,b} written out."""
    from braceexpand import UnbalancedBracesError, braceexpand

    try:
        return list(braceexpand(pattern))
    except UnbalancedBracesError as error:
        example = "name-{00000..00007}.tar"
        raise DataError(f"{shown(pattern)}: braces do not close ({error}); write for example {example}") from None


def _globbed(name: str) -> list[str]:
    if not any(mark in name for mark in _WILD):
        return [name]
    return sorted(glob.glob(name))
