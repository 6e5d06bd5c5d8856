"""Which shards from far away a process will read next, and which it has done with."""

from __future__ import annotations

import numpy as np

from distgan.data.order import Order

AHEAD = 4
"""Shards that are fetched before the first of their pictures is due."""


class ShardNeeds:
    """Follows the batches of one process through the shards. Batches are counted from the stream's first."""

    def __init__(self, order: Order, shard_of: np.ndarray, start: int, batch_size: int, offsets: np.ndarray) -> None:
        """`shard_of`: the shard of each sample of the order. The rows of batch b of this process stand at positions
        `start + b * batch_size + offsets`."""
        self._order, self._shard_of = order, shard_of
        self._start, self._batch, self._offsets = start, batch_size, offsets
        self._epoch = start // order.count
        self._coming: list[tuple[int, int, int]] = []  # batch of the first picture, of the last, shard
        self._until: dict[int, int] = {}

    def before(self, batch: int) -> list[int]:
        """The shards to ask for before a batch is begun: those it reads, and the next few, in order of need."""
        while len(self._coming) <= AHEAD or self._coming[-AHEAD - 1][0] <= batch:
            self._coming += self._of_epoch(self._epoch)
            self._epoch += 1
        wanted = []
        while self._coming and (self._coming[0][0] <= batch):
            wanted.append(self._take(self._coming.pop(0)))
        return wanted + [self._take(coming) for coming in self._coming[:AHEAD]]

    def after(self, batch: int) -> list[int]:
        """The shards that no batch after this one needs as far as is known: they may be closed."""
        done = [shard for shard, until in self._until.items() if until <= batch]
        for shard in done:
            del self._until[shard]
        return done

    def _take(self, coming: tuple[int, int, int]) -> int:
        _, last, shard = coming
        self._until[shard] = max(last, self._until.get(shard, 0))
        return shard

    def _of_epoch(self, epoch: int) -> list[tuple[int, int, int]]:
        begin, end = epoch * self._order.count, (epoch + 1) * self._order.count
        first = max((begin - self._start) // self._batch, 0)
        batches = np.arange(first, (end - 1 - self._start) // self._batch + 1)
        positions = self._start + batches[:, None] * self._batch + self._offsets
        inside = (positions >= max(begin, self._start)) & (positions < end)
        which = np.broadcast_to(batches[:, None], positions.shape)[inside]
        shards = self._shard_of[self._order.epoch(epoch)[positions[inside] - begin]]
        present, at = np.unique(shards, return_index=True)
        _, from_end = np.unique(shards[::-1], return_index=True)
        found = zip(which[at].tolist(), which[len(which) - 1 - from_end].tolist(), present.tolist(), strict=True)
        return sorted(found)
