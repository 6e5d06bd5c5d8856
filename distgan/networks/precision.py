"""Parts of a network that work in the precision of what they get, whatever the rest of it does."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def as_given(x: Tensor) -> contextlib.AbstractContextManager:
    """Around what is to be computed in the dtype of `x` also under autocast. (Tensors without a device, whose shapes
    alone are asked for, know no autocast.)"""
    if x.device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)
