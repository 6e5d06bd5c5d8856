"""Activation checkpointing: what a layer keeps for the backward is computed again there instead.

A network that offers it calls its layers through `kept_or_recomputed`, and `recompute` turns it on. The second forward
is the first one again: nothing random has a state (dropout is a function of keys), and batch norms take in no
statistics. It is correct under a double backward by `torch.autograd.grad(create_graph=True)`; `torch.func.grad` refuses
it, and the compiler has ways of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from distgan.networks.norms import batch_norms


def recompute(network: nn.Module) -> None:
    """From now on the layers of `network` keep only their inputs for the backward."""
    network.recomputes = True


def recomputes(network: nn.Module) -> bool:
    """Whether the layers of `network` keep only their inputs for the backward."""
    return getattr(network, "recomputes", False)


def kept_or_recomputed(network: nn.Module, layer: Callable[..., Tensor], *args: object) -> Tensor:
    """`layer(*args)`, a part of `network`."""
    if not (recomputes(network) and torch.is_grad_enabled()):
        return layer(*args)
    return checkpoint(
        layer,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (contextlib.nullcontext(), _WithoutTracking(network)),
    )


class _WithoutTracking:
    """Around a second forward; a double backward enters it more than once."""

    def __init__(self, network: nn.Module) -> None:
        self._norms = batch_norms(network)
        self._before: list[list[bool]] = []

    def __enter__(self) -> None:
        self._before.append([norm.tracks for norm in self._norms])
        for norm in self._norms:
            norm.tracks = False

    def __exit__(self, *_: object) -> None:
        for norm, before in zip(self._norms, self._before.pop(), strict=True):
            norm.tracks = before
