"""The shards that are open: files of this machine all along, remote ones while they are needed."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from distgan.data.cache import RemoteShard, ShardCache
from distgan.data.failures import MADE_ANEW, ShardLost
from distgan.data.index import Shard
from distgan.data.urls import shown
from distgan.errors import ReadError

DOWNLOADS = 4
"""Remote shards that one process fetches at once."""
LOST = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR),
    *(errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE),
)
"""What the system says of a file that is no fault of this process, and would be said again."""
_SPARE = 64  # files that a training has open beside its shards, at least


class Shelf:
    """Descriptors of shards by number, from any thread.

    With `any_size` a file of this machine is opened although its size is not that of its index: what is left of it is
    left. Raises `ReadError` where this process may not have so many files open."""

    def __init__(self, shards: Sequence[Shard], cache: ShardCache | None = None, *, any_size: bool = False) -> None:
        self._shards, self._cache, self._any_size = shards, cache, any_size
        self._remote = any(shard.is_remote for shard in shards)
        _allow_files(sum(not shard.is_remote for shard in shards))
        self._open: dict[int, Future[int]] = {}
        self._lost: dict[int, ShardLost] = {}
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
        """An open file of the whole shard; waits for a remote one. Raises `DataError` where it cannot be had, and
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
        """As `descriptor`, for a shard that may be none of those that are in use or asked for: a remote one is opened
        for this use alone, so that it may leave the cache afterwards and nobody closes it meanwhile."""
        shard = self._shards[number]
        if not shard.is_remote:
            yield self.descriptor(number)
            return
        self._refuse_lost(number)
        with self._remembering(number):
            descriptor = self._fetch(shard)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def want(self, numbers: Iterable[int]) -> None:
        """Begins to fetch remote shards, in this order, without waiting."""
        for number in numbers:
            if number not in self._open and number not in self._lost and self._shards[number].is_remote:
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
            return self._pool.submit(self._fetch, shard)
        future: Future[int] = Future()
        try:
            future.set_result(_open_local(shard, self._any_size))
        except ReadError as error:
            future.set_exception(error)
        return future

    def _fetch(self, shard: Shard) -> int:
        return self._cache.open(RemoteShard(shard.place, shard.bytes, shard.sha256))

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


def _open_local(shard: Shard, any_size: bool) -> int:
    """Opens a shard of this machine. Raises `ShardLost` where it is gone or not what was indexed, `ReadError` where
    this process cannot open it."""
    try:
        descriptor = os.open(shard.place, os.O_RDONLY)
    except OSError as error:
        raise unreadable(shard, error) from None
    size = os.fstat(descriptor).st_size
    if size != shard.bytes and not any_size:
        os.close(descriptor)
        reason = f"the shard has {size} bytes, and {shard.bytes} when it was indexed"
        raise ShardLost(shard.place, reason, f"copy it again, {MADE_ANEW}")
    return descriptor


def unreadable(shard: Shard, error: OSError) -> ReadError:
    """What to raise where the system does not let a shard be opened or read."""
    if error.errno in LOST:
        return lost(shard, f"cannot be read: {error.strerror}")
    if error.errno == errno.EMFILE:
        return ReadError(
            f"{name_of(shard)}: cannot be opened: this process has as many files open as `ulimit -n` allows, "
            f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]}; raise it, or make fewer and larger shards"
        )
    return ReadError(f"{name_of(shard)}: cannot be read: {error.strerror}")


def lost(shard: Shard, reason: str) -> ReadError:
    """What to raise of a file that is not what it was. That of a remote shard is a copy which only this machine has, so
    that others would not find the same."""
    if shard.is_remote:
        return ReadError(f"{name_of(shard)}: {reason}, in the cache of this machine; start again")
    return ShardLost(name_of(shard), reason, "copy it again")


def _close(future: Future[int] | None) -> None:
    if future is None or future.cancel():
        return

    def close(done: Future[int]) -> None:
        with contextlib.suppress(Exception):  # one that could not be had
            os.close(done.result())

    future.add_done_callback(close)


def _allow_files(count: int) -> None:
    """Lets this process keep all shards open. Raises `ReadError` where the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and count + _SPARE > hard:
        raise ReadError(
            f"data.shards names {count} shards on this machine, which are all kept open, and `ulimit -Hn` allows a "
            f"process {hard} files; have it raised, or make fewer and larger shards (`distgan prepare --shard-size`)"
        )
    wanted = count + 512 if hard == resource.RLIM_INFINITY else min(count + 512, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def name_of(shard: Shard) -> str:
    """What messages call a shard."""
    return shown(shard.place)
