"""A copy of the state of a step on the host, which a thread can write while training goes on."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from distgan.checkpoint.state import TrainState, optimizer_tensors

TENSORS = "state.safetensors"


@dataclass
class Snapshot:
    """What the files of a checkpoint hold."""

    step: int
    files: dict[str, dict[str, Tensor]]
    """Tensors on the host, by file and name."""
    record: dict
    """Progress and loss scales, as plain values."""
    generator_settings: dict[str, object]
    """See `TrainState`."""
    copied: torch.cuda.Event | None = None
    """Reached when the tensors have come from the device."""

    def wait(self) -> None:
        """Until the tensors are there."""
        if self.copied is not None:
            self.copied.synchronize()


class Snapshots:
    """Takes snapshots into memory that the next one uses again: there is one at a time.

    From a device they come through pinned memory: in the device's own order, and without the host waiting for it.
    """

    def __init__(self) -> None:
        self._host: dict[tuple[str, str], Tensor] = {}

    @torch.no_grad()
    def take(self, state: TrainState, extra: dict[str, Tensor]) -> Snapshot:
        """`extra`: further tensors by name."""
        tensors = {f"extra.{name}": tensor for name, tensor in extra.items()}
        for name, optimizer in state.optimizers.items():
            tensors |= optimizer_tensors(name, optimizer)
        files = {name: dict(network.state_dict()) for name, network in state.networks.items()} | {TENSORS: tensors}
        sources = {(file, name): t.detach() for file, named in files.items() for name, t in named.items()}
        self._host = {key: self._room(key, tensor) for key, tensor in sources.items()}
        torch._foreach_copy_(list(self._host.values()), list(sources.values()), non_blocking=True)
        copied = None
        if any(tensor.is_cuda for tensor in sources.values()):
            copied = torch.cuda.Event()
            copied.record()
        scalers = {name: scaler.state_dict() for name, scaler in state.scalers.items() if scaler.is_enabled()}
        return Snapshot(
            state.progress.step,
            {file: {name: self._host[file, name] for name in named} for file, named in files.items()},
            {"progress": asdict(state.progress), "scalers": scalers},
            state.generator_settings,
            copied,
        )

    def _room(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        """Memory on the host for a tensor, with its strides: so that copying it is one run through memory."""
        known = self._host.get(key)
        if known is not None and (known.shape, known.dtype, known.stride()) == (
            tensor.shape,
            tensor.dtype,
            tensor.stride(),
        ):
            return known
        return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
