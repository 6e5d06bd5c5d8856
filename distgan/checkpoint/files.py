"""A checkpoint as a folder of files: written beside its final name, which it gets when it is whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distgan.checkpoint.manifest import MANIFEST, Damaged, seal, verify
from distgan.checkpoint.snapshot import TENSORS, Snapshot, Snapshots
from distgan.checkpoint.state import CRITIC, GENERATOR, GENERATOR_EMA, Progress, TrainState, load_optimizer
from distgan.errors import UserError
from distgan.files import sha256_of, sync_folder, with_usual_mode

_RECORD = "state.json"
_SETTINGS = "distgan.generator"
"""In the header of a generator's file: what it is built from, as JSON."""


class Misfit(UserError):
    """Weights of another network: the file, and what torch says of it."""

    def __init__(self, path: Path, detail: str) -> None:
        text = f"{path}: does not fit the network of the config; use the config of the run, or another run_dir"
        super().__init__(f"{text} ({detail})")
        self.detail = detail


def save(folder: Path, state: TrainState, extra: dict[str, Tensor]) -> None:
    """`write` of the state as it is now."""
    write(folder, Snapshots().take(state, extra))


def write(folder: Path, snapshot: Snapshot, before: Callable[[int], None] = lambda step: None) -> None:
    """Writes a checkpoint beside its final name, flushes it to disk and renames it; what had that name goes.

    `before` is called with the step when only the rename is left to do. Raises UserError when the disk does not take
    it; nothing half-written stays behind.
    """
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        snapshot.wait()
        for name, tensors in snapshot.files.items():
            with with_usual_mode(part / name):
                contiguous = {key: _contiguous(tensor) for key, tensor in tensors.items()}
                save_file(contiguous, part / name, _header(name, snapshot))
        (part / _RECORD).write_text(json.dumps(snapshot.record, indent=1))
        seal(part, snapshot.step)
        before(snapshot.step)
        set_aside(folder)
        os.rename(part, folder)
        sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise UserError(f"checkpoint {folder}: cannot be written: {_reason(error)}") from None
    except UserError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _header(name: str, snapshot: Snapshot) -> dict[str, str] | None:
    """What a file says of itself. One entry alone: safetensors writes several in an order that changes."""
    if name not in (GENERATOR, GENERATOR_EMA) or not snapshot.generator_settings:
        return None
    return {_SETTINGS: json.dumps(snapshot.generator_settings)}


def settings_in(path: Path) -> dict[str, object] | None:
    """What the generator in a .safetensors file is built from; None where the file does not say.

    Raises UserError where it is no whole .safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_SETTINGS)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: is no whole .safetensors file ({_reason(error)}); give one that training wrote"
        ) from None
    try:
        settings = None if text is None else json.loads(text)
    except ValueError:
        settings = None
    return settings if isinstance(settings, dict) else None


def set_aside(folder: Path) -> None:
    """Removes a checkpoint; its name goes first, so that none is ever seen with half of its files."""
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
        shutil.rmtree(old, ignore_errors=True)


def steps_in(checkpoints: Path) -> list[int]:
    """The steps whose checkpoints lie in a folder, ascending, whole or not."""
    if not checkpoints.is_dir():
        return []
    return sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal() and path.is_dir())


def newest_complete(checkpoints: Path, tell: Callable[[str], None] = lambda line: None) -> Path | None:
    """The checkpoint of the highest step of which every byte is as it was written; None where there is none at all.

    `tell` gets a line for each damaged one that is passed over. Raises UserError when all are damaged: a run that
    began anew would replace them.
    """
    damaged = []
    for step in reversed(steps_in(checkpoints)):
        folder = checkpoints / f"{step:08d}"
        try:
            verify(folder)
        except Damaged as error:
            if not folder.exists():  # a training that goes on has newer ones by now
                return newest_complete(checkpoints, tell)
            damaged.append(str(error))
        else:
            for line in damaged:
                tell(f"{line}; using {folder.name}")
            return folder
    if damaged:
        lines = [f"no checkpoint in {checkpoints} is whole; restore one, remove them all, or use another run_dir"]
        raise UserError("\n".join(lines + damaged))
    return None


def load(folder: Path, state: TrainState) -> dict[str, Tensor]:
    """Fills `state` from a checkpoint; returns the further tensors.

    Raises UserError naming the file when something is missing, damaged or of another shape."""
    for name, network in state.networks.items():
        load_network(folder / name, network)
    tensors = _read(folder / TENSORS)
    for name, optimizer in state.optimizers.items():
        load_optimizer(name, optimizer, tensors, folder / TENSORS)
    try:
        record = json.loads((folder / _RECORD).read_text())
        _require_known(record["progress"], folder)
        progress = Progress(**record["progress"])
        for name, kept in record["scalers"].items():
            if state.scalers[name].is_enabled():  # not after a change to another precision
                state.scalers[name].load_state_dict(kept)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"checkpoint {folder / _RECORD}: cannot be read: {error}; use another run_dir") from None
    state.progress.__dict__.update(asdict(progress))
    return {name.removeprefix("extra."): tensor for name, tensor in tensors.items() if name.startswith("extra.")}


def _require_known(progress: dict, folder: Path) -> None:
    """Raises UserError when it says what this version does not know, and so would forget."""
    unknown = sorted(progress.keys() - Progress.__dataclass_fields__.keys())
    if unknown:
        raise UserError(
            f"checkpoint {folder / _RECORD}: a newer version of distgan wrote it (with {', '.join(unknown)}); use that "
            "one"
        )


def images_in(folder: Path) -> int:
    """The real images that the critic had been shown when a checkpoint was made. Raises UserError naming the file."""
    path = folder / _RECORD
    try:
        return int(json.loads(path.read_text())["progress"]["images"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"checkpoint {path}: cannot be read: {error}; use another checkpoint") from None


def load_weights(folder: Path, state: TrainState) -> str:
    """Fills the networks of `state`, and nothing else, from a checkpoint; returns its name and checksum.

    Raises UserError naming the file."""
    for name in (GENERATOR, GENERATOR_EMA, CRITIC):
        load_network(folder / name, state.networks[name])
    return f"{folder.resolve()} {sha256_of(folder / MANIFEST)[:16]}"


def load_network(path: Path, network: nn.Module) -> None:
    """Fills a network from a .safetensors file. Raises UserError naming the file."""
    try:
        network.load_state_dict(_read(path))
    except RuntimeError as error:
        raise Misfit(path, str(error).strip().splitlines()[-1].strip()) from None


def _contiguous(tensor: Tensor) -> Tensor:
    """The tensor in the order of its indices, as safetensors wants it. By numpy: torch would take its threads from
    the training."""
    if tensor.is_contiguous():
        return tensor
    return torch.from_numpy(np.ascontiguousarray(tensor.numpy()))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: cannot be read: {error}; start again: a damaged checkpoint is then passed over"
        ) from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
