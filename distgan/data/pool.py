"""Worker processes that turn items into encoded pictures, in order, a bounded number of chunks ahead of the writer."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from distgan.data.pictures import Item, Recipe, Rendered, render_all
from distgan.data.shards import Slot
from distgan.errors import UserError

CHUNK = 32  # pictures of one task, of small ones ...
CHUNK_BYTES = 2**23  # ... and of large ones as many as have so many bytes of pixels: they lie in memory until written
AHEAD = 3  # tasks in flight for each worker
WORTH_A_POOL = 256  # fewer small pictures are done sooner than processes start ...
WORTH_A_POOL_PIXELS = 2**22  # ... unless they become so many pixels together


def default_workers() -> int:
    """The cores this process may use (Slurm and containers give fewer than the machine has), at most 32."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 32)


@contextmanager
def rendered_chunks(
    items: Sequence[Item], slots: Sequence[Slot], recipe: Recipe, workers: int
) -> Iterator[Iterator[list[Rendered]]]:
    """The items of the slots, rendered, in order; no chunk reaches over the end of a slot.

    Raises `UserError` where a worker process dies.
    """
    chunk = max(1, min(CHUNK, CHUNK_BYTES // (recipe.resolution**2 * recipe.channels)))
    tasks = [(i, min(i + chunk, slot.stop)) for slot in slots for i in range(slot.start, slot.stop, chunk)]
    count = sum(slot.stop - slot.start for slot in slots)
    if workers == 1 or (count < WORTH_A_POOL and count * recipe.resolution**2 < WORTH_A_POOL_PIXELS):
        yield (render_all(items[start:stop], recipe) for start, stop in tasks)
        return
    # spawn: a forked child of a process with threads (torch's, by way of webdataset) may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_start_worker)
    try:
        yield _in_order(pool, items, tasks, recipe, AHEAD * workers)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _in_order(pool, items: Sequence[Item], tasks, recipe: Recipe, ahead: int) -> Iterator[list[Rendered]]:
    waiting: deque = deque()
    try:
        for start, stop in tasks:
            waiting.append(pool.submit(render_all, items[start:stop], recipe))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        time.sleep(0.5)  # a SIGTERM for the whole job may reach the workers first: let our own arrive
        raise UserError(
            "a worker process died, perhaps for lack of memory; run the same command with fewer --workers, it goes on"
        ) from None


def _start_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends when the parent is killed: a worker alone would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
