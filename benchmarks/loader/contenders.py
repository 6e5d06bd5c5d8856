"""distgan's own ways to deliver pictures, the bare decoder that none can beat, and the table of all contenders.

A contender is a generator: it takes a prepared case, the number of threads or worker processes, and the batch size, and
yields uint8 batches [N, 3, side, side] without end.
"""

from __future__ import annotations

import io
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.loader.cases import Case, Prepared
from benchmarks.loader.decoding import decode_into


@dataclass(frozen=True)
class Contender:
    """`module` and `package`: what must be importable, and what it is called where it is installed from."""

    title: str
    batches: Callable[[Prepared, int, int], Iterator[Tensor]]
    module: str
    package: str
    extra: str = ""
    """What else must be installed first."""
    keeps: bool = False
    """Keeps what it has decoded, so that its steady state begins with the second epoch."""


def stream(prepared: Prepared, threads: int, batch: int) -> Iterator[Tensor]:
    """distgan, reading from the tars."""
    yield from _distgan(prepared, threads, batch, tier="stream")


def memory(prepared: Prepared, threads: int, batch: int) -> Iterator[Tensor]:
    """distgan, with the whole set kept decoded."""
    yield from _distgan(prepared, threads, batch, tier="memory")


def _distgan(prepared: Prepared, threads: int, batch: int, tier: str) -> Iterator[Tensor]:
    from distgan.config.schema import Data
    from distgan.data.dataset import Place, open_dataset

    fit = "crop" if prepared.case.resize else "exact"
    data = Data(shards=str(prepared.tars()), resolution=prepared.case.side, channels=3, fit=fit, tier=tier)
    batches = open_dataset(data).stream(batch, seed=0, position=0, place=Place(cores=threads))
    try:
        while True:
            yield next(batches).pixels
    finally:
        batches.close()


def bare(prepared: Prepared, threads: int, batch: int) -> Iterator[Tensor]:
    """Nothing but decoding, and resizing, from memory into batches that are used again, each thread its own."""
    case = prepared.case
    pictures = [_in_memory(path.read_bytes(), case) for _, path in prepared.pictures()]
    torch.set_num_threads(1)
    ready: queue.Queue[Tensor] = queue.Queue(threads)
    stopped = threading.Event()

    def work(number: int) -> None:
        buffers = deque(torch.empty(batch, case.side, case.side, 3, dtype=torch.uint8) for _ in range(threads + 3))
        order = np.random.default_rng(number)
        while not stopped.is_set():
            buffers.rotate()
            for place, chosen in zip(buffers[0], order.integers(len(pictures), size=batch).tolist(), strict=True):
                place.copy_(pictures[chosen]) if case.raw else decode_into(pictures[chosen], place)
            ready.put(buffers[0])

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        while True:
            yield ready.get().permute(0, 3, 1, 2)
    finally:
        stopped.set()
        while any(worker.is_alive() for worker in workers):
            _discard(ready)


def _in_memory(data: bytes, case: Case) -> Tensor:
    if case.raw:
        return torch.from_numpy(np.load(io.BytesIO(data)))
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _discard(ready: queue.Queue) -> None:
    try:
        ready.get(timeout=0.05)
    except queue.Empty:
        pass


def contenders() -> dict[str, Contender]:
    """All contenders by name, distgan's stream first."""
    from benchmarks.loader import peers

    webdataset, torchvision = ("webdataset", "webdataset"), ("torchvision", "torchvision")
    return {
        "distgan": Contender("**distgan**", stream, "distgan", "distgan"),
        "memory": Contender("distgan, decoded in memory", memory, "distgan", "distgan", keeps=True),
        "bare": Contender("bare decoding", bare, *torchvision),
        "webdataset": Contender("webdataset, same decoder", peers.webdataset, *webdataset),
        "webdataset-pil": Contender("webdataset, PIL", peers.webdataset_pil, *webdataset),
        "torchvision": Contender("ImageFolder + DataLoader", peers.image_folder, *torchvision),
        "mosaicml": Contender("MosaicML Streaming", peers.mosaicml, "streaming", "mosaicml-streaming"),
        "ffcv": Contender(
            "FFCV", peers.ffcv, "ffcv", "ffcv", "the system's libopencv-dev, libturbojpeg0-dev and pkg-config"
        ),
    }
