"""What of a run must survive a restart."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from distgan.errors import UserError
from distgan.weights import is_finite

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
    skipped_in_a_row: dict[str, int] = field(default_factory=dict)
    """Updates of each network that train.bad_numbers skip left out one after the other, the newest included."""
    rollbacks: int = 0
    """Times that the run went back to a checkpoint after bad numbers, to go on with other noise."""
    lines: int = 0
    """In metrics.jsonl."""
    last_line: int | None = None
    """Step of the newest of them; 0 without any, None in a checkpoint that does not say."""
    real_diversity: float | None = None
    """How different the real pictures are that generator/diversity compares with; None: not measured yet."""
    judged_by: str | None = None
    """By what the best checkpoint is found, such as `lowest critic/loss`, `lowest evaluate/swd of 10000`."""
    latest: float | None = None
    """The value of that metric in the newest line."""
    latest_step: int = 0
    """The step of the newest line that has it."""
    best: float | None = None
    """Its best value of all at which a checkpoint was written."""
    best_step: int | None = None
    """The step of that checkpoint."""

    def judge_by(self, metric: str | None, which: str, count: int) -> None:
        """Takes a metric, of which the `lowest` or `highest` value is the best; what another one said is forgotten, and
        what an evaluation of another `count` of pictures did, which cannot be compared."""
        wanted = None if metric is None else f"{which} {metric}"
        if metric is not None and metric.startswith("evaluate/"):
            wanted += f" of {count}"
        if wanted != self.judged_by:
            self.judged_by, self.latest, self.best, self.best_step = wanted, None, None, None

    @property
    def is_judged_by_evaluations(self) -> bool:
        """Whether only a checkpoint of the very step of an evaluation can be the best."""
        return self.judged_by is not None and self.judged_by.split()[1].startswith("evaluate/")

    def note(self, metrics: dict[str, float]) -> None:
        """Hears of a line."""
        if self.judged_by is not None and (name := self.judged_by.split()[1]) in metrics:
            self.latest, self.latest_step = metrics[name], int(metrics["step"])

    def note_checkpoint(self) -> None:
        """Hears that a checkpoint of now is to be written."""
        if self.latest is None or not math.isfinite(self.latest):
            return
        if self.is_judged_by_evaluations and self.latest_step != self.step:
            return
        sign = -1 if self.judged_by.startswith("highest") else 1
        if self.best is None or sign * self.latest < sign * self.best:
            self.best, self.best_step = self.latest, self.step


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
    generator_settings: dict[str, object] = field(default_factory=dict)
    """What the generator is built from, plain values: its files keep them, to be enough by themselves."""

    def broken(self) -> list[str]:
        """What of it is not finite, weights and moments. Waits for the device."""
        found = [
            f"weights of {file}"
            for file, network in self.networks.items()
            if not is_finite(network.state_dict().values())
        ]
        for name, optimizer in self.optimizers.items():
            moments = [t for fields in optimizer.state.values() for t in fields.values() if t.dim()]  # not step counts
            if moments and not is_finite(moments):
                found.append(f"moments of the {name}'s optimizer")
        return found


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
