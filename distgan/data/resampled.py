"""`data.order: resampled`: webdataset's own pipeline, for shards without an index: compressed, printed, or endless.

Neither exact nor the same for every number of processes: shards are drawn with replacement, for ever, so that nothing
ends and no process waits for another. Each worker process draws by (seed, rank, worker, position) and nothing else.

webdataset draws, groups and shuffles. Shards are opened and walked here: its own opener runs curl in a shell, and its
tar reader takes a damaged header, or a file that is cut there, for the end of the archive.
"""

from __future__ import annotations

import atexit
import bz2
import gzip
import io
import lzma
import multiprocessing
import os
import random
import signal
import sys
import tarfile
import threading
import time
import weakref
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset import DataPipeline, ResampledShards, filters
from webdataset.tariterators import group_by_keys

from distgan import randomness
from distgan.data.decode import Decoder, Scratch, as_pictures
from distgan.data.remote import Stopped, check_url, download, is_remote, shown
from distgan.data.scan import LABELS, LARGEST_FILE, MEMBER, PICTURES, label_of, picture_in, printable
from distgan.data.stream import Batch
from distgan.errors import DataError, ReadError
from distgan.stopping import STOP_SIGNALS

_AHEAD = 2  # batches that each worker makes ahead
_PIECE = 1 << 18  # bytes of one read
_HELD = 16 << 20  # bytes of a download that wait to be read
_HOPELESS = 1000  # bad pictures in a row, all of them known, that end the search for a good one
_UNREADABLE = (tarfile.TarError, DataError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


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
    """What a worker hands over: one block of shared memory, and few enough words to pass a pipe at one go."""

    block: Tensor | None
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
            if is_remote(place):
                check_url(place, allow_shell)
        draw = (seed, rank, position)
        local = batch_size // world_size
        self._settings = _Settings(list(places), decoder, local, draw, bad, limit, allow_shell, shuffle)
        self._known: set[str] = set()
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
    def replaced(self) -> int:
        """Different pictures and shards that this process has found bad and left out."""
        return len(self._known)

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
            if name not in self._known:
                self._known.add(name)
                _check_limit(text, len(self._known), self._settings.limit)
                print(f"distgan: {text}; left out", file=sys.stderr, flush=True)
        if made.error is not None:
            raise ReadError(made.error)
        return _batch_in(made.block, self._settings)


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
        self._known: set[str] = set()
        self._barren: set[str] = set()
        self._in_vain = 0
        self._scratch = Scratch()

    def made(self) -> Iterator[_Made]:
        """Batches without end; an error is the last."""
        try:
            samples = iter(self._pipeline())
            while True:
                block = self._block(samples)
                notes, self._notes = self._notes, []
                yield _Made(block, notes, None)
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
                with _opened(place, self._settings.allow_shell) as stream:
                    for key, extension, data in _members(stream):
                        found = found or extension in PICTURES
                        yield {"fname": f"{key}.{extension}", "data": data, "__url__": place}
                if not found:
                    raise ValueError("it holds no picture")
            except _UNREADABLE as error:
                if key is not None:  # the sample in which the shard breaks off may lack its label
                    yield {"fname": f"{key}.__bad__", "data": True, "__url__": place}
                self._shard_is_bad(place, found, error)
            if found:
                self._barren.clear()
            yield {}

    def _shard_is_bad(self, place: str, found: bool, error: Exception) -> None:
        text = str(error) if isinstance(error, DataError) else f"{_named(place)}: the shard is bad: {_line(error)}"
        self._note(_named(place), text)
        if not found:
            self._barren.add(place)
        if len(self._barren) == len(set(self._settings.places)):
            raise ReadError(f"{text}; and no other shard has a picture: {len(self._barren)} tried in vain")

    def _block(self, samples: Iterator[dict]) -> Tensor:
        """The pixels of a batch, and its labels behind them, in memory that needs no copy to another process."""
        size = _label_offset(self._settings) + 8 * self._settings.rows
        if get_worker_info() is None:
            block = torch.empty(size, dtype=torch.uint8)
        else:
            block = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))
        batch = _batch_in(block, self._settings)
        for row, picture in enumerate(batch.pixels.permute(0, 2, 3, 1).numpy()):
            while (label := self._decoded(next(samples), picture)) is None:
                pass
            batch.labels[row] = label
        return block

    def _decoded(self, sample: dict, out: np.ndarray) -> int | None:
        """Decodes a picture into `out`, [H, W, C]. Returns its label; None where it is bad."""
        place, decoder = _named(sample["__url__"]), self._settings.decoder
        extension = next(extension for extension in sample if extension in PICTURES)
        name = f"{sample['__key__']}.{extension}"
        try:
            start, size, crc, kind = picture_in(place, name, extension, 0, sample[extension])
            held = [form for form in LABELS if form in sample]
            label = max((label_of(place, f"{sample['__key__']}.{f}", f, sample[f]) for f in held), default=-1)
            memory, tensor = self._scratch.of(size)
            memory[:size] = sample[extension][start : start + size]
            decoder.check(memory[:size], kind, crc)
            decoder.decode(tensor[:size], kind, out)
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
        if name in self._known:
            return False
        self._known.add(name)
        self._notes.append((name, text))
        _check_limit(text, len(self._known), self._settings.limit)
        return True


