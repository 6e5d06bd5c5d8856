"""From what was named on the command line to runs."""

from __future__ import annotations

import dataclasses
import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from distgan.compare.folders import read_folders
from distgan.compare.offline import find_segments, read_segments
from distgan.compare.run_data import RunData
from distgan.compare.server import read_server
from distgan.errors import UserError
from distgan.slurm.run_record import find_runs


def read_runs(named: Sequence[str], on_server: Sequence[str] = ()) -> list[RunData]:
    """All runs in these places, those of one group beside each other. Raises UserError when there is none, or a place
    does not exist; one that holds no run is told on stderr and passed over."""
    folders: dict[Path, Path] = {}
    segments: dict[Path, Path] = {}
    for place in _places(named):
        runs, files = _runs_in(place), find_segments(place)
        if not runs and not files:
            print(f"distgan: {place}: no run there; passed over", file=sys.stderr, flush=True)
        folders |= {path.resolve(): path for path in runs if path.resolve() not in folders}
        segments |= {path.resolve(): path for path in files} if not runs else {}
    found = [*read_folders(list(folders.values())), *read_segments(list(segments.values()))]
    found += [run for path in on_server for run in read_server(path)]
    if not found:
        raise UserError("no run to compare; name run folders, folders of runs, or W&B folders: distgan compare runs/*")
    return _beside_their_group(_with_own_names(found))


def _places(named: Iterable[str]) -> list[Path]:
    places = []
    for name in named:
        path = Path(name).expanduser()
        matches = [path] if path.exists() else sorted(map(Path, glob.glob(str(path))))
        if not matches:
            raise UserError(f"{name}: no such run; name a run folder, a folder of runs, or a W&B folder")
        places += matches
    return places


def _runs_in(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    if (place / "metrics.jsonl").exists():  # also without its config
        return [place]
    return sorted(path for path in find_runs(place) if os.access(path, os.R_OK | os.X_OK))


def _with_own_names(runs: list[RunData]) -> list[RunData]:
    """The names of folders without what all have in common; those that are not alone with theirs get their place."""
    local = [os.path.abspath(run.name) for run in runs if run.name == run.place]
    common = os.path.commonpath([os.path.dirname(path) for path in local]) if local else ""
    short = [os.path.relpath(run.name, common) if run.name == run.place else run.name for run in runs]
    often = Counter(short)
    names = [
        name if often[name] == 1 else f"{name} ({Path(run.place).name})" for name, run in zip(short, runs, strict=True)
    ]
    taken: Counter[str] = Counter()
    result = []
    for name, run in zip(names, runs, strict=True):
        taken[name] += 1
        own = name if taken[name] == 1 else f"{name} #{taken[name]}"
        result.append(dataclasses.replace(run, name=own))
    return result


def _beside_their_group(runs: list[RunData]) -> list[RunData]:
    """Groups in the order of their first runs."""
    place = {group: number for number, group in reversed(list(enumerate(run.group for run in runs)))}
    return sorted(runs, key=lambda run: place[run.group])
