"""The compiler, and what is done where it fails."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


def compile_or_fall_back(function: Callable, *, backend: str = "inductor", graphs: bool = False) -> Callable:
    """`function` compiled, replayed with `graphs`; where the compiler fails, the function itself and one warning."""
    torch._dynamo.config.optimize_ddp = False  # DDP is outside: nothing to split, and its splitter raises
    options = {"triton.cudagraphs": True} if graphs else None
    compiled: Callable | None = torch.compile(function, dynamic=False, backend=backend, options=options)

    def call(*args, **kwargs):
        nonlocal compiled
        if compiled is not None:
            try:
                return _replayed(compiled, args, kwargs) if graphs else compiled(*args, **kwargs)
            except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
                reason = " ".join(str(error).strip().splitlines()[:2])  # the first may say no more than which compiler
                _warn_once(f"train.compile: the compiler failed, going on without it: {reason}")
                compiled = None
        return function(*args, **kwargs)

    return call


_told: set[str] = set()
"""Of the three functions that a training compiles all may fail for one reason."""


def _warn_once(text: str) -> None:
    if text not in _told:
        _told.add(text)
        warnings.warn(text, stacklevel=3)


def _replayed(compiled: Callable, args: tuple, kwargs: dict) -> object:
    """What a CUDA graph returns, out of the memory that its next replay writes to."""
    torch.compiler.cudagraph_mark_step_begin()
    return tree_map_only(Tensor, Tensor.clone, compiled(*args, **kwargs))
