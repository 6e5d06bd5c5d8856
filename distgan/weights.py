"""All weights of a network at once: compared, checked, clamped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


def checksum(network: nn.Module) -> int:
    """A number that networks of the same bits share: the sum of their bytes, whatever adds it up."""
    tensors = (tensor.detach().cpu().contiguous() for tensor in network.state_dict().values())
    return sum(int(tensor.flatten().view(torch.uint8).sum(dtype=torch.int64)) for tensor in tensors)


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all entries are: their sums are added up, in a sixtieth of the time. Waits for the device, once."""
    return bool(torch.stack([tensor.sum().isfinite() for tensor in tensors]).all())


@contextlib.contextmanager
def buffers_kept(*networks: nn.Module) -> Iterator[None]:
    """Around forwards in training mode, which see what the loss sees, batch norms' statistics of the batch included:
    the running ones are put back."""
    buffers = [buffer for network in networks for buffer in network.buffers()]
    before = [buffer.clone() for buffer in buffers]
    yield
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)


@torch.no_grad()
def clamp(network: nn.Module, limit: float) -> None:
    """Clamps every parameter to [-limit, limit]."""
    torch._foreach_clamp_min_(list(network.parameters()), -limit)
    torch._foreach_clamp_max_(list(network.parameters()), limit)
