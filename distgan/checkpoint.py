"""Checkpoints: weights and everything else that shapes the rest of a run, under their final name only when whole."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.amp import GradScaler

from distgan.errors import UserError
from distgan.files import sync_folder

GENERATOR = "generator.safetensors"
GENERATOR_EMA = "generator_ema.safetensors"
CRITIC = "critic.safetensors"
_TENSORS = "state.safetensors"
_PROGRESS = "state.json"


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """Steps done."""
    images: int = 0
    """Real images shown to the critic; the position of the next one in the stream."""
    seconds: float = 0.0
    """Training time over all starts."""
    wandb_id: str | None = None
    """Id of the W&B run that all starts share."""
    data: str | None = None
    """Fingerprint of the pictures."""
    tried: dict[str, int] = field(default_factory=dict)
    """Updates of each network, those too that were skipped. Checkpoints of older versions have none of it."""
    rollbacks: int = 0
    """Times that the run went back to a checkpoint after bad numbers, to go on with other noise."""


@dataclass
class TrainState:
    """Everything that must survive a restart, as live objects."""

    networks: dict[str, nn.Module]
    """By the file that keeps them."""
    optimizers: dict[str, torch.optim.Optimizer]
    """By the name of their network."""
    progress: Progress
    scalers: dict[str, GradScaler] = field(default_factory=dict)
    """Of the loss of each network with fp16; without effect, and without a state, in other precisions."""


def save(folder: Path, state: TrainState, extra: dict[str, Tensor]) -> None:
    """Writes a checkpoint beside its final name, flushes it to disk and renames it.

    `extra`: further tensors by name. Raises UserError when the disk does not take it; nothing half-written stays
    behind.
    """
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, network in state.networks.items():
            save_file(_contiguous(network.state_dict()), part / name)
        tensors = {f"extra.{name}": tensor for name, tensor in extra.items()}
        for name, optimizer in state.optimizers.items():
            tensors |= _optimizer_tensors(name, optimizer)
        save_file(_contiguous(tensors), part / _TENSORS)
        scalers = {name: scaler.state_dict() for name, scaler in state.scalers.items() if scaler.is_enabled()}
        record = {"progress": asdict(state.progress), "scalers": scalers}
        (part / _PROGRESS).write_text(json.dumps(record, indent=1))
        _flush(part)
        os.replace(part, folder)
        sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"checkpoint {folder}: cannot be written: {reason}; make room and start again to resume"
        ) from None


def load(folder: Path, state: TrainState) -> dict[str, Tensor]:
    """Fills `state` from a checkpoint; returns the further tensors.

    Raises UserError naming the file when something is missing, damaged or of another shape."""
    for name, network in state.networks.items():
        load_network(folder / name, network)
    tensors = _read(folder / _TENSORS)
    for name, optimizer in state.optimizers.items():
        _load_optimizer(name, optimizer, tensors, folder / _TENSORS)
    try:
        record = json.loads((folder / _PROGRESS).read_text())
        progress = Progress(**record["progress"])
        scalers = {} if record.get("scaler", ...) is None else record["scalers"]  # at first there was one for all
        for name, kept in scalers.items():
            if state.scalers[name].is_enabled():  # not after a change to another precision
                state.scalers[name].load_state_dict(kept)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"checkpoint {folder / _PROGRESS}: cannot be read: {error}; remove {folder}") from None
    state.progress.__dict__.update(asdict(progress))
    return {name.removeprefix("extra."): tensor for name, tensor in tensors.items() if name.startswith("extra.")}


def load_network(path: Path, network: nn.Module) -> None:
    """Fills a network from a .safetensors file. Raises UserError naming the file."""
    try:
        network.load_state_dict(_read(path))
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"{path}: does not fit the network of the config; use the config of the run, or another run_dir ({detail})"
        ) from None


def newest(checkpoints: Path) -> Path | None:
    """The checkpoint of the highest step, or None."""
    found = sorted(path for path in checkpoints.glob("[0-9]*") if path.is_dir())
    return found[-1] if found else None


def prune(checkpoints: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints, and what a killed save left behind."""
    found = sorted(path for path in checkpoints.glob("[0-9]*") if path.is_dir())
    for path in [*found[:-keep], *checkpoints.glob(".*.part")]:
        shutil.rmtree(path, ignore_errors=True)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the host that share no memory, as safetensors wants them."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def _optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}.{index}.{field}": tensor
        for index, fields in optimizer.state_dict()["state"].items()
        for field, tensor in fields.items()
    }


def _load_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], path: Path) -> None:
    """Moments and step counts; learning rates and the like stay those of the config."""
    moment = "exp_avg_sq" if "betas" in optimizer.param_groups[0] else "square_avg"
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{name}."):
            _, index, field = key.split(".")
            state.setdefault(int(index), {})[field] = tensor
    if not all(moment in fields for fields in state.values()):
        raise UserError(f"{path}: is of another optimizer; set {name}.optimizer.name back, or use another run_dir")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, fields in optimizer.state.items():
        for field, tensor in fields.items():
            if tensor.shape == parameter.shape:  # in the parameter's memory format, as they were before
                fields[field] = torch.empty_like(parameter).copy_(tensor)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read: {error}; remove {path.parent} to use the checkpoint before") from None


def _flush(folder: Path) -> None:
    """Makes the files and the folder's entries durable before the rename makes them visible."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
