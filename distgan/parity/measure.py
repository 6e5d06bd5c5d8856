"""How far gradients are from what they must be."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from distgan.parity.reference import Gradients


def gradients_of(network: nn.Module) -> Gradients:
    """A copy of what is in `.grad`, in float64; zero where there is nothing."""
    return {
        name: torch.zeros_like(p, dtype=torch.float64) if p.grad is None else p.grad.to(torch.float64, copy=True)
        for name, p in network.named_parameters()
    }


def error(found: Gradients, wanted: Gradients) -> tuple[float, str]:
    """The Euclidean norm of the difference over that of `wanted`, all parameters together, and the name of the
    parameter that has most of it."""
    assert found.keys() == wanted.keys()
    parts = {name: _norm([found[name] - wanted[name]]) for name in wanted}
    worst = max(parts, key=lambda name: (parts[name] != parts[name], parts[name]))  # a NaN is the worst
    difference, whole = _norm(found[name] - wanted[name] for name in wanted), _norm(wanted.values())
    return (difference / whole if whole else math.inf if difference else 0.0), worst


def _norm(tensors: Iterable[Tensor]) -> float:
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]).norm().item()