class _Header(tarfile.TarInfo):
    """tarfile ends an archive at a header that is damaged or not there; only a block of zeros may."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            if archive.offset == 0:
                raise tarfile.ReadError(f"not a tar, plain or packed by gzip, bzip2 or xz ({error})") from None
            raise tarfile.ReadError(f"damaged or cut at byte {archive.offset} ({error})") from None


def _members(stream: io.BufferedReader) -> Iterator[tuple[str, str, bytes]]:
    """Key, extension and bytes of the pictures and labels in a tar; of equal names in a sample the first."""
    with tarfile.open(fileobj=_unpacked(stream), mode="r|", tarinfo=_Header, bufsize=_PIECE) as archive:
        current, seen = None, set()
        while (member := archive.next()) is not None:
            archive.members.clear()  # it keeps every header
            match = MEMBER.fullmatch(member.name)
            extension = match[2].lower() if match else ""
            if extension not in (*PICTURES, *LABELS) or not member.isreg() or member.issparse():
                continue
            if match[1] != current:
                current, seen = match[1], set()
            if member.size > LARGEST_FILE:
                raise ValueError(f"{printable(member.name)}: {member.size} bytes are no picture")
            if extension not in seen:
                seen.add(extension)
                yield current, extension, archive.extractfile(member).read()
        while rest := archive.fileobj.read(_PIECE):
            if rest.count(0) != len(rest):
                raise ValueError(f"damaged at byte {archive.offset}: data that no header announces")


def _unpacked(stream: io.BufferedReader) -> BinaryIO:
    """What a file holds, by its first bytes. Not left to tarfile, which checks no sum and ends at gzip's first part."""
    head = stream.peek(6)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    return lzma.LZMAFile(stream) if head.startswith(b"\xfd7zXZ\0") else stream


def _opened(place: str, allow_shell: bool) -> io.BufferedReader:
    if is_remote(place):
        return io.BufferedReader(_Download(place, allow_shell), _PIECE)
    return open(place.removeprefix("file://"), "rb", buffering=_PIECE)


class _Download(io.RawIOBase):
    """What is at a URL, or what a command prints, while a thread fetches it; a broken connection goes on by itself."""

    def __init__(self, url: str, allow_shell: bool) -> None:
        self._inlet = _Inlet()
        self._thread = threading.Thread(target=self._fetch, args=(url, allow_shell), daemon=True)
        _downloads.add(self)
        self._thread.start()

    def _fetch(self, url: str, allow_shell: bool) -> None:
        error = None
        try:
            download(url, self._inlet, size=None, allow_shell=allow_shell, stop=self._inlet.stop)
        except BaseException as trouble:  # raised by the reader
            error = trouble
        self._inlet.end(error)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        return self._inlet.take(buffer)

    def close(self) -> None:
        self._inlet.stop.set()
        self._inlet.end(None)
        self._thread.join(10)
        super().close()


class _Inlet:
    """A file for `download` to write: holds the bytes until they are taken, and lets the writer wait meanwhile."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._bytes, self._total = bytearray(), 0
        self._ended, self._error = False, None
        self._change = threading.Condition()

    def write(self, data: bytes | memoryview) -> int:
        with self._change:
            self._change.wait_for(lambda: len(self._bytes) < _HELD or self.stop.is_set())
            if self.stop.is_set():
                raise Stopped
            self._bytes += data
            self._total += len(data)
            self._change.notify_all()
        return len(data)

    def tell(self) -> int:
        return self._total

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._total if whence == os.SEEK_END else offset

    def truncate(self, size: int) -> None:
        """A download begins anew: too late when something has been read."""
        if self._total:
            raise EOFError(f"it broke off after {self._total} bytes; run the command by hand to see why")

    def end(self, error: BaseException | None) -> None:
        with self._change:
            self._ended, self._error = True, self._error or error
            self._change.notify_all()

    def take(self, buffer: memoryview) -> int:
        with self._change:
            # Not less than a tar's header, so that the first bytes tell what it is.
            self._change.wait_for(lambda: len(self._bytes) >= tarfile.BLOCKSIZE or self._ended)
            count = min(len(buffer), len(self._bytes))
            buffer[:count] = self._bytes[:count]
            del self._bytes[:count]
            self._change.notify_all()
            if not count and self._error is not None:
                raise self._error
        return count


_downloads: weakref.WeakSet[_Download] = weakref.WeakSet()


def _start_server() -> None:
    """Starts the process that workers are forked from. Workers inherit that stop signals are blocked in it."""
    multiprocessing.set_forkserver_preload(["torchvision", "webdataset", __name__])
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
    for fetching in list(_downloads):
        fetching.close()
    os._exit(0)


def _as_it_is(made: _Made) -> _Made:
    return made


def _label_offset(settings: _Settings) -> int:
    return -(-settings.rows * settings.decoder.bytes // 8) * 8


def _batch_in(block: Tensor, settings: _Settings) -> Batch:
    """The batch that lies in a block of memory."""
    rows, size = settings.rows, settings.decoder.bytes
    pixels = as_pictures(block[: rows * size].view(rows, size), settings.decoder.shape)
    return Batch(pixels, block[_label_offset(settings) :].view(torch.int64))


def _check_limit(text: str, found: int, limit: int) -> None:
    if found > limit:
        raise ReadError(
            f"{text}; with it {found} pictures or shards are bad, more than data.bad_limit {limit}; make them again"
        )


def _named(place: str) -> str:
    return shown(place) if is_remote(place) else place


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
