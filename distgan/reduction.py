"""How DDP reduces the gradients of an objective: in their own numbers, or rounded to bfloat16 on the way."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook, bf16_compress_hook

_HOOKS = {"fp32": allreduce_hook, "bf16": bf16_compress_hook}


class Reduction:
    """The hook of an objective under DDP, which takes one and no more."""

    def __init__(self, objective: nn.Module, number: str) -> None:
        """`number`: as `train.reduce`; fp32 leaves gradients as they are, also those of fp64."""
        self._hook, self._number = _HOOKS[number], number
        self._sizes: list[int] | None = None
        objective.register_comm_hook(None, self._reduce)

    def count(self) -> list[int]:
        """From now on the bytes of every bucket, as they are sent."""
        if self._sizes is None:
            self._sizes = []
        return self._sizes

    def _reduce(self, _, bucket):  # DDP reads annotations, and refuses them as strings
        if self._sizes is not None:
            self._sizes.append(sent_bytes(bucket.buffer().nbytes, self._number))
        return self._hook(dist.group.WORLD, bucket)


def sent_bytes(size: int, number: str) -> int:
    """What gradients of so many bytes are when they are sent; bfloat16 only takes the place of float32."""
    return size // 2 if number == "bf16" else size
