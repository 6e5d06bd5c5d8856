"""The endless stream of pictures: batches of one process, read and decoded ahead by threads.

What takes microseconds, as copying pixels that are in memory does, is done at once: to wake a thread takes longer.

Position p of the stream is one picture, whatever the number of processes or threads (order.py). A global batch is the
next `batch_size` positions, of which each rank takes its slice. The whole state is one integer, so going on anywhere
costs nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from distgan.data.decode import as_pictures
from distgan.data.needs import ShardNeeds
from distgan.data.order import Order, placement
from distgan.data.reader import Pictures

_AHEAD = 4
"""Batches that are read and decoded ahead of the one in use."""
_ROWS_OF_A_TASK = 8
"""Fewer pictures are not worth handing to another thread."""


class Batch(NamedTuple):
    """This rank's slice of a global batch."""

    pixels: Tensor
    """uint8 [n, C, H, W], channels last in memory."""
    labels: Tensor
    """int64 [n]; -1 where the shards have none."""


class BatchStream(Protocol):
    """What a trainer reads from."""

    wait_seconds: float
    """Time that the reader of the batches has waited for them."""

    @property
    def replaced(self) -> frozenset[str]:
        """Names of the bad pictures that this process has met since its start; the same on every process."""

    def __next__(self) -> Batch: ...

    def close(self) -> None:
        """Stops its threads and closes its files."""


class Source(Protocol):
    """Where samples are read by number: the shards, or a memory before them."""

    def read(self, samples: np.ndarray, rows: Tensor, labels: Tensor) -> None:
        """See `Pictures.read`."""

    def read_at_once(self, samples: np.ndarray, rows: Tensor, labels: Tensor) -> bool:
        """See `Pictures.read_at_once`."""


class Plan:
    """The samples of the batches of one rank from a position on."""

    def __init__(
        self,
        order: Order,
        samples: np.ndarray | None = None,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        position: int = 0,
        partitions: int = 1,
    ) -> None:
        """`batch_size` is global and a multiple of `world_size` and `partitions`; `position` counts images of the
        global stream. `samples` are those that the order speaks of, all of a set without it."""
        self.order, self.batch_size, self.local = order, batch_size, batch_size // world_size
        self.start = position
        self.offsets = placement(batch_size, partitions)[rank * self.local : (rank + 1) * self.local]
        self._samples = samples

    def batch(self, number: int) -> np.ndarray:
        """The samples of batch `number`, int64 [n], counted from the first."""
        return self.samples(self.places(number))

    def places(self, number: int) -> np.ndarray:
        """The places of these samples among all that the order speaks of."""
        return self.order.samples(self.start + number * self.batch_size + self.offsets)

    def samples(self, places: np.ndarray) -> np.ndarray:
        """The samples at these places."""
        return places if self._samples is None else self._samples[places].astype(np.int64)

    def samples_of_epoch(self, epoch: int) -> np.ndarray:
        """All samples in the order of an epoch, int64 [count]."""
        return self.samples(self.order.epoch(epoch).astype(np.int64))

    def next_epoch(self, number: int) -> int:
        """The epoch after the one that batch `number` begins in."""
        return (self.start + number * self.batch_size) // self.order.count + 1

    def needs(self, shard_of: np.ndarray) -> ShardNeeds:
        """`shard_of`: the shard of each sample of the set."""
        shards = shard_of if self._samples is None else shard_of[self._samples]
        return ShardNeeds(self.order, shards, self.start, self.batch_size, self.offsets)


class Stream:
    """Batches of this rank, read and decoded ahead by threads."""

    def __init__(
        self, plan: Plan, pictures: Pictures, source: Source | None = None, *, threads: int = 2, pin: bool = False
    ) -> None:
        """Reads from `source`, or straight from `pictures`. With `pin` batches lie in pinned memory."""
        self._plan, self._pictures, self._source = plan, pictures, source or pictures
        self._shape = (plan.local, pictures.decoder.bytes)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="stream")
        self._parts = max(1, min(-(-threads // _AHEAD), plan.local // _ROWS_OF_A_TASK))  # of a batch: busy all the same
        self._pin = pin
        self._planned = self._taken = self._epoch = 0
        self._ahead: deque[tuple[Batch, list[Future]]] = deque()
        self._needs = plan.needs(pictures.shard_of) if pictures.shelf.fetches else None
        self._batches_of_epoch = -(-plan.order.count // plan.batch_size)
        self._last_read = 0
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch. Raises ReadError when a picture of it cannot be read."""
        started = time.perf_counter()
        while len(self._ahead) < _AHEAD:
            self._ahead.append(self._start(self._planned))
            self._planned += 1
        batch, parts = self._ahead.popleft()
        for part in parts:
            part.result()
        self.wait_seconds += time.perf_counter() - started
        if self._needs is not None:
            self._pictures.shelf.give_up(self._needs.after(self._taken))
        self._taken += 1
        return batch

    @property
    def replaced(self) -> frozenset[str]:
        return self._pictures.replaced

    def _start(self, number: int) -> tuple[Batch, list[Future]]:
        samples = self._plan.batch(number)
        rows = torch.empty(self._shape, dtype=torch.uint8, pin_memory=self._pin)
        batch = Batch(
            as_pictures(rows, self._pictures.decoder.shape),
            torch.empty(len(samples), dtype=torch.int64, pin_memory=self._pin),
        )
        self._fetch_ahead(number)
        if self._source.read_at_once(samples, rows, batch.labels):
            parts = []
        else:
            parts, self._last_read = self._read(samples, rows, batch.labels), number
        coming = self._plan.next_epoch(number)
        if coming != self._epoch:  # its order is made while this epoch is read
            self._epoch = coming
            self._pool.submit(self._plan.order.epoch, coming)
        return batch, parts

    def _fetch_ahead(self, number: int) -> None:
        """Asks for the shards of batch `number` and the next; not when all that an epoch has needed was in memory."""
        if self._needs is not None:
            wanted = self._needs.before(number)
            if number - self._last_read <= self._batches_of_epoch:
                self._pictures.shelf.want(wanted)

    def _read(self, samples: np.ndarray, rows: Tensor, labels: Tensor) -> list[Future]:
        edges = [len(samples) * part // self._parts for part in range(self._parts + 1)]
        return [
            self._pool.submit(self._source.read, samples[a:b], rows[a:b], labels[a:b])
            for a, b in zip(edges, edges[1:], strict=False)
        ]

    def close(self) -> None:
        """Stops the threads and closes the shards."""
        self._pictures.shelf.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pictures.shelf.close()
