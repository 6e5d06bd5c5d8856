"""The endless stream of pictures, in an order that is a function of (seed, epoch) alone.

Position p of the stream is one picture, whatever the number of processes or threads: epoch p // count is a permutation
of all pictures, keyed by the seed. A global batch is the next `batch_size` positions, of which each rank takes its
slice. The whole state is one integer, so going on anywhere costs nothing.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from distgan import randomness
from distgan.data.index import ShardSet
from distgan.errors import PictureError

_AHEAD = 4
"""Batches that are read and decoded ahead of the one in use."""


class Batch(NamedTuple):
    """This rank's slice of a global batch."""

    pixels: Tensor
    """uint8 [n, C, H, W]."""
    labels: Tensor
    """int64 [n]; -1 where the shards have none."""


class Order:
    """Which sample stands at a position of the stream."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._epochs: dict[int, np.ndarray] = {}

    def samples(self, start: int, stop: int) -> np.ndarray:
        """The samples at positions start..stop-1, which may lie in several epochs."""
        positions = np.arange(start, stop)
        epochs = positions // self._count
        parts = [self._epoch(e)[positions[epochs == e] % self._count] for e in np.unique(epochs).tolist()]
        return np.concatenate(parts)

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            self._epochs = {e: order for e, order in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = randomness.permutation(
                randomness.key(self._seed, "order", epoch), self._count
            ).numpy()
        return self._epochs[epoch]


class Pictures:
    """Random access to the pictures of a set of shards, from any thread."""

    def __init__(self, shards: ShardSet, resolution: int, channels: int) -> None:
        self._shards, self._shape = shards, (channels, resolution, resolution)
        self._mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB
        _allow_files(len(shards.paths))
        self._files: dict[int, int] = {}
        self._lock = threading.Lock()

    def read_into(self, sample: int, out: Tensor) -> int:
        """Decodes a sample into `out`, uint8 [C, H, W]; returns its label.

        Raises PictureError naming shard and offset where the picture is not there, not a picture, or of another size.
        """
        shard, offset, size, label = self._shards.samples[sample].tolist()
        try:
            data = os.pread(self._file(shard), size, offset)
            if len(data) < size:
                raise ValueError(f"the shard ends after {len(data)} of its {size} bytes")
            picture = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=self._mode)
            if tuple(picture.shape) != self._shape:
                raise ValueError(f"it has shape {tuple(picture.shape)}, and the config asks for {self._shape}")
        except OSError as error:
            raise PictureError(f"{self._shards.paths[shard]}: cannot be read: {error.strerror}") from None
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise PictureError(
                f"{self._shards.paths[shard]}: picture {sample} at byte {offset}: {reason}; prepare the shards again"
            ) from None
        out.copy_(picture)
        return label

    def _file(self, shard: int) -> int:
        with self._lock:
            if shard not in self._files:
                self._files[shard] = os.open(self._shards.paths[shard], os.O_RDONLY)
            return self._files[shard]

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()


def _allow_files(count: int) -> None:
    """Lets this process keep all shards open, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 512 if hard == resource.RLIM_INFINITY else min(count + 512, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Stream:
    """Batches of this rank from a position on, read and decoded ahead by threads."""

    def __init__(
        self,
        shards: ShardSet,
        *,
        resolution: int,
        channels: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
        position: int = 0,
        pin: bool = False,
    ) -> None:
        """`batch_size` is global and a multiple of `world_size`; `position` counts images of the global stream."""
        self._pictures = Pictures(shards, resolution, channels)
        self._order = Order(shards.count, seed)
        self._batch, self._local = batch_size, batch_size // world_size
        self._offset = rank * self._local
        self._shape = (self._local, channels, resolution, resolution)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="stream")
        self._threads, self._pin = threads, pin
        self._next = position
        self._ahead: deque[tuple[Batch, list[Future]]] = deque()
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch. Raises PictureError when a picture of it cannot be read."""
        while len(self._ahead) < _AHEAD:
            self._ahead.append(self._start(self._next + self._offset))
            self._next += self._batch
        batch, parts = self._ahead.popleft()
        started = time.perf_counter()
        for part in parts:
            part.result()
        self.wait_seconds += time.perf_counter() - started
        return batch

    def _start(self, start: int) -> tuple[Batch, list[Future]]:
        samples = self._order.samples(start, start + self._local)
        pixels = torch.empty(self._shape, dtype=torch.uint8, pin_memory=self._pin)
        batch = Batch(pixels, torch.empty(self._local, dtype=torch.int64))
        parts = np.array_split(np.arange(self._local), min(self._threads, self._local))
        return batch, [self._pool.submit(self._fill, batch, samples, part) for part in parts]

    def _fill(self, batch: Batch, samples: np.ndarray, rows: np.ndarray) -> None:
        for row in rows.tolist():
            batch.labels[row] = self._pictures.read_into(int(samples[row]), batch.pixels[row])

    def close(self) -> None:
        """Stops the threads and closes the shards."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pictures.close()
