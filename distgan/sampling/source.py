"""A generator from the disk: of a run, of a checkpoint, or in a file by itself."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from distgan import checkpoint
from distgan.assembly import generator_settings, make_critic
from distgan.config import Config, read_config
from distgan.errors import ConfigError, UserError
from distgan.networks import build_generator
from distgan.run_folder import RunFolder
from distgan.trouble import tell

_SUFFIX = ".safetensors"


class Found(NamedTuple):
    """A generator in evaluation mode, and what is known of it."""

    generator: nn.Module
    resolution: int
    """Pixels a side."""
    channels: int
    classes: int
    """0: unconditional."""
    config: Config | None
    """Of its run; None where a file lies by itself."""
    run: Path | None
    """The run folder, where it was named."""


def find(source: Path, *, step: int | None = None, raw: bool = False, config: Path | None = None) -> Found:
    """The generator in a run folder (its newest checkpoint, or the one of `step`), in a checkpoint folder, or in a
    .safetensors file; on a CUDA device where there is one. `raw` takes the last weights instead of their average.

    What it is built from stands in `config`, else in the file itself, else in the config of the run. Raises ConfigError
    where that is unknown or `source` is nothing of the kind, UserError for what is not there, damaged or does not fit.
    """
    run = RunFolder(source) if RunFolder(source).config.is_file() else None
    _check_options(source, run, step, raw)
    given = None if config is None else read_config(config)
    if source.is_file():
        path = source
    else:
        folder = _checkpoint_of(run, step) if run else _verified(source)
        path = folder / (checkpoint.GENERATOR if raw else checkpoint.GENERATOR_EMA)
    settings = checkpoint.settings_in(path)
    known = given or _config_beside(path, source, is_needed=settings is None)
    if given or settings is None:
        settings = known and generator_settings(known)
    if settings is None and path.name == checkpoint.CRITIC:
        raise _critic_given(path)
    if settings is None:
        raise ConfigError(f"{path}: does not say what network it is of; name the config of its run with --config FILE")
    generator = _loaded(path, settings, known)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    form = (settings[name] for name in ("resolution", "channels", "classes"))
    return Found(generator.eval().requires_grad_(False).to(device), *form, known, run and run.path)


def _check_options(source: Path, run: RunFolder | None, step: int | None, raw: bool) -> None:
    if not source.exists():
        raise ConfigError(f"{source}: no such run folder, checkpoint or {_SUFFIX} file")
    if source.is_file() and source.suffix != _SUFFIX:
        raise ConfigError(f"{source}: no {_SUFFIX} file; give a run folder, a checkpoint folder or such a file")
    if run is None and source.is_dir() and not (source / checkpoint.GENERATOR_EMA).exists():
        raise ConfigError(
            f"{source}: no run folder (it has no config.yaml), and no checkpoint (it has no "
            f"{checkpoint.GENERATOR_EMA}); give one that training wrote"
        )
    if step is not None and run is None:
        raise ConfigError(f"--step {step}: of which run? {source} is one checkpoint; give its run folder")
    if raw and source.is_file():
        raise ConfigError(f"--raw: {source} holds one network; give {checkpoint.GENERATOR} or its folder")


def _checkpoint_of(run: RunFolder, step: int | None) -> Path:
    if step is not None:
        folder = run.checkpoint(step)
        if not folder.is_dir():
            steps = ", ".join(map(str, checkpoint.steps_in(run.checkpoints))) or "none"
            raise ConfigError(f"--step {step}: the checkpoints of {run.path} are of steps {steps}")
        return _verified(folder)
    newest = checkpoint.newest_complete(run.checkpoints, tell)
    if newest is None:
        raise UserError(f"{run.path}: no checkpoint yet; train on")
    return newest


def _verified(folder: Path) -> Path:
    checkpoint.verify(folder)
    return folder


def _config_beside(path: Path, source: Path, is_needed: bool) -> Config | None:
    """The config of the run that `source` is, or that the file `path` lies in, in one of its checkpoints. One that
    cannot be read is told and passed over where it is not needed; else ConfigError."""
    folders = [source]
    above = path.absolute().parent.parent
    if above.name == "checkpoints":
        folders.append(above.parent)
    beside = next((file for folder in folders if (file := folder / "config.yaml").is_file()), None)
    try:
        return beside and read_config(beside)
    except ConfigError as error:
        if is_needed:
            raise
        tell(f"{' '.join(str(error).split())}; passed over: {path} itself says what network it is of")
        return None


def _loaded(path: Path, settings: dict[str, object], config: Config | None) -> nn.Module:
    generator = _built(settings, path)
    try:
        checkpoint.load_network(path, generator)
    except checkpoint.Misfit:
        if config is not None and _fits(path, make_critic(config)):
            raise _critic_given(path) from None
        raise
    return generator


def _fits(path: Path, network: nn.Module) -> bool:
    try:
        checkpoint.load_network(path, network)
    except checkpoint.Misfit:
        return False
    return True


def _critic_given(path: Path) -> ConfigError:
    return ConfigError(
        f"{path}: is a critic, which draws no pictures; give {checkpoint.GENERATOR_EMA} or {checkpoint.GENERATOR}, "
        "which lie beside it in a checkpoint"
    )


def _built(settings: dict[str, object], path: Path) -> nn.Module:
    try:
        return build_generator(**settings)
    except (TypeError, ConfigError) as error:
        reason = str(error).split("() ")[-1]
        raise UserError(f"{path}: is of a network that this version of distgan does not know ({reason})") from None
