"""Work in fixed blocks, dealt to the processes of a run and to their threads; what comes of it is in order again.

Convolutions and matrix products round otherwise for another batch, or another number of threads. So a block is always
the same rows, is worked on by one thread, and what is summed over blocks is summed over all rows, in their order.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from distgan.runtime import Runtime

_BLOCK = 50
_BLOCK_PIXELS = _BLOCK * 128**2
"""Most pixels of a block: what a network makes of them takes many times their memory."""

T = TypeVar("T")
Part = TypeVar("Part")


def block_of(resolution: int) -> int:
    """Pictures of a block, an even number."""
    return max(2, min(_BLOCK, _BLOCK_PIXELS // resolution**2) // 2 * 2)


@contextlib.contextmanager
def threads(count: int) -> Iterator[Callable[[Callable[[Part], T], Iterable[Part]], Iterable[T]]]:
    """A `map` over `count` threads, of which each computes alone, as this one does meanwhile; results are in order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if count == 1:
            yield map
            return
        pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)
    finally:
        torch.set_num_threads(before)


class Interrupted(Exception):
    """The run is to stop, and what was being made is not there; on all processes alike."""


class Crew:
    """The threads of all processes. Its methods are collective."""

    def __init__(
        self, runtime: Runtime, block: int, moved: Callable[[], None], is_to_stop: Callable[[], bool] = lambda: False
    ) -> None:
        """`block`: pictures of a block. `moved` is called after each, equally often on all processes; `is_to_stop`
        says on the main process whether to leave long work undone."""
        self.runtime, self.block, self._moved, self._is_to_stop = runtime, block, moved, is_to_stop

    def __enter__(self) -> Crew:
        self._stack = contextlib.ExitStack()
        on_device = self.runtime.device.type == "cuda"  # whose work stands in one queue
        self._map = self._stack.enter_context(threads(1 if on_device else self.runtime.cores))
        return self

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    @property
    def arithmetic(self) -> str:
        """The kind of device, and with CUDA whether products are in TF32: what another one finds differs."""
        kind = self.runtime.device.type
        return f"{kind} tf32" if kind == "cuda" and torch.backends.cuda.matmul.allow_tf32 else kind

    def own(self, count: int, size: int | None = None) -> list[range]:
        """The blocks of this process, of the positions 0 to `count` - 1; every `world_size`-th."""
        size = size or self.block
        starts = range(0, count, size)[self.runtime.rank :: self.runtime.world_size]
        return [range(start, min(start + size, count)) for start in starts]

    def each(self, count: int, work: Callable[[range], T], size: int | None = None) -> list[T]:
        """What `work` makes of each of this process's blocks, in order. A process that has none does the first block,
        so that it knows the form of what the others have."""
        blocks, found = self.own(count, size) or [range(min(size or self.block, count))], []
        for result in self._map(work, blocks):
            found.append(result)
            self._moved()
        for _ in range(self._rounds(count, size) - len(blocks)):
            self._moved()
        return found

    def rows(self, count: int, work: Callable[[range], Tensor], size: int | None = None) -> Tensor:
        """What `work` makes of each block, a row a position, of all processes and in order: [count, ...], on the
        device."""
        runtime, size = self.runtime, size or self.block
        parts, rounds = self.each(count, work, size), self._rounds(count, size)
        here = torch.zeros(rounds * size, *parts[0].shape[1:], dtype=parts[0].dtype, device=runtime.device)
        for number, part in enumerate(parts):
            here[number * size : number * size + len(part)] = part
        del parts
        everywhere = runtime.gather(here).view(runtime.world_size, rounds, size, *here.shape[1:])
        return everywhere.transpose(0, 1).flatten(0, 2)[:count]

    def main(self, work: Callable[[Callable[[], None]], T], *, may_stop: bool = False) -> T:
        """What `work` returns on the main process, which alone does it, on all. It is given the sign of life; the
        others give theirs as often afterwards. With `may_stop` raises Interrupted, on all, where the run is to stop
        between two of these signs."""
        times = 0

        def moved() -> None:
            nonlocal times
            times += 1
            self._moved()
            if may_stop and self._is_to_stop():
                raise Interrupted

        def attempt() -> tuple[T | None, int, bool]:
            try:
                return work(moved), times, True
            except Interrupted:
                return None, times, False

        found, times_there, is_done = self.runtime.from_main(attempt)
        for _ in range(0 if self.runtime.is_main else times_there):
            self._moved()
        if not is_done:
            raise Interrupted
        return found

    def _rounds(self, count: int, size: int | None) -> int:
        """Blocks of the process that has most."""
        return math.ceil(math.ceil(count / (size or self.block)) / self.runtime.world_size)


def all_cores() -> int:
    """Those that this process may use while the others of its machine wait."""
    return len(os.sched_getaffinity(0))
