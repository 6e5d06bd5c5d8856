"""What is at a URL: read whole when it is small, or appended to a file so that a broken download goes on where it was.

Imports no torch, and fsspec only once a URL is really read. `http` and `https` are streamed, so that a connection that
breaks loses next to nothing; all other schemes are read in chunks. Every error names the URL without its secrets.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import os
import re
import select
import signal
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from distgan.errors import DataError

CONNECT_SECONDS = 30.0
SILENCE_SECONDS = 60.0  # no byte for so long ends a request; its whole duration has no bound
PIPE_SILENCE_SECONDS = 600.0  # a command may have to wait for a tape
ATTEMPTS = 10  # without a new byte
PIPE_ATTEMPTS = 3
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds between attempts; doubled each time
CHUNK, SMALLEST_CHUNK = 8 * 2**20, 256 * 2**10  # bytes of one request where nothing is streamed; halved by a failure
POLL = 0.1  # seconds until a `stop` is noticed
EXTRAS = {"https": "http", "http": "http", "s3": "s3", "gs": "gs", "gcs": "gs", "hf": "hf"}
LOCAL = ("file", "local")
HTTP = ("http://", "https://")
NETWORK_ERRORS = (
    "ClientConnectionError",
    "ClientPayloadError",
    "HTTPClientError",
    "TransportError",
    "RequestException",
)
"""Errors of aiohttp, botocore, httpx and requests that a second attempt may mend; named, as they are not imported."""
DEFECTS = (TypeError, AttributeError, NameError, LookupError, AssertionError)
T = TypeVar("T")


class RemoteError(DataError):
    """What a URL does not give, or gives wrong. Met by the one process that asked."""

    everywhere = False


class NotThere(RemoteError):
    """Nothing is at the URL (404)."""


class Denied(RemoteError):
    """The URL may not be read (401, 403). Some public stores say so of what does not exist, too."""


class Stopped(Exception):
    """A download ended early because its `stop` was set."""


class _FileTrouble(Exception):
    """What went wrong with the file that is written, as its cause: no fault of the network."""


class _RangeIgnored(Exception):
    """A server that was asked for a part answers with the whole."""


def is_remote(spec: str) -> bool:
    """Whether `spec` is a URL or a `pipe:COMMAND` and no local path; `file://` is local."""
    scheme = re.match(r"([A-Za-z][\w+.:-]*)://", spec)
    return spec.startswith("pipe:") or (scheme is not None and scheme[1].lower() not in LOCAL)


def shown(url: str) -> str:
    """A URL as messages may show it: without query, fragment, user and password; a command without its options."""
    if url.startswith("pipe:"):
        words = url.removeprefix("pipe:").split()
        telling = [_masked(w.strip("'\"")) for w in words[1:] if "://" in w or re.search(r"\.(tar|json|npy)\b", w)]
        return " ".join(["pipe:" + "".join(words[:1]), *telling])
    scheme, mark, rest = url.partition("://")
    authority, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    return scheme + mark + authority.rpartition("@")[2] + slash + path if mark else url


def check_url(url: str, allow_shell: bool) -> None:
    """Raises `DataError` for a scheme that is unknown or not installed, and for `pipe:` without `allow_shell`."""
    if url.startswith("pipe:"):
        if not allow_shell:
            raise DataError(f"{shown(url)}: shell commands are not run unless data.allow_shell is true")
        return
    scheme = url.partition("://")[0].lower()
    known = ", ".join((*EXTRAS, "pipe"))
    try:
        from fsspec.registry import get_filesystem_class

        get_filesystem_class(scheme)
    except ImportError:
        package = f"'distgan[{EXTRAS[scheme]}]'" if scheme in EXTRAS else "the fsspec package for it"
        raise DataError(f"{shown(url)}: {scheme}:// cannot be read yet; pip install {package}") from None
    except ValueError:
        raise DataError(f"{shown(url)}: unknown scheme {scheme!r}; give one of {known}, or another of fsspec") from None


def join_url(folder_url: str, name: str) -> str:
    """The URL of a file in a folder. A query (a signature for the whole folder) stays behind the path."""
    if folder_url.startswith("pipe:"):
        raise DataError(f"{shown(folder_url)}: a command is no folder; give a command for each shard")
    if folder_url.lower().startswith(HTTP):
        parts = urlsplit(folder_url)
        return urlunsplit(parts._replace(path=parts.path.rstrip("/") + "/" + quote(name)))
    return folder_url.rstrip("/") + "/" + name


def read_small(url: str, most: int = 64 * 2**20) -> bytes | None:
    """All bytes of a file of at most `most` bytes; None where there is none. Raises `DataError`, also when larger."""
    if url.startswith("pipe:"):
        raise DataError(f"{shown(url)}: a command has nothing beside it; give a URL")
    check_url(url, allow_shell=False)
    buffer = io.BytesIO()
    complaint = f"{shown(url)}: larger than {most} bytes, so not what it should be; look at the address"
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

    size = _patiently(url, ask, lambda: 0, stop)["size"]
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
        return _download_pipe(url, file, size, stop)
    size = size_of(url, stop) if size is None else size
    if size is not None and file.seek(0, os.SEEK_END) > size:
        _empty(file)
    complaint = f"{shown(url)}: holds more than the {size} bytes it should; it has changed, so index it again"
    _Transfer(url, file, size, stop, size, complaint).run()


@dataclass
class _Transfer:
    """One file on its way: what is at `url` from the present end of `file` on, never beyond `most` bytes."""

    url: str
    file: BinaryIO
    size: int | None
    stop: threading.Event | None
    most: int | None
    complaint: str

    def run(self) -> None:
        self.chunk = CHUNK
        attempt = self._stream if self.url.lower().startswith(HTTP) else self._chunks
        try:
            _patiently(self.url, attempt, self._position, self.stop)
        except _FileTrouble as trouble:
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
        if length == 0:
            raise EOFError(f"no bytes after {start} of {self.size}")
        if length <= end - start:
            return 0
        if length == self.size:
            return start
        raise EOFError(f"{length} bytes where {end - start} were asked for")


class _Sink:
    """The file as fsspec sees it: leaves out `skip` bytes at the front, and refuses to grow beyond `most`."""

    def __init__(self, file: BinaryIO, skip: int, most: int | None, complaint: str) -> None:
        self.file, self.skip, self.most, self.complaint = file, skip, most, complaint
        self.trouble: BaseException | None = None
        self._lock, self._ended = threading.Lock(), False
        self.read = self.tell = self.close = None  # fsspec takes what has these for an open file

    def guard(self, call: Callable[[], Any]) -> None:
        """Runs what writes here. An error of the file itself leaves it as `_FileTrouble`."""
        try:
            call()
        except BaseException:
            if self.trouble is not None:
                raise _FileTrouble from self.trouble
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
                    raise RemoteError(self.complaint)
                self.file.write(kept)
            except BaseException as trouble:
                self.trouble = trouble
                raise
        return len(data)


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate(0)


def _filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL and the path in it. Asked for each time, as none of them survives a fork."""
    import fsspec.core

    scheme = url.partition("://")[0].lower()
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
            _heed(stop)
        return future.result()
    finally:
        future.cancel()


