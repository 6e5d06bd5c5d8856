"""What goes wrong on the way from a URL or path: told in one line without secrets, or mended by another attempt."""

from __future__ import annotations

import asyncio
import errno
import ssl
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from distgan.data.urls import is_remote, masked, shown
from distgan.errors import DataError, ReadError

ATTEMPTS = 10  # without a new byte
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds between attempts; doubled each time
MADE_ANEW = (
    "or make it anew: prepared shards with `distgan prepare --overwrite`, the index of others with `distgan index`"
)
"""The way out where a shard is not what its index says and no other copy has come."""
POLL = 0.1  # seconds until a `stop` is noticed
NETWORK_ERRORS = (
    "ClientConnectionError",
    "ClientPayloadError",
    "HTTPClientError",
    "TransportError",
    "RequestException",
)
"""Errors of aiohttp, botocore, httpx and requests that a second attempt may mend; named, as they are not imported."""
LOST = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR),
    *(errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE),
)
"""What the system says of a file that is no fault of this process, and would be said again."""
DEFECTS = (TypeError, AttributeError, NameError, LookupError, AssertionError)
T = TypeVar("T")


class RemoteError(DataError):
    """What a URL does not give, or gives wrong. Met by the one process that asked."""

    everywhere = False


class ShardLost(ReadError):
    """A shard that is gone, may not be read, or is not what it was when indexed: whoever asks is told the same, and
    asking again would not mend it. Made of its name, what is wrong with it, and the way out."""

    def __str__(self) -> str:
        name, reason, way_out = self.args
        return f"{name}: {reason}; {way_out}"


class LostThere(ShardLost, RemoteError):
    """A shard that is lost where it is to be fetched from."""


class NotThere(LostThere):
    """Nothing is at the URL (404)."""


class Denied(LostThere):
    """The URL may not be read (401, 403). Some public stores say so of what does not exist, too."""


class Stopped(Exception):
    """A download ended early because its `stop` was set."""


class FileTrouble(Exception):
    """What went wrong with the file that is written, as its cause: no fault of the network."""


def patiently(url: str, attempt: Callable[[], T], position: Callable[[], int], stop: threading.Event | None) -> T:
    """`attempt`, again after transient trouble, until `ATTEMPTS` in a row have not moved `position`.

    Raises `RemoteError` then, or at once for trouble that another attempt would not mend; `Stopped` when `stop` is
    set."""
    failures, reached = 0, position()
    while True:
        heed(stop)
        try:
            return attempt()
        except (DataError, Stopped, FileTrouble):
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
        pause(failures, stop)


def heed(stop: threading.Event | None) -> None:
    """Raises `Stopped` when `stop` is set."""
    if stop is not None and stop.is_set():
        raise Stopped


def pause(failures: int, stop: threading.Event | None) -> None:
    """Waits before the next attempt, after so many failures; less when `stop` is set."""
    seconds = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)
    time.sleep(seconds) if stop is None else stop.wait(seconds)


def _final(error: Exception, url: str) -> Exception | None:
    """What to raise for an error that another attempt would not mend; None for one that it may."""
    if not is_remote(url) and isinstance(error, OSError):
        if error.errno in LOST:
            return LostThere(url, f"cannot be read: {error.strerror}", "copy it again")
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return error
    error = _root(error)
    status = _status(error)
    if status in (404, 410):
        return NotThere(shown(url), f"nothing is there ({_reason(error)})", "look at the address")
    if status in (401, 403):
        way_out = "look at the address and at your credentials"
        return Denied(shown(url), f"access denied ({_reason(error)})", way_out)
    if status == 416:
        return LostThere(shown(url), "is shorter than it should be", "it has changed, so index it again")
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
    return masked(f"{type(error).__name__}: {error}".strip(": ").splitlines()[0])
