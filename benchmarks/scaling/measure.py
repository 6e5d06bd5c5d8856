"""All-reduces between processes of this machine (gloo), and the line through their times."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

SIZES = (4_000, 40_000, 400_000, 4_000_000, 16_000_000)
"""Bytes."""
ROUNDS = 15


def reductions(processes: int, more: Sequence[int] = ()) -> dict[int, float]:
    """Median seconds of an all-reduce by its bytes, those of `more` too; of the slowest process."""
    sizes = sorted({*SIZES, *more})
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_member, (processes, folder, sizes), nprocs=processes)
        parts = [torch.load(Path(folder, str(rank))) for rank in range(processes)]
    return {size: max(part[size] for part in parts) for size in sizes}


def _member(rank: int, processes: int, folder: str, sizes: Sequence[int]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", world_size=processes, rank=rank)
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(ROUNDS + 1):
        for size in sizes:
            values = torch.ones(size // 4)
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(values)
            if number:  # the first one opens what the others use
                found[size].append(time.perf_counter() - began)
    torch.save({size: statistics.median(times) for size, times in found.items()}, Path(folder, str(rank)))
    dist.destroy_process_group()


def line_through(times: dict[int, float], processes: int) -> tuple[float, float]:
    """Seconds of a hop, and bytes a second of a link: those of a ring whose smallest and largest all-reduce take what
    was measured."""
    small, large = SIZES[0], SIZES[-1]
    bandwidth = 2 * (processes - 1) / processes * (large - small) / (times[large] - times[small])
    hop = times[small] / (2 * (processes - 1)) - small / processes / bandwidth
    return max(hop, 0.0), bandwidth
