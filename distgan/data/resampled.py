"""`data.order: resampled`: webdataset's own pipeline, for shards without an index: compressed, printed, or endless.

Neither exact nor the same for every number of processes: shards are drawn with replacement, for ever, so that nothing
ends and no process waits for another. Each worker process draws by (seed, rank, worker, position) and nothing else.

webdataset draws, groups and shuffles; shards are opened and walked by `tar_stream`.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset import DataPipeline, ResampledShards, filters
from webdataset.tariterators import group_by_keys

from distgan import randomness
from distgan.data.decode import Decoder, as_pictures
from distgan.data.scan import LABELS, PICTURES, label_of, picture_in, printable
from distgan.data.stream import Batch
from distgan.data.tar_stream import UNREADABLE, end_downloads, read_members
from distgan.data.urls import check_url, shown
from distgan.errors import DataError, ReadError
from distgan.stopping import STOP_SIGNALS

_AHEAD = 2  # batches that each worker makes ahead
_HOPELESS = 1000  # bad pictures in a row, all of them known, that end the search for a good one


@dataclass(frozen=True)
class _Settings:
    places: list[str]
    decoder: Decoder
    rows: int
    draw: tuple[int, int, int]  # seed, rank, position
    bad: str
    limit: int
    allow_shell: bool
    shuffle: int


class _Made(NamedTuple):
    """What a worker hands over: pixels in shared memory, and few enough words to pass a pipe at one go."""

    batch: Batch | None
    notes: list[tuple[str, str]]
    """What was found bad for the first time: its name, and what is wrong with it."""
    error: str | None


class ResampledStream:
    """Batches of this rank, as a `BatchStream`, made by worker processes.

    They are forked by a server that holds nothing but the imports: a trainer with threads and CUDA cannot be forked,
    and spawned workers would each import torch. Nor are they its children, so that no signal of their death strikes the
    trainer in the middle of something else. Stop signals, which Slurm sends to all processes of a step, do not reach
    them: they end when the stream is closed or the trainer is gone.
    """

    def __init__(
        self,
        places: Sequence[str],
        decoder: Decoder,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 2,
        position: int = 0,
        bad: str = "fail",
        limit: int = 100,
        allow_shell: bool = False,
        shuffle: int = 1000,
        pin: bool = False,
    ) -> None:
        """`batch_size` is global; `workers` 0 reads in this process; `shuffle` samples, still encoded, are mixed in
        each worker. `bad` replace leaves out what cannot be read, up to `limit` pictures or shards of this process.

        Raises `DataError` for a place that cannot be opened at all, as a `pipe:` without `allow_shell`."""
        for place in places:
            check_url(place, allow_shell)
        draw = (seed, rank, position)
        local = batch_size // world_size
        self._settings = _Settings(list(places), decoder, local, draw, bad, limit, allow_shell, shuffle)
        self._bad = _Bad(limit)
        self._failure: str | None = None
        self._workers: Connection | None = None
        self._made = self._start(workers, pin)
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch. Raises `ReadError` where a shard or a picture is bad and may not be left out, or a worker
        process has died."""
        started = time.perf_counter()
        try:
            if self._failure is not None:
                raise ReadError(self._failure)
            return self._next()
        except ReadError as error:
            self._failure = str(error)
            raise
        finally:
            self.wait_seconds += time.perf_counter() - started

    @property
    def replaced(self) -> frozenset[str]:
        """The pictures and shards that this process has found bad and left out."""
        return frozenset(self._bad.names)

    def close(self) -> None:
        """Ends the workers, and with them the commands that they run."""
        if self._workers is not None:
            self._workers.close()  # they end at once, and are only waited for below
            atexit.unregister(self._workers.close)
        self._made = self._workers = None
        self._failure = self._failure or "the stream is closed"

    def _start(self, workers: int, pin: bool) -> Iterator[_Made]:
        batches = _Batches(self._settings)
        # A generator of its own, as the loader would else draw from the one that all share.
        common = {"batch_size": None, "collate_fn": _as_it_is, "pin_memory": pin, "generator": torch.Generator()}
        if workers == 0:
            return iter(DataLoader(batches, **common))
        _start_server()
        theirs, self._workers = multiprocessing.Pipe(duplex=False)
        with theirs:
            loader = DataLoader(
                batches,
                num_workers=workers,
                prefetch_factor=_AHEAD,
                multiprocessing_context="forkserver",
                worker_init_fn=partial(_start_worker, theirs),
                **common,
            )
            made = iter(loader)
        atexit.register(self._workers.close)  # before multiprocessing waits for its processes
        return made

    def _next(self) -> Batch:
        try:
            made = next(self._made)
        except (RuntimeError, OSError, EOFError) as error:
            if self._workers is None or str(error).startswith("Caught "):  # a defect of ours, with its traceback
                raise
            raise ReadError(
                f"a process that reads pictures has died ({_line(error)}), perhaps for lack of memory or of room in "
                "/dev/shm; start again with fewer data.threads"
            ) from None
        for name, text in made.notes:
            if self._bad.add(name, text):
                print(f"distgan: {text}; left out", file=sys.stderr, flush=True)
        if made.error is not None:
            raise ReadError(made.error)
        return made.batch


class _Bad:
    """The pictures and shards that were found bad, each counted once."""

    def __init__(self, limit: int) -> None:
        self.names: set[str] = set()
        self._limit = limit

    def add(self, name: str, text: str) -> bool:
        """Whether it was not yet known. Raises `ReadError` where it is one too many."""
        if name in self.names:
            return False
        self.names.add(name)
        if (found := len(self.names)) > self._limit:
            raise ReadError(
                f"{text}; with it {found} pictures or shards are bad, more than data.bad_limit {self._limit}; make "
                "them again, or raise data.bad_limit"
            )
        return True