def _heed(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise Stopped


def _pause(failures: int, stop: threading.Event | None) -> None:
    seconds = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)
    time.sleep(seconds) if stop is None else stop.wait(seconds)


def _patiently(url: str, attempt: Callable[[], T], position: Callable[[], int], stop: threading.Event | None) -> T:
    """`attempt`, again after transient trouble, until `ATTEMPTS` in a row have not moved `position`."""
    failures, reached = 0, position()
    while True:
        _heed(stop)
        try:
            return attempt()
        except (DataError, Stopped, _FileTrouble):
            raise
        except Exception as error:
            if (final := _final(error, url)) is not None:
                if final is error:
                    raise
                raise final from None
            reason = _reason(error)
        now = position()
        failures, reached = (1, now) if now > reached else (failures + 1, reached)
        if failures >= ATTEMPTS:
            raise RemoteError(f"{shown(url)}: gave up after {failures} attempts without a new byte ({reason})")
        _pause(failures, stop)


def _final(error: Exception, url: str) -> Exception | None:
    """What to raise for an error that another attempt would not mend; None for one that it may."""
    error = _root(error)
    status = _status(error)
    if status in (404, 410):
        return NotThere(f"{shown(url)}: nothing is there ({_reason(error)}); look at the address")
    if status in (401, 403):
        return Denied(f"{shown(url)}: access denied ({_reason(error)}); look at the address and at your credentials")
    if status == 416:
        return RemoteError(f"{shown(url)}: is shorter than it should be; it has changed, so index it again")
    if isinstance(error, DEFECTS):
        return error
    transient = status in (408, 425, 429) or status >= 500 if status is not None else _is_network(error)
    return None if transient else RemoteError(f"{shown(url)}: cannot be read ({_reason(error)})")


