"""What of a run must survive a restart."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from distgan.errors import UserError

GENERATOR = "generator.safetensors"
GENERATOR_EMA = "generator_ema.safetensors"
CRITIC = "critic.safetensors"


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
    init: str | None = None
    """The checkpoint whose weights the run began with, and its checksum; None for weights of the seed."""
    tried: dict[str, int] = field(default_factory=dict)
    """Updates of each network, skipped ones included."""
    latest: float | None = None
    """Of the metric that `checkpoint.best` names, the value in the newest line."""
    best: float | None = None
    """Its best value of all at which a checkpoint was written."""
    best_step: int | None = None
    """The step of that checkpoint."""


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


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts under `NAME.PARAMETER.FIELD`."""
    return {
        f"{name}.{index}.{field}": tensor
        for index, fields in optimizer.state_dict()["state"].items()
        for field, tensor in fields.items()
    }


def load_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], source: object) -> None:
    """Fills in what `optimizer_tensors` gave; learning rates and the like stay those of the config.

    Raises UserError naming the `source` when they are of another kind of optimiser."""
    moment = "exp_avg_sq" if "betas" in optimizer.param_groups[0] else "square_avg"
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{name}."):
            _, index, field = key.split(".")
            state.setdefault(int(index), {})[field] = tensor
    if not all(moment in fields for fields in state.values()):
        raise UserError(f"{source}: is of another optimizer; set {name}.optimizer.name back, or use another run_dir")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, fields in optimizer.state.items():
        for field, tensor in fields.items():
            if tensor.shape == parameter.shape:  # in the parameter's memory format, as they were before
                fields[field] = torch.empty_like(parameter).copy_(tensor)
