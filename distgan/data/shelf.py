"""The shards that are open: files of this machine all along, remote ones while they are needed."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from distgan.data.cache import RemoteShard, ShardCache
from distgan.data.index import Shard
from distgan.data.urls import shown
from distgan.errors import ReadError

DOWNLOADS = 4
"""Remote shards that one process fetches at once."""


class Shelf:
    """Descriptors of shards by number, from any thread."""

    def __init__(self, shards: Sequence[Shard], cache: ShardCache | None = None) -> None:
        self._shards, self._cache = shards, cache
        self._remote = any(shard.is_remote for shard in shards)
        if not self._remote:
            _allow_files(len(shards))
        self._open: dict[int, Future[int]] = {}
        self.ready: dict[int, int] = {}
        """Descriptors of the shards that are open now."""
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="shards") if self._remote else None

    def __len__(self) -> int:
        return len(self._shards)

    @property
    def is_remote(self) -> bool:
        """Whether any shard has to be fetched."""
        return self._remote

    def descriptor(self, number: int) -> int:
        """An open file of the whole shard; waits for a remote one. Raises `DataError` where it cannot be had."""
        future = self._ask(number)
        if future.done() and future.exception() is not None:  # it failed ahead of need, perhaps long ago: once more
            with self._lock:
                if self._open.get(number) is future:
                    del self._open[number]
            future = self._ask(number)
        self.ready[number] = descriptor = future.result()
        return descriptor

    def want(self, numbers: Iterable[int]) -> None:
        """Begins to fetch remote shards, in this order, without waiting."""
        for number in numbers:
            if number not in self._open and self._shards[number].is_remote:
                self._ask(number)

    def give_up(self, numbers: Iterable[int]) -> None:
        """Closes remote shards that no reader has in hand; they may then leave the cache."""
        for number in numbers:
            if self._shards[number].is_remote:
                with self._lock:
                    self.ready.pop(number, None)
                    future = self._open.pop(number, None)
                _close(future)

    def stop(self) -> None:
        """Ends what is being fetched; whoever waits for it gets an error."""
        if self._pool is not None:
            self._cache.close()

    def close(self) -> None:
        """Closes all. Nobody may be reading."""
        self.stop()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for future in self._open.values():
            _close(future)
        self._open.clear()
        self.ready.clear()

    def _ask(self, number: int) -> Future[int]:
        with self._lock:
            if number not in self._open:
                self._open[number] = self._start(self._shards[number])
            return self._open[number]

    def _start(self, shard: Shard) -> Future[int]:
        if shard.is_remote:
            return self._pool.submit(self._cache.open, RemoteShard(shard.place, shard.bytes, shard.sha256))
        future: Future[int] = Future()
        try:
            future.set_result(_open_local(shard))
        except ReadError as error:
            future.set_exception(error)
        return future


def _open_local(shard: Shard) -> int:
    """Opens a shard of this machine. Raises `ReadError` where it is gone or not what was indexed."""
    try:
        descriptor = os.open(shard.place, os.O_RDONLY)
    except OSError as error:
        raise ReadError(f"{shard.place}: cannot be read: {error.strerror}; copy the shard again") from None
    size = os.fstat(descriptor).st_size
    if size != shard.bytes:
        os.close(descriptor)
        raise ReadError(
            f"{shard.place}: the shard has {size} bytes, and {shard.bytes} when it was indexed; copy it again, or "
            "index it anew with `distgan index`"
        )
    return descriptor


def _close(future: Future[int] | None) -> None:
    if future is None or future.cancel():
        return

    def close(done: Future[int]) -> None:
        with contextlib.suppress(Exception):  # one that could not be had
            os.close(done.result())

    future.add_done_callback(close)


def _allow_files(count: int) -> None:
    """Lets this process keep all shards open, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 512 if hard == resource.RLIM_INFINITY else min(count + 512, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def name_of(shard: Shard) -> str:
    """What messages call a shard."""
    return shown(shard.place)