def _root(error: Exception) -> Exception:
    """The cause behind what a file system says: fsspec's http calls any failure to learn a size "not found", and s3fs
    turns the status of an answer into a number of the system."""
    cause = error.__cause__
    if not isinstance(cause, Exception):
        return error
    hidden = isinstance(error, FileNotFoundError) and (_status(cause) is not None or _is_network(cause))
    return cause if hidden or isinstance(getattr(cause, "response", None), dict) else error


def _status(error: Exception) -> int | None:
    """The HTTP status in an error of aiohttp, gcsfs, httpx, requests, botocore or the system."""
    if isinstance(error, (FileNotFoundError, PermissionError)):
        return 404 if isinstance(error, FileNotFoundError) else 403
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        value = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return value if isinstance(value, int) else None
    for holder, name in ((error, "status"), (error, "code"), (response, "status_code")):
        value = str(getattr(holder, name, None))
        if value.isdecimal() and 100 <= int(value) < 600:
            return int(value)
    return None


def _is_network(error: Exception) -> bool:
    if isinstance(error, ssl.CertificateError):
        return False
    known = any(kind.__name__ in NETWORK_ERRORS for kind in type(error).__mro__)
    return known or isinstance(error, (OSError, EOFError, asyncio.TimeoutError))


def _reason(error: Exception) -> str:
    """One short line without secrets."""
    error = _root(error)
    if (status := _status(error)) is not None:
        return f"HTTP status {status}"
    return _masked(f"{type(error).__name__}: {error}".strip(": ").splitlines()[0])


def _masked(text: str) -> str:
    return re.sub(r"[A-Za-z][\w+.-]*://[^\s'\"<>|;)]+", lambda found: shown(found[0]), text)


def _download_pipe(url: str, file: BinaryIO, size: int | None, stop: threading.Event | None) -> None:
    """Fills `file` with what a shell command prints. A command that fails is run again."""
    for attempt in range(1, PIPE_ATTEMPTS + 1):
        _heed(stop)
        _empty(file)
        try:
            return _run_pipe(url, file, size, stop)
        except EOFError as error:
            reason = str(error)
        if attempt < PIPE_ATTEMPTS:
            _pause(attempt, stop)
    raise RemoteError(f"{shown(url)}: the command failed {PIPE_ATTEMPTS} times ({_masked(reason)}); run it by hand")


def _run_pipe(url: str, file: BinaryIO, size: int | None, stop: threading.Event | None) -> None:
    command = ["/bin/sh", "-c", url.removeprefix("pipe:")]
    with tempfile.TemporaryFile() as errors:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": errors}
        with subprocess.Popen(command, start_new_session=True, **options) as process:
            try:
                # Through this process, and not straight into the file: a command that outlives it writes nowhere.
                for data in _printed(process.stdout.fileno(), stop):
                    if size is not None and file.tell() + len(data) > size:
                        raise RemoteError(f"{shown(url)}: prints more than the {size} bytes it should; index it again")
                    file.write(data)
                while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                    _heed(stop)
                    time.sleep(0.01)
            finally:
                os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        errors.seek(0)
        lines = errors.read(2**16).decode(errors="replace").strip().splitlines() or ["no message"]
    if process.returncode:
        raise EOFError(f"exit status {process.returncode}: {lines[0]}")
    if size is not None and file.tell() < size:
        raise EOFError(f"printed {file.tell()} of {size} bytes: {lines[0]}")


def _printed(descriptor: int, stop: threading.Event | None) -> Iterator[bytes]:
    """What arrives at the reading end of a pipe until it is closed."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    heard = time.monotonic()
    while True:
        _heed(stop)
        if poller.poll(1000 * POLL):
            if not (data := os.read(descriptor, 2**20)):
                return
            yield data
            heard = time.monotonic()
        elif time.monotonic() - heard > PIPE_SILENCE_SECONDS:
            raise EOFError(f"printed nothing for {PIPE_SILENCE_SECONDS:.0f} s")
