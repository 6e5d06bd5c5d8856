"""`distgan index`: the index of tars that others have made, local or remote, made once for all runs and machines."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from distgan.data.cache import default_folder
from distgan.data.command import run_command
from distgan.data.index_file import INDEX_FILE, JOURNAL_FILE, read_index
from distgan.data.indexing import Caching, Indexed, build_index, default_caching, forget, store_index
from distgan.data.shards import disk_errors, locked
from distgan.data.specs import named_shards
from distgan.data.summary import Summary
from distgan.data.urls import check_url, is_remote, shown
from distgan.errors import ConfigError, DataError

OURS = "index"
"""What an index names as its source when it is made here."""


def make_index(
    specs: Sequence[str], out: str | Path | None = None, caching: Caching | None = None, *, overwrite: bool = False
) -> Summary:
    """Reads all tars that `specs` name and writes their index: beside them where they are the tars of one local folder,
    else into the folder `out`.

    An index of an earlier call is replaced, one of `distgan prepare` only with `overwrite`. Raises `ConfigError` where
    `out` is needed, `DataError` for a tar that cannot be indexed, and where an index must not be replaced.
    """
    started = time.monotonic()
    caching = caching or default_caching()
    places = [place for spec in specs for place in _tars(spec)]
    _check_places(places, caching)
    folder = _target(places, out)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _check_replaceable(folder, overwrite)
            indexed = build_index(places, caching)
            if not indexed.head["count"]:
                raise DataError(f"{specs[0]}: no pictures (.png, .jpg, .webp, .npy, .raw) in the shards")
            store_index(folder, places, indexed)
            forget(places, caching)
    return _summary(folder, indexed, caching, places, time.monotonic() - started)


def _tars(spec: str) -> list[str]:
    """The shards that a spec names. Of a local folder all that are in it today, whatever its index says."""
    folder = Path(spec.removeprefix("file://")).expanduser()
    found = [] if is_remote(spec) or not folder.is_dir() else sorted(folder.glob("*.tar"))
    tars = [os.path.abspath(path) for path in found if not path.name.startswith(".")]
    return tars or [place for place, _ in named_shards(spec)]


def _check_places(places: Sequence[str], caching: Caching) -> None:
    seen = set()
    for place in places:
        if place in seen:
            raise DataError(f"{shown(place)}: named twice; name each shard once")
        seen.add(place)
        check_url(place, caching.allow_shell)


def _target(places: Sequence[str], out: str | Path | None) -> Path:
    """The folder that receives the index."""
    if out is not None:
        if is_remote(str(out)):
            raise ConfigError(f"--out {shown(str(out))}: must be a folder; copy the index from there afterwards")
        return Path(out).expanduser()
    folders = {os.path.dirname(place) for place in places if not is_remote(place)}
    if len(folders) != 1 or any(map(is_remote, places)):
        raise ConfigError("--out is needed: the shards are not those of one local folder, so nothing lies beside them")
    folder = Path(folders.pop())
    others = {str(path) for path in folder.glob("*.tar") if not path.name.startswith(".")} - set(places)
    if others:
        raise ConfigError(f"--out is needed: {folder} holds other tars too, such as {Path(min(others)).name}")
    return folder


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    """Says that an index is replaced; raises `DataError` where it may not be."""
    if (folder / JOURNAL_FILE).exists():
        raise DataError(f"{folder}: its prepare has not finished; run that command again, or give another --out")
    if overwrite or not (folder / INDEX_FILE).exists():
        return
    index = read_index(folder / INDEX_FILE)
    source = index.get("source")
    if source != OURS:
        raise DataError(
            f"{folder / INDEX_FILE}: made by `distgan prepare {source}`, and knows what a new one would not, "
            "such as the names of classes; give another --out, or --overwrite"
        )
    print(f"{folder / INDEX_FILE}: there was one of {index['count']} pictures; it is made anew")


def _summary(folder: Path, indexed: Indexed, caching: Caching, places: Sequence[str], seconds: float) -> Summary:
    settings = []
    if any(map(is_remote, places)) and caching.folder != default_folder():
        settings.append(f"cache: {caching.folder.resolve()}")
    if any(place.startswith("pipe:") for place in places):
        settings.append("allow_shell: true")
    head, entries, _ = indexed
    size = sum(entry["bytes"] for entry in entries)
    facts = (head["resolution"], head["channels"], tuple(head["classes"]), head["count"], len(entries), size)
    return Summary(folder, *facts, seconds=seconds, indexed=True, settings=tuple(settings))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `distgan index`."""
    add = parser.add_argument
    add("specs", nargs="+", metavar="SPEC", help="folder, tar, glob, brace pattern or URL of tars")
    add("--out", metavar="DIR", help="folder that receives the index (default: beside the tars of one local folder)")
    add("--overwrite", action="store_true", help="replace even the index that `distgan prepare` made")
    add("--cache", metavar="DIR", help="folder for remote shards (default: the user's cache, as data.cache)")
    add("--allow-shell", action="store_true", help="run the commands of pipe: shards")


def run(args: argparse.Namespace) -> int:
    """Runs `distgan index` from parsed arguments. Returns 0, 1, 2, 130 (Ctrl-C) or 143 (SIGTERM)."""

    def action() -> int:
        standard = default_caching()
        folder = Path(args.cache).expanduser() if args.cache else standard.folder
        caching = Caching(folder, standard.limit, args.allow_shell)
        print(make_index(args.specs, args.out, caching, overwrite=args.overwrite).text())
        return 0

    return run_command("index", action, "run the same command again")