class _Batches(IterableDataset):
    """The batches of the worker that iterates over it."""

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings

    def __iter__(self) -> Iterator[_Made]:
        worker = get_worker_info()
        return _Reader(self._settings, worker.id if worker else 0).made()


class _Reader:
    """Reads the sequence of one worker."""

    def __init__(self, settings: _Settings, worker: int) -> None:
        self._settings, self._worker = settings, worker
        self._notes: list[tuple[str, str]] = []
        self._bad = _Bad(settings.limit)
        self._barren: set[str] = set()  # places of shards that have no picture
        self._in_vain = 0  # pictures in a row that were known to be bad

    def made(self) -> Iterator[_Made]:
        """Batches without end; an error is the last."""
        try:
            samples = iter(self._pipeline())
            while True:
                batch = self._batch(samples)
                notes, self._notes = self._notes, []
                yield _Made(batch, notes, None)
        except DataError as error:
            yield _Made(None, self._notes, str(error))

    def _pipeline(self) -> DataPipeline:
        places, shuffle = self._settings.places, self._settings.shuffle
        rng = random.Random(self._key("samples"))
        return DataPipeline(
            # Its seed is the time, and its worker's that of torch.distributed, unless both are given.
            ResampledShards(places, deterministic=True, worker_seed=lambda: self._key("shards")),
            self._files,
            group_by_keys,
            filters.select(lambda sample: any(extension in sample for extension in PICTURES)),
            filters.shuffle(shuffle, rng=rng) if shuffle > 1 else None,
        )

    def _key(self, purpose: str) -> int:
        return randomness.key("resampled", purpose, self._worker, *self._settings.draw)

    def _files(self, shards: Iterator[dict]) -> Iterator[dict]:
        """The members of each shard as webdataset groups them; an empty one at its end."""
        for shard in shards:
            place, key, found = shard["url"], None, False
            try:
                for key, extension, data in read_members(place, self._settings.allow_shell):
                    found = found or extension in PICTURES
                    yield {"fname": f"{key}.{extension}", "data": data, "__url__": place}
                if not found:
                    raise ValueError("it holds no picture")
            except UNREADABLE as error:
                if key is not None:  # the sample in which the shard breaks off may lack its label
                    yield {"fname": f"{key}.__bad__", "data": True, "__url__": place}
                self._shard_is_bad(place, found, error)
            if found:
                self._barren.clear()
            yield {}

    def _shard_is_bad(self, place: str, found: bool, error: Exception) -> None:
        text = str(error) if isinstance(error, DataError) else f"{shown(place)}: the shard is bad: {_line(error)}"
        self._note(shown(place), text)
        if not found:
            self._barren.add(place)
        if len(self._barren) == len(set(self._settings.places)):
            raise ReadError(f"{text}; and no other shard has a picture: {len(self._barren)} tried in vain")

    def _batch(self, samples: Iterator[dict]) -> Batch:
        rows, decoder = self._settings.rows, self._settings.decoder
        size = rows * decoder.bytes
        if get_worker_info() is None:
            pixels = torch.empty(size, dtype=torch.uint8)
        else:  # where it needs no copy to another process
            pixels = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))
        pictures = as_pictures(pixels.view(rows, decoder.bytes), decoder.shape)
        batch = Batch(pictures, torch.empty(rows, dtype=torch.int64))
        for row, picture in enumerate(pictures.permute(0, 2, 3, 1).numpy()):
            while (label := self._decoded(next(samples), picture)) is None:
                pass
            batch.labels[row] = label
        return batch

    def _decoded(self, sample: dict, out: np.ndarray) -> int | None:
        """Decodes a picture into `out`, [H, W, C]. Returns its label; None where it is bad."""
        place, decoder = shown(sample["__url__"]), self._settings.decoder
        extension = next(extension for extension in sample if extension in PICTURES)
        name = f"{sample['__key__']}.{extension}"
        try:
            start, size, crc, kind = picture_in(place, name, extension, 0, sample[extension])
            held = [form for form in LABELS if form in sample]
            label = max((label_of(place, f"{sample['__key__']}.{f}", f, sample[f]) for f in held), default=-1)
            data = np.frombuffer(sample[extension], np.uint8)[start : start + size].copy()  # torch wants it writable
            decoder.check(data, kind, crc)
            decoder.decode(torch.from_numpy(data), kind, out)
        except (DataError, RuntimeError, ValueError) as error:
            text = str(error) if isinstance(error, DataError) else f"{place}: {printable(name)}: {_line(error)}"
            self._in_vain = 0 if self._note(f"{place}: {name}", text) else self._in_vain + 1
            if self._in_vain > _HOPELESS:
                raise ReadError(f"{text}; and {_HOPELESS} others in a row are as bad; make the shards again") from None
            return None
        self._in_vain = 0
        return label

    def _note(self, name: str, text: str) -> bool:
        """Whether it was not yet known to be bad. Raises `ReadError` where nothing may be bad, or too much is."""
        if self._settings.bad != "replace":
            raise ReadError(f"{text}; mend the shard, or set data.bad_pictures: replace") from None
        new = self._bad.add(name, text)
        if new:
            self._notes.append((name, text))
        return new


def _start_server() -> None:
    """Starts the process that workers are forked from. Workers inherit that stop signals are blocked in it."""
    multiprocessing.set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # it would lift the block
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_worker(stream: Connection, worker: int) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(stream,), daemon=True).start()


def _end_with(stream: Connection) -> None:
    """Waits until the stream is closed, or the process that it is in is gone, and ends this process."""
    stream.poll(None)
    end_downloads()
    os._exit(0)


def _as_it_is(made: _Made) -> _Made:
    return made


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
