"""The runs that a command line asks for, and what can be known to be wrong with them before they are queued."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from distgan.config import Config, load_config, process_conflicts, read_config
from distgan.data.specs import named_shards
from distgan.data.urls import is_remote
from distgan.errors import ConfigError, RunFolderError, UserError
from distgan.files import refused
from distgan.resuming import check_init, check_resumable
from distgan.run_folder import RunFolder, unwritable
from distgan.slurm.history import History
from distgan.slurm.options import Request, requested
from distgan.slurm.sweep import Element, elements

_TOLD = 8
"""Numbers of nodes, at most, that are told not to fit."""


@dataclass(frozen=True)
class Run:
    """One run that is to be queued."""

    name: str
    """Of its folder, in an array; else empty."""
    config: Config

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.config.run_dir)

    @property
    def history(self) -> History:
        return History(self.folder.path)

    @property
    def is_finished(self) -> bool:
        """Whether it has trained to its end, with this very config."""
        if self.folder.read_status() != "finished":
            return False
        try:
            kept = read_config(self.folder.config)
        except ConfigError:  # one of another version, or gone
            return False
        return kept.model_copy(update={"run_dir": self.config.run_dir}) == self.config

    @property
    def jobs(self) -> list[str]:
        """Every job that was ever queued for it."""
        starts = self.history.starts()
        told = [line.get("job") for line in (*self.history.jobs(), *starts)]
        continued = [str(start.get("next", "")).removeprefix("continued as ") for start in starts]
        return [job for job in (*told, *continued) if job]


def planned(args: argparse.Namespace) -> tuple[Request, Path, list[Run]]:
    """What is asked of Slurm, the folder of it all, and the runs. Raises ConfigError with every mistake of the command
    line, the configs, the number of processes and the shards."""
    mistakes: list[str] = []

    def read(action: Callable):
        try:
            return action()
        except UserError as error:
            mistakes.extend(str(error).split("\n"))
            return None

    request = read(lambda: requested(args))
    sweep = read(lambda: elements(args.array, args.array_file) if args.array or args.array_file else [Element("", [])])
    read(lambda: check_init(args.init_from) if args.init_from else None)
    configs = {element.name: _loaded(args, element) for element in sweep or ()}
    mistakes += _shared(
        {
            name: [str(found)] if isinstance(found, ConfigError) else list(_config_mistakes(found, request))
            for name, found in configs.items()
        }
    )
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    base = RunFolder(next(iter(configs.values())).run_dir).path
    return request, Path(os.path.abspath(base)), [_run(name, config, base) for name, config in configs.items()]


def check_folders(runs: Sequence[Run], allow_config_change: bool) -> None:
    """Raises UserError with a line for each run folder that cannot be written, is in use, or holds another run."""
    found = {run.name: list(_folder_mistakes(run, allow_config_change)) for run in runs}
    lines = _shared({name: [str(error) for error in errors] for name, errors in found.items()})
    if lines:
        unwritable = any(isinstance(error, RunFolderError) for errors in found.values() for error in errors)
        raise (RunFolderError if unwritable else ConfigError)("\n".join(lines))


def _loaded(args: argparse.Namespace, element: Element) -> Config | ConfigError:
    swept = {override.partition("=")[0] for override in element.overrides}
    twice = [text for text in args.overrides if text.partition("=")[0] in swept]
    try:
        if twice:
            raise ConfigError(f"{twice[0]}: also a key of --array; give it once")
        return load_config(args.config, [*args.overrides, *element.overrides])
    except ConfigError as error:
        return error


def _run(name: str, config: Config, base: Path) -> Run:
    """An element of an array has its folder in the one that the config names."""
    return Run(name, config.model_copy(update={"run_dir": str(base / name)}) if name else config)


def _config_mistakes(config: Config, request: Request | None) -> Iterator[str]:
    if request is not None:
        yield from _device_mistakes(config.train.device, request)
        yield from _process_mistakes(config, request)
    shards = config.data.shards
    yield from _shard_mistakes((shards,) if isinstance(shards, str) else tuple(shards))


def _device_mistakes(device: str, request: Request) -> Iterator[str]:
    if device == "cpu" and request.gpus:
        yield "train.device: cpu makes no use of --gpus-per-node; use auto, or give --processes-per-node instead"
    if device == "cuda" and not request.gpus:
        yield "train.device: cuda needs --gpus-per-node instead of --processes-per-node; or use auto"


def _process_mistakes(config: Config, request: Request) -> Iterator[str]:
    least, most = request.nodes
    told = 0
    for nodes in range(least, most + 1):
        mistakes = process_conflicts(config, nodes * request.processes)
        told += bool(mistakes)
        if told > _TOLD:
            yield f"and more numbers of nodes from {nodes} on"
            return
        yield from (f"on {nodes} node{'s' * (nodes > 1)}: {mistake}" for mistake in mistakes)


@cache
def _shard_mistakes(shards: tuple[str, ...]) -> tuple[str, ...]:
    """What is wrong with those of this machine; the job looks for the others."""
    local = [shard for shard in shards if not is_remote(shard)]
    try:
        places = [place for place, _ in named_shards(local)] if local or not shards else []
    except UserError as error:
        return tuple(str(error).split("\n"))
    gone = [place for place in places if not is_remote(place) and not os.path.exists(place)]
    more = f" (nor are {len(gone) - 1} more)" if len(gone) > 1 else ""
    return (f"data.shards: {gone[0]} is not here{more}; copy it here again, or name other shards",) if gone else ()


def _folder_mistakes(run: Run, allow_config_change: bool) -> Iterator[UserError]:
    path = run.folder.path
    for place in (path, run.history.path, run.folder.checkpoints):
        if error := refused(place):
            yield RunFolderError(f"run_dir {path}: {unwritable(error)}")
            return
    if run.folder.is_locked():
        yield ConfigError(f"run_dir {path}: a training is running in it; stop it, or use another run_dir")
    try:
        check_resumable(run.folder, run.config, allow_config_change)
    except UserError as error:
        yield error


def _shared(lines: dict[str, list[str]]) -> list[str]:
    """The lines of all runs: what all of them have once, the rest after the name of its run."""
    split = {name: [line for text in texts for line in text.split("\n")] for name, texts in lines.items()}
    common = set.intersection(*map(set, split.values())) if split else set()
    once = [line for line in next(iter(split.values()), []) if line in common]
    return once + [f"{name}: {line}" for name, own in split.items() for line in own if line not in common]
