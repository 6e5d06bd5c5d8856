"""Which picture stands at a position of the endless stream: a function of (seed, epoch) alone.

Epoch e is positions e * count to (e + 1) * count - 1, and holds every picture once. Nothing here knows of processes,
threads or batches, so that none of these can change what is read.

Two orders. `shuffle` is one permutation of all pictures. `window` lets the shards of an epoch come in a permutation of
their own and mixes about `window` of them at a time: shard s of the epoch gives its pictures the keys s + window * u,
with u uniform in [0, 1), and the pictures are read by their keys; at key k those shards are in use that lie in
(k - window, k]. So that a machine need not have all of these, `partitions` splits the pictures, by whole shards but for
the ones at the seams, into that many equal parts that stay the same for the whole run: position p is read from part
p mod partitions, and `placement` puts the pictures of one part side by side in a batch, a slice for a machine.
"""

from __future__ import annotations

import threading

import numpy as np
import torch

from distgan import randomness

_CHUNK = 1 << 20


class Order:
    """The order of `count` samples; `window` shards are mixed at a time, or all of them without it."""

    def __init__(
        self,
        count: int,
        seed: int,
        *,
        shard_of: np.ndarray | None = None,
        window: int | None = None,
        partitions: int = 1,
    ) -> None:
        """`shard_of`, integers [count], names the shard of each sample; only windows and partitions need it."""
        self.count, self._seed, self._partitions = count, seed, partitions
        self._window = window and max(1, -(-window // partitions))
        self._shard_of = shard_of
        self._parted = self._arrange() if partitions > 1 else None
        self._epochs: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def samples(self, positions: np.ndarray) -> np.ndarray:
        """The samples at these positions (int64 [n], in any order, of any epochs); int64 [n]."""
        epochs, places = np.divmod(positions, self.count)
        first, last = int(epochs.min()), int(epochs.max())
        if first == last:
            return self.epoch(first)[places].astype(np.int64)
        found = np.empty(len(positions), np.int64)
        for epoch in range(first, last + 1):
            here = epochs == epoch
            found[here] = self.epoch(epoch)[places[here]]
        return found

    def epoch(self, epoch: int) -> np.ndarray:
        """All samples in the order of an epoch, uint32 [count]. Two epochs are remembered; any thread may ask, and
        waits only for one that is being made."""
        known = self._epochs.get(epoch)
        if known is not None:
            return known
        with self._lock:
            if epoch not in self._epochs:
                near = {e: order for e, order in self._epochs.items() if abs(e - epoch) == 1}
                self._epochs = {**near, epoch: self._permuted(epoch)}
            return self._epochs[epoch]

    def _permuted(self, epoch: int) -> np.ndarray:
        if self._partitions == 1:
            return self._sorted(None, epoch)
        order, start, cut = np.empty(self.count, np.uint32), epoch * self.count, 0
        for part in range(self._partitions):
            places = slice((part - start) % self._partitions, None, self._partitions)
            length = len(range(*places.indices(self.count)))
            order[places] = self._sorted(self._parted[cut : cut + length], epoch)
            cut += length
        return order

    def _sorted(self, members: np.ndarray | None, epoch: int) -> np.ndarray:
        """The members (None: all samples) by their keys, uint32.

        A key has the number of its sample in its low bits, so that they are sorted in place: for ten million samples
        an argsort would take twice the memory and time.
        """
        keys = _hashes(randomness.key(self._seed, "order", epoch), self.count if members is None else members)
        keys ^= np.uint64(1 << 63)  # ordered as the signed numbers are
        low = np.uint64(max(len(keys) - 1, 1).bit_length())
        if self._window is not None and len(keys):
            shards = self._shard_of if members is None else self._shard_of[members]
            self._into_window(keys, shards, epoch, 64 - int(low))
        else:
            keys >>= low
        keys <<= low
        for start in range(0, len(keys), _CHUNK):
            part = keys[start : start + _CHUNK]
            part |= np.arange(start, start + len(part), dtype=np.uint64)
        keys.sort()
        keys &= (np.uint64(1) << low) - np.uint64(1)
        order = keys.astype(np.uint32)
        return order if members is None else members[order]

    def _into_window(self, keys: np.ndarray, shards: np.ndarray, epoch: int, bits: int) -> None:
        """Makes of 64-bit hashes keys of `bits` bits by shard and hash, in place: integers, the same everywhere."""
        present = np.flatnonzero(np.bincount(shards))
        window = min(self._window, len(present))
        bits -= (len(present) + window).bit_length()
        rank = np.zeros(int(present[-1]) + 1, np.uint64)
        by_hash = np.argsort(_hashes(randomness.key(self._seed, "shards", epoch), present))
        rank[present[by_hash]] = np.arange(len(present), dtype=np.uint64) << np.uint64(bits)
        keys >>= np.uint64(64 - bits)
        keys *= np.uint64(window)
        for start in range(0, len(keys), _CHUNK):
            keys[start : start + _CHUNK] += rank[shards[start : start + _CHUNK]]

    def _arrange(self) -> np.ndarray:
        """All samples with those of a shard side by side, the shards in an order of their own."""
        shards = np.arange(int(self._shard_of.max()) + 1)
        rank = np.empty(len(shards), np.int32)
        rank[np.argsort(_hashes(randomness.key(self._seed, "partitions"), shards))] = shards
        return np.argsort(rank[self._shard_of], kind="stable").astype(np.uint32)


def placement(batch_size: int, partitions: int) -> np.ndarray:
    """For each row of a global batch, how far its position lies behind the batch's first: int64 [batch_size]."""
    return np.arange(batch_size).reshape(-1, partitions).T.reshape(-1)


def _hashes(base: int, numbers: np.ndarray | int) -> np.ndarray:
    """The hash of each number (of 0 to n - 1 where n is given), uint64; a million at a time, since the temporaries of
    ten million are half a gigabyte."""
    found = np.empty(numbers if isinstance(numbers, int) else len(numbers), np.uint64)
    for start in range(0, len(found), _CHUNK):
        stop = min(start + _CHUNK, len(found))
        part = np.arange(start, stop) if isinstance(numbers, int) else numbers[start:stop].astype(np.int64)
        found[start:stop] = randomness.image_keys(base, torch.from_numpy(part)).numpy().view(np.uint64)
    return found
