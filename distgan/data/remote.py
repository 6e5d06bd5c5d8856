"""What is at a URL or path: read whole when it is small, or appended to a file so that a broken copy goes on there.

Imports no torch, and fsspec only once a URL is really read. `http` and `https` are streamed, so that a connection that
breaks loses next to nothing; all other schemes are read in chunks. Every error names the URL without its secrets.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from distgan.data.failures import POLL, FileTrouble, LostThere, NotThere, RemoteError, Stopped, heed, patiently
from distgan.data.pipes import download_pipe
from distgan.data.urls import HTTP, check_url, is_remote, shown
from distgan.errors import DataError

CONNECT_SECONDS = 30.0
SILENCE_SECONDS = 60.0  # no byte for so long ends a request; its whole duration has no bound
CHUNK, SMALLEST_CHUNK = 8 * 2**20, 256 * 2**10  # bytes of one request where nothing is streamed; halved by a failure


class _RangeIgnored(Exception):
    """A server that was asked for a part answers with the whole."""


def read_small(url: str, most: int = 64 * 2**20) -> bytes | None:
    """All bytes of a file of at most `most` bytes; None where there is none. Raises `DataError`, also when larger."""
    if url.startswith("pipe:"):
        raise DataError(f"{shown(url)}: a command has nothing beside it; give a URL")
    check_url(url, allow_shell=False)
    buffer = io.BytesIO()
    complaint = RemoteError(f"{shown(url)}: larger than {most} bytes, so not what it should be; look at the address")
    try:
        _Transfer(url, buffer, None, None, most, complaint).run()
    except NotThere:
        return None
    return buffer.getvalue()


def size_of(url: str, stop: threading.Event | None = None) -> int | None:
    """Bytes at a URL; None where only fetching would tell (a `pipe:`, or a server that names no length).

    Raises `DataError` for what is not there or stays out of reach, `Stopped` when `stop` is set."""
    if url.startswith("pipe:"):
        return None

    def ask() -> dict:
        filesystem, path = _filesystem(url)
        return _call(filesystem, "info", path, stop=stop)

    size = patiently(url, ask, lambda: 0, stop)["size"]
    return None if size is None else int(size)


def download(
    url: str, file: BinaryIO, *, size: int | None, allow_shell: bool = False, stop: threading.Event | None = None
) -> None:
    """Appends what is at `url` to `file`, open for binary writing, from its present end until it is whole.

    `size` is that of the whole in bytes, None if unknown. What the file holds is taken for the beginning of the
    same content; a `pipe:` begins anew. Raises `DataError` for what cannot be had, `Stopped` when `stop` is set, and
    whatever writing to `file` raises (its `write` must take all that it is given, and may be called by another
    thread); the file then holds an unbroken beginning, to go on from."""
    check_url(url, allow_shell)
    if url.startswith("pipe:"):
        return download_pipe(url, file, size, stop)
    size = size_of(url, stop) if size is None else size
    if size is not None and file.seek(0, os.SEEK_END) > size:
        file.seek(0)
        file.truncate(0)
    complaint = LostThere(
        shown(url), f"holds more than the {size} bytes it should", "it has changed, so index it again"
    )
    _Transfer(url, file, size, stop, size, complaint).run()


@dataclass
class _Transfer:
    """One file on its way: what is at `url` from the present end of `file` on, never beyond `most` bytes."""

    url: str
    file: BinaryIO
    size: int | None
    stop: threading.Event | None
    most: int | None
    complaint: RemoteError

    def run(self) -> None:
        self.chunk = CHUNK
        attempt = self._stream if self.url.lower().startswith(HTTP) else self._chunks
        try:
            patiently(self.url, attempt, self._position, self.stop)
        except FileTrouble as trouble:
            raise trouble.__cause__ from None

    def _position(self) -> int:
        return self.file.seek(0, os.SEEK_END)

    def _stream(self, whole: bool = False) -> None:
        start = self._position()
        if start == self.size:
            return
        ranged = start > 0 and not whole and self.size is not None  # else the end could not be told from a part
        sink = _Sink(self.file, 0 if ranged else start, self.most, self.complaint)
        filesystem, path = _filesystem(self.url)
        try:
            headers = {"Range": f"bytes={start}-"} if ranged else {}
            sink.guard(lambda: _call(filesystem, "get_file", path, sink, headers=headers, stop=self.stop))
        except _RangeIgnored:
            return self._stream(whole=True)
        if self.size is not None and self._position() < self.size:
            raise EOFError(f"ended after {self._position()} of {self.size} bytes")

    def _chunks(self) -> None:
        filesystem, path = _filesystem(self.url)
        while (start := self._position()) != self.size:
            if self.size is None:
                limits = {} if self.most is None else {"start": 0, "end": self.most + 1}
            else:
                limits = {"start": start, "end": min(start + self.chunk, self.size)}
            try:
                data = _call(filesystem, "cat_file", path, stop=self.stop, **limits)
                skip = start if self.size is None else self._surplus(len(data), **limits)
            except Exception:
                self.chunk = max(self.chunk // 2, SMALLEST_CHUNK)
                raise
            sink = _Sink(self.file, skip, self.most, self.complaint)
            sink.guard(lambda sink=sink, data=data: sink.write(data))
            if self.size is None:
                return

    def _surplus(self, length: int, start: int, end: int) -> int:
        """How many bytes at the front were not asked for: a store that ignores ranges sends the whole."""
        if length == 0 and not is_remote(self.url):  # asking again would not mend it
            raise LostThere(self.url, f"is shorter than its {self.size} bytes", "it has changed, so index it again")
        if length == 0:
            raise EOFError(f"no bytes after {start} of {self.size}")
        if length <= end - start:
            return 0
        if length == self.size:
            return start
        raise EOFError(f"{length} bytes where {end - start} were asked for")


class _Sink:
    """The file as fsspec sees it: leaves out `skip` bytes at the front, and refuses to grow beyond `most`."""

    def __init__(self, file: BinaryIO, skip: int, most: int | None, complaint: RemoteError) -> None:
        self.file, self.skip, self.most, self.complaint = file, skip, most, complaint
        self.trouble: BaseException | None = None
        self._lock, self._ended = threading.Lock(), False
        self.read = self.tell = self.close = None  # fsspec takes what has these for an open file

    def guard(self, call: Callable[[], Any]) -> None:
        """Runs what writes here. An error of the file itself leaves it as `FileTrouble`."""
        try:
            call()
        except BaseException:
            if self.trouble is not None:
                raise FileTrouble from self.trouble
            raise
        finally:
            with self._lock:  # fsspec's own thread may still be about to write
                self._ended = True

    def write(self, data: bytes) -> int:
        with self._lock:
            if self._ended:
                raise Stopped
            kept = memoryview(data)[self.skip :]
            self.skip -= len(data) - len(kept)
            try:
                if self.most is not None and self.file.tell() + len(kept) > self.most:
                    raise self.complaint
                self.file.write(kept)
            except BaseException as trouble:
                self.trouble = trouble
                raise
        return len(data)


def _filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL and the path in it. Asked for each time, as none of them survives a fork."""
    import fsspec.core

    scheme = url.partition("://")[0].lower()
    if not is_remote(url):
        return fsspec.filesystem("file"), url
    if not url.lower().startswith(HTTP):
        listings = {"use_listings_cache": False} if scheme in ("s3", "gs", "gcs") else {}
        return fsspec.core.url_to_fs(url, **listings)
    import aiohttp

    client = {
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS),
        "headers": {"Accept-Encoding": "identity"},  # a body packed on the fly has neither length nor ranges
        "raise_for_status": _check_range,
        "trust_env": True,  # proxies
    }
    return fsspec.filesystem(scheme, client_kwargs=client, use_listings_cache=False), url


async def _check_range(response: Any) -> None:
    """Called by aiohttp with each response before its body: a part must be the part that was asked for."""
    asked = response.request_info.headers.get("Range")
    if asked is None or response.status not in (200, 206):
        return
    given = re.match(r"bytes (\d+-)", response.headers.get("Content-Range", ""))
    if response.status == 200 or given is None or asked != f"bytes={given[1]}":
        raise _RangeIgnored


def _call(filesystem: Any, name: str, *arguments: Any, stop: threading.Event | None, **options: Any) -> Any:
    """A method of a file system, left as soon as `stop` is set where it is an asynchronous one."""
    if not filesystem.async_impl:
        return getattr(filesystem, name)(*arguments, **options)
    work = getattr(filesystem, f"_{name}")(*arguments, **options)
    future = asyncio.run_coroutine_threadsafe(work, filesystem.loop)
    try:
        while not concurrent.futures.wait([future], timeout=POLL).done:
            heed(stop)
        return future.result()
    finally:
        future.cancel()
