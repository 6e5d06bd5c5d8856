"""The compiler, and what is done where it fails."""

from __future__ import annotations

import re
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
                _warn_once(f"train.compile: the compiler failed, going on without it: {_reason(error)}")
                compiled = None
        return function(*args, **kwargs)

    return call


def _reason(error: BaseException) -> str:
    """The first two lines, where the first may say no more than which compiler; of one that failed in a process of its
    own, whose first lines say just that, the last line of what it printed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[:2]
    if "subprocess" in " ".join(told):
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b.*:", line)]
        told = errors[-1:] or told
    return " ".join(told)


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
