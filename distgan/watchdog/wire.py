"""What the watchdogs of the processes say to each other: JSON, a line a message, each to process 0 and back.

Over sockets of their own. The kernel closes those of a process that is killed, so that its end is known at once on
every machine; and nothing here waits, as calls to a torch store do for ever when its host is stopped.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import socket
from dataclasses import dataclass

from distgan.watchdog.judge import GONE, UNREACHABLE

_MOST = 1 << 16
"""Bytes that may wait to be sent, or to become a whole line."""
_DIAL = 5.0
"""Seconds for one attempt to reach process 0."""
_SILENT_MACHINE = 20
"""Seconds after which a machine that does not even acknowledge is given up."""


@dataclass(frozen=True)
class Meeting:
    """Where process 0 listens, and the word by which the others are known."""

    port: int
    hosts: tuple[str, ...]
    word: str


class Line:
    """A connection. Sends and receives what is possible at once."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        for level, option, value in _options():
            with contextlib.suppress(OSError):
                connection.setsockopt(level, option, value)
        self.connection, self.rank = connection, -1
        self._out, self._in = b"", b""

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, **message: object) -> None:
        """What does not fit any more is left out; a line that has broken is found out by `receive`."""
        if len(self._out) < _MOST:
            self._out += json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):
            self._out = self._out[self.connection.send(self._out) :]

    def receive(self) -> list[dict]:
        """The messages that are there. Raises OSError when there will be no more, ValueError when it is none of
        ours."""
        try:
            data = self.connection.recv(_MOST)
        except BlockingIOError:
            return []
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "closed")
        *lines, self._in = (self._in + data).split(b"\n")
        if len(self._in) > _MOST:
            raise ValueError("not a line")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        self.connection.close()


def how_lost(error: Exception) -> str:
    """What a broken line says of who is at its other end."""
    unreachable = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
    return UNREACHABLE if getattr(error, "errno", None) in unreachable else GONE


def listen(alone: bool) -> tuple[socket.socket, Meeting]:
    """A socket on a free port, of this machine alone or for others too, and what to tell them."""
    if alone:
        server = socket.create_server(("127.0.0.1", 0))
    else:
        try:
            server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        except (OSError, ValueError):
            server = socket.create_server(("", 0))
    server.setblocking(False)
    named = (os.environ.get("MASTER_ADDR"), platform.node())
    return server, Meeting(server.getsockname()[1], tuple(host for host in named if host), os.urandom(16).hex())


def dial(meeting: Meeting, rank: int, beside: bool) -> Line | None:
    """A line to process 0, which is `beside` this one on its machine or elsewhere; None where none was found now."""
    for host in ("127.0.0.1", *meeting.hosts) if beside else meeting.hosts:
        try:
            connection = socket.create_connection((host, meeting.port), timeout=_DIAL)
        except OSError:
            continue
        hello, greeting = json.dumps({"word": meeting.word, "rank": rank}), json.dumps({"word": meeting.word})
        try:
            connection.sendall(hello.encode() + b"\n")
            if connection.recv(len(greeting) + 1, socket.MSG_WAITALL) == greeting.encode() + b"\n":
                return Line(connection)
        except OSError:
            pass
        connection.close()
    return None


def _options() -> list[tuple[int, int, int]]:
    """Keep-alives: a machine that has lost its power closes nothing."""
    wanted = {"TCP_NODELAY": 1, "TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": _SILENT_MACHINE // 5 - 1}
    wanted["TCP_USER_TIMEOUT"] = _SILENT_MACHINE * 1000
    found = [(socket.IPPROTO_TCP, getattr(socket, n), v) for n, v in wanted.items() if hasattr(socket, n)]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *found]
