"""Runs from their folders."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from distgan.compare.environment import of_start
from distgan.compare.run_data import RunData, by_kimg, settings_of
from distgan.compare.series import Series, series_of
from distgan.config.yaml_files import read_yaml
from distgan.errors import ConfigError
from distgan.run_folder import RunFolder, grids_in, read_lines
from distgan.slurm.queue import Job, told_queue
from distgan.slurm.run_record import RunRecord
from distgan.slurm.standing import standing


def read_folders(paths: Sequence[Path]) -> list[RunData]:
    """The runs of these folders, in their order; what is damaged is passed over and told in `problems`."""
    records = [RunRecord(path) for path in paths]
    queue = told_queue(job for record in records for job in record.jobs)
    return [_run(record, queue) for record in records]


def _run(record: RunRecord, queue: dict[str, Job] | None) -> RunData:
    folder = RunFolder(record.path)
    config, trouble = _config(folder.config)
    series, unread = _series(folder.metrics)
    stands = standing(str(record.path), record, queue)
    told = {key.rpartition(".")[2]: value for key, value in config.items() if key.startswith("tracking.")}
    return RunData(
        name=str(record.path),
        place=str(record.path),
        config=config,
        series=series,
        state=stands.state,
        why=stands.why,
        environment=_environment(folder.environment),
        notes=str(told.get("notes") or ""),
        tags=tuple(map(str, told.get("tags") or ())),
        grids=by_kimg(grids_in(folder.samples), series, config),
        reals=folder.reals if folder.reals.exists() else None,
        problems=tuple(dict.fromkeys([*stands.problems, *trouble, *unread])),
    )


def _config(path: Path) -> tuple[dict[str, object], list[str]]:
    try:
        tree = read_yaml(path)
        return (settings_of(tree), []) if isinstance(tree, dict) else ({}, [f"{path.name}: is no config"])
    except ConfigError as error:
        return {}, [" ".join(str(error).split())]


def _series(path: Path) -> tuple[Series, list[str]]:
    try:
        series = series_of(read_lines(path))
        return series, [] if not series.is_empty else ["no lines of metrics yet"]
    except OSError as error:
        return series_of([]), [f"{path.name}: cannot be read: {error.strerror}"]


def _environment(path: Path) -> dict[str, str]:
    """Of the newest start; what is not there is left out."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
        return {**of_start(starts[-1]), "starts": str(len(starts))}
    return {}
