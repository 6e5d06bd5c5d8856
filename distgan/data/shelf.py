"""The shards that are open: files read where they lie all along, those fetched into a cache while they are needed."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from distgan.data.cache import RemoteShard, ShardCache
from distgan.data.failures import LOST, MADE_ANEW, ShardLost
from distgan.data.index import Shard
from distgan.data.urls import shown
from distgan.errors import ReadError

DOWNLOADS = 4
"""Shards that one process fetches at once."""
_SPARE = 64  # files that a training has open beside its shards, at least


class Shelf:
    """Descriptors of shards by number, from any thread.

    Remote shards are fetched into the `cache`, with `copy` all. With `any_size` a file that is read where it lies is
    opened although its size is not that of its index: what is left of it is left. Raises `ReadError` where this process
    may not have so many files open."""

    def __init__(
        self, shards: Sequence[Shard], cache: ShardCache | None = None, *, copy: bool = False, any_size: bool = False
    ) -> None:
        self._shards, self._cache, self._any_size = shards, cache, any_size
        self._fetched = [copy or shard.is_remote for shard in shards]
        _allow_files(len(shards), len(shards) - sum(self._fetched))
        self._open: dict[int, Future[int]] = {}
        self._lost: dict[int, ShardLost] = {}
        self.ready: dict[int, int] = {}
        """Descriptors of the shards that are open now."""
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="shards") if self.fetches else None

    def __len__(self) -> int:
        return len(self._shards)

    @property
    def fetches(self) -> bool:
        """Whether any shard has to be fetched."""
        return any(self._fetched)

    def descriptor(self, number: int) -> int:
        """An open file of the whole shard; waits while it is fetched. Raises `DataError` where it cannot be had, and
        `ShardLost`, from then on at once, where nobody can have it."""
        self._refuse_lost(number)
        future = self._ask(number)
        if future.done() and future.exception() is not None:  # it failed ahead of need, perhaps long ago: once more
            with self._lock:
                if self._open.get(number) is future:
                    del self._open[number]
            future = self._ask(number)
        with self._remembering(number):
            self.ready[number] = descriptor = future.result()
        return descriptor

    @contextlib.contextmanager
    def borrowed(self, number: int) -> Iterator[int]:
        """As `descriptor`, for a shard that may be none of those that are in use or asked for: a fetched one is
        opened for this use alone, so that it may leave the cache afterwards and nobody closes it meanwhile."""
        if not self._fetched[number]:
            yield self.descriptor(number)
            return
        self._refuse_lost(number)
        with self._remembering(number):
            descriptor = self._fetch(number)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def want(self, numbers: Iterable[int]) -> None:
        """Begins to fetch shards, in this order, without waiting; those that are read where they lie need none."""
        for number in numbers:
            if number not in self._open and number not in self._lost and self._fetched[number]:
                self._ask(number)

    def give_up(self, numbers: Iterable[int]) -> None:
        """Closes fetched shards that no reader has in hand; they may then leave the cache."""
        for number in numbers:
            if self._fetched[number]:
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
                self._open[number] = self._start(number)
            return self._open[number]

    def _start(self, number: int) -> Future[int]:
        if self._fetched[number]:
            return self._pool.submit(self._fetch, number)
        future: Future[int] = Future()
        try:
            future.set_result(self._open_in_place(number))
        except ReadError as error:
            future.set_exception(error)
        return future

    def _fetch(self, number: int) -> int:
        shard = self._shards[number]
        return self._cache.open(RemoteShard(shard.place, shard.bytes, shard.sha256))

    def _open_in_place(self, number: int) -> int:
        """Opens a shard where it lies. Raises `ShardLost` where it is gone or not what was indexed, `ReadError` where
        this process cannot open it."""
        shard = self._shards[number]
        try:
            descriptor = os.open(shard.place, os.O_RDONLY)
        except OSError as error:
            raise self.unreadable(number, error) from None
        size = os.fstat(descriptor).st_size
        if size != shard.bytes and not self._any_size:
            os.close(descriptor)
            reason = f"the shard has {size} bytes, and {shard.bytes} when it was indexed"
            raise ShardLost(shard.place, reason, f"copy it again, {MADE_ANEW}")
        return descriptor

    def unreadable(self, number: int, error: OSError) -> ReadError:
        """What to raise where the system does not let a shard be opened or read."""
        if error.errno in LOST:
            return self.lost(number, f"cannot be read: {error.strerror}")
        name = name_of(self._shards[number])
        if error.errno == errno.EMFILE:
            return ReadError(
                f"{name}: cannot be opened: this process has as many files open as `ulimit -n` allows, "
                f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]}; raise it, or make fewer and larger shards"
            )
        return ReadError(f"{name}: cannot be read: {error.strerror}")

    def lost(self, number: int, reason: str) -> ReadError:
        """What to raise of an open file that is not what it was. That of a fetched shard is a copy which only this
        machine has, so that others would not find the same."""
        name = name_of(self._shards[number])
        if self._fetched[number]:
            return ReadError(f"{name}: {reason}, in the cache of this machine; start again")
        return ShardLost(name, reason, "copy it again")

    def _refuse_lost(self, number: int) -> None:
        if (lost := self._lost.get(number)) is not None:
            raise type(lost)(*lost.args)

    @contextlib.contextmanager
    def _remembering(self, number: int) -> Iterator[None]:
        """A lost shard is not asked for again: each asking may cost a download."""
        try:
            yield
        except ShardLost as lost:
            self._lost[number] = lost
            raise


def _close(future: Future[int] | None) -> None:
    if future is None or future.cancel():
        return

    def close(done: Future[int]) -> None:
        with contextlib.suppress(Exception):  # one that could not be had
            os.close(done.result())

    future.add_done_callback(close)


def _allow_files(count: int, kept: int) -> None:
    """Lets this process have so many shards open, as far as the system does. Raises `ReadError` where that is less than
    the `kept` of them that stay open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and kept + _SPARE > hard:
        raise ReadError(
            f"data.shards names {kept} shards on this machine, which are all kept open, and `ulimit -Hn` allows a "
            f"process {hard} files; have it raised, or make fewer and larger shards (`distgan prepare --shard-size`)"
        )
    wanted = count + 512 if hard == resource.RLIM_INFINITY else min(count + 512, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def name_of(shard: Shard) -> str:
    """What messages call a shard."""
    return shown(shard.place)
