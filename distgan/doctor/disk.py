"""Whether what a run leaves behind has room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from distgan.assembly import make_critic, make_generator, make_optimizer
from distgan.config import Config
from distgan.doctor.table import FINE, NOT_FINE, Finding, amount
from distgan.files import nearest
from distgan.run_folder import RunFolder

_NAMED = 128
"""Bytes that a safetensors file takes for the name, kind and place of a tensor."""


def check_disk(config: Config) -> list[Finding]:
    """The checkpoints that are kept at one time and all samples, against what is free."""
    folder = RunFolder(config.run_dir)
    size, count, samples = checkpoint_bytes(config), checkpoints_at_once(config), samples_bytes(config)
    there = sum(_taken(part) for part in (folder.checkpoints, folder.samples))
    free = shutil.disk_usage(nearest(folder.path)).free
    text = (
        f"{count} checkpoint{'s' * (count > 1)} of {amount(size)} are {amount(count * size)}, samples at most "
        f"{amount(samples)}; {amount(free)} are free"
    )
    if there:
        text += f", and {amount(there)} of these are there already"
    if count * size + samples <= free + there:
        return [Finding("disk", FINE, text)]
    return [Finding("disk", NOT_FINE, f"{text}; make room, lower {_lower(config)}, or choose another run_dir")]


def checkpoint_bytes(config: Config) -> int:
    """What one checkpoint takes, to within a few kB: generator, its average, critic, and what the optimisers keep."""
    return sum(tensor.nbytes + _NAMED for tensor in _tensors(config))


def checkpoints_at_once(config: Config) -> int:
    """The most checkpoints that there are at one time: those kept, and the one that is being written."""
    settings, course = config.checkpoint, config.course
    for_ever = course.count(settings.keep_every, course.steps - 1) + 1 if settings.keep_every else 0
    count = settings.keep + 1 + bool(settings.best) + for_ever
    if settings.every.seconds is not None:
        return count
    return min(count, course.count(settings.every, course.steps - 1) + 1)


def samples_bytes(config: Config) -> int:
    """What all sample grids take, if nothing in them can be compressed."""
    data, settings = config.data, config.samples
    grids = config.course.count(settings.every, config.total_steps) + 2
    kinds = 2 if config.train.ema_kimg else 1  # of the averaged weights, and of the weights themselves
    return kinds * grids * settings.count * data.channels * data.resolution**2


def _taken(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _tensors(config: Config) -> Iterator[Tensor]:
    dtype = torch.float64 if config.train.precision == "fp64" else torch.float32
    with torch.device("meta"):  # shapes without memory
        networks = {"generator": make_generator(config), "critic": make_critic(config)}
    for name, network in networks.items():
        network.to(dtype)
        copies = 2 if name == "generator" else 1  # its running average
        yield from list(network.state_dict().values()) * copies
        optimizer = make_optimizer(getattr(config, name).optimizer, network)
        for parameter in network.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        for fields in optimizer.state.values():
            yield from fields.values()


def _lower(config: Config) -> str:
    settings = config.checkpoint
    return f"checkpoint.keep ({settings.keep})" + (
        f", use a longer checkpoint.keep_every ({settings.keep_every})" if settings.keep_every else ""
    )
