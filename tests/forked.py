"""Real processes that reduce over gloo: what a launcher would start, in a tenth of a second."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState

from distgan import runtime


def in_processes(
    world_size: int, folder: Path, function: Callable, *args: object, seconds: float = 60, patience: float = 50
) -> list:
    """What `function(rank, *args)` returns in each of `world_size` processes that see each other.

    They are killed after `seconds`; one that waits for another's part in a reduction gives up after `patience`.

    `function` is a module's own, since a machine with CUDA needs spawned processes (its autograd threads do not
    survive a fork)."""
    context = torch.multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    folder.mkdir(parents=True, exist_ok=True)
    members = [
        context.Process(target=_member, args=(rank, world_size, folder, function, args, patience), daemon=True)
        for rank in range(world_size)
    ]
    for member in members:
        member.start()
    for member in members:
        member.join(seconds)
    still = [member for member in members if member.is_alive()]
    for member in still:
        member.kill()
    assert not still, "the processes wait for each other"
    assert [member.exitcode for member in members] == [0] * world_size
    return [torch.load(folder / f"result {rank}", weights_only=False) for rank in range(world_size)]


def _member(rank: int, world_size: int, folder: Path, function: Callable, args: tuple, patience: float) -> None:
    torch.set_num_threads(1)
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update(
        {name: str(value) for name, value in places.items()}, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1"
    )
    runtime.cores_of_a_process = lambda world_size: (
        1
    )  # torch's other threads have stayed behind, and it would wait for them
    AcceleratorState._reset_state(reset_partial_state=True)  # of the process that this one was forked from
    meeting = f"file://{folder.resolve()}/rendezvous"
    dist.init_process_group("gloo", meeting, timedelta(seconds=patience), world_size=world_size, rank=rank)
    torch.save(function(rank, *args), folder / f"result {rank}")
    if dist.is_initialized():  # unless the function has closed it
        dist.destroy_process_group()
