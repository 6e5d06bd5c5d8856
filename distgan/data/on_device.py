"""Batches on the device: copied there ahead of need, or taken from a whole set that lies there."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from distgan.data.decode import as_pictures
from distgan.data.progress import Progress
from distgan.data.reader import Pictures
from distgan.data.stream import Batch, BatchStream, Plan, Source

_FILL = 256  # pictures that are copied to the device at once


class CopiedAhead:
    """The batches of a stream on a CUDA device: each is copied on a CUDA stream of its own while the one before is in
    use, by a thread that waits for the decoders so that the trainer need not."""

    def __init__(self, batches: BatchStream, device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._copies = torch.cuda.Stream(device)
        self._ready: queue.Queue = queue.Queue(maxsize=2)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._copy_all, name="copies", daemon=True)
        self._thread.start()
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        started = time.perf_counter()
        ready = self._ready.get()
        self.wait_seconds += time.perf_counter() - started
        if isinstance(ready, BaseException):
            self._ready.put(ready)
            raise ready
        batch, copied = ready
        current = torch.cuda.current_stream(self._device)
        current.wait_event(copied)
        for tensor in batch:
            tensor.record_stream(current)  # its memory was taken on the other stream
        return batch

    @property
    def replaced(self) -> frozenset[str]:
        return self._batches.replaced

    def _copy_all(self) -> None:
        while not self._stopped.is_set():
            try:
                ready = self._copied(next(self._batches))
            except BaseException as error:  # noqa: BLE001  raised where the batch would have been taken
                ready = error
                self._stopped.set()
            while True:
                try:
                    self._ready.put(ready, timeout=0.2)
                    break
                except queue.Full:
                    if self._stopped.is_set():
                        return

    def _copied(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(self._copies):
            moved = Batch(*(tensor.to(self._device, non_blocking=True) for tensor in batch))
            copied = torch.cuda.Event()
            copied.record()
        return moved, copied

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=1)  # longer only where it waits for a shard, which closing ends
        self._batches.close()
        self._thread.join(timeout=5)


class Resident:
    """Every picture of a plan, decoded, on one device."""

    def __init__(
        self,
        plan: Plan,
        pictures: Pictures,
        source: Source | None,
        device: torch.device,
        threads: int,
        first: float = 0,
    ) -> None:
        """Decodes all samples of the plan, shard after shard; `first`, a share of them, says where to begin: the
        processes of a machine that decode into one memory begin at different places."""
        self.pictures, self._plan, count = pictures, plan, plan.order.count
        self.table = torch.empty(count, pictures.decoder.bytes, dtype=torch.uint8, device=device)
        self.labels = torch.empty(count, dtype=torch.int64, device=device)
        self._pin = device.type == "cuda"
        starts = [*range(0, count, _FILL)]
        turn = int(first * len(starts))
        shard_of, kept = pictures.shard_of, -1
        with Progress("decode", count) as progress, ThreadPoolExecutor(threads) as pool:
            order = starts[turn:] + starts[:turn]
            for start, done in zip(order, pool.map(lambda at: self._fill(source or pictures, at), order), strict=True):
                last = int(shard_of[plan.samples(np.array([start + done - 1]))[0]])
                kept = -1 if last < kept else kept
                pictures.shelf.give_up(range(max(kept, 0), last))  # a remote one may now leave the cache
                kept = last
                progress.advance(done)
        pictures.shelf.give_up(range(len(pictures.shelf)))

    def _fill(self, source: Source, start: int) -> int:
        samples = self._plan.samples(np.arange(start, min(start + _FILL, len(self.table))))
        rows = torch.empty(len(samples), self.table.shape[1], dtype=torch.uint8, pin_memory=self._pin)
        labels = torch.empty(len(samples), dtype=torch.int64)
        source.read(samples, rows, labels)
        self.table[start : start + len(samples)] = rows
        self.labels[start : start + len(samples)] = labels
        return len(samples)


class ResidentStream:
    """Batches gathered from a set on the device: nothing is read, nothing waits."""

    def __init__(self, plan: Plan, resident: Resident) -> None:
        self._plan, self._resident = plan, resident
        self._number = self._epoch = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        samples = self._on_device(torch.from_numpy(self._plan.places(self._number)))
        coming = self._plan.next_epoch(self._number)
        if coming != self._epoch:
            self._epoch = coming
            self._pool.submit(self._plan.order.epoch, coming)
        self._number += 1
        resident = self._resident
        rows = resident.table.index_select(0, samples)
        return Batch(as_pictures(rows, resident.pictures.decoder.shape), resident.labels.index_select(0, samples))

    @property
    def replaced(self) -> frozenset[str]:
        return self._resident.pictures.replaced

    def _on_device(self, samples: Tensor) -> Tensor:
        device = self._resident.table.device
        return samples.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else samples

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._resident.pictures.shelf.close()
