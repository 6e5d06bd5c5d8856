"""What to set where a step takes too much memory."""

from __future__ import annotations

from collections.abc import Callable

from distgan.config import Config, process_conflicts
from distgan.runtime import Runtime


def smaller(config: Config, runtime: Runtime, fits: Callable[[int], bool] = lambda micro_batch: True) -> str:
    """Half of the micro-batch of now, or as small a part of it as `fits`; something else where it cannot be smaller."""
    train = config.train
    local = train.batch_size // runtime.world_size
    group = getattr(config.critic, "minibatch_std", 0) or 1
    micro = min(train.micro_batch or local, local)
    while micro := micro // 2 // group * group:
        made = config.model_copy(update={"train": train.model_copy(update={"micro_batch": micro})})
        if process_conflicts(made, runtime.world_size):
            break
        if fits(micro):
            return f"set train.micro_batch: {micro}, which changes nothing in what is learned"
    return "use more processes, a smaller train.batch_size or narrower networks"
