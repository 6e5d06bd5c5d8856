"""A loopback HTTP server that serves a folder and fails on demand: by a script, always, or at random from a seed."""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

STATUSES = {"403", "404", "416", "429", "500", "503"}
KNOWN = STATUSES | {"ok", "cut", "short", "no_range", "no_length", "wrong", "slow", "hang", "mute"}
PIECE = 64 * 2**10


@dataclass
class Seen:
    """A request that came: `start` is the first byte asked for (0 without Range), `sent` counts bytes of its body."""

    method: str
    path: str
    query: str
    start: int
    fault: str
    authorization: str | None
    sent: int = 0


class FlakyServer:
    """Use as `with FlakyServer(folder) as server: server.url("name")`.

    A fault is a word, or several joined by spaces: a status (`500`); `cut` resets the connection after half of the
    body; `short` ends it there, politely, with the full Content-Length announced; `no_range` answers 200 with the
    whole; `no_length` refuses HEAD and names no length; `wrong` turns every byte over; `slow` takes `pause` seconds
    for each 64 KiB; `hang` sends half and then nothing; `mute` accepts and sends nothing at all.
    Which one a GET meets: the next of `script[path]`, else `always[path]`, else one of `at_random` with probability
    `chance` by (seed, path, number of the request), else none.
    """

    def __init__(self, folder: Path, *, seed: int = 0, chance: float = 0.0, at_random: tuple[str, ...] = ()) -> None:
        self.folder, self.seed, self.chance, self.at_random = folder, seed, chance, at_random
        self.script: dict[str, list[str]] = defaultdict(list)
        self.always: dict[str, str] = {}
        self.seen: list[Seen] = []
        self.pause = 0.01
        self.over = threading.Event()
        self._numbers: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Quiet(("127.0.0.1", 0), _Handler)
        self._server.flaky = self

    def __enter__(self) -> FlakyServer:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def url(self, name: str, query: str = "") -> str:
        return f"http://127.0.0.1:{self.port}/{name}" + (f"?{query}" if query else "")

    def gets(self, name: str) -> list[Seen]:
        """The GET requests for a file so far, in the order in which they came."""
        with self._lock:
            return [seen for seen in self.seen if seen.path == name and seen.method == "GET"]

    def sent(self, name: str) -> int:
        """Bytes of the file's content that left so far, all requests together."""
        return sum(seen.sent for seen in self.gets(name))

    def fault(self, method: str, path: str) -> str:
        with self._lock:
            if method != "GET":
                return self.always.get(path, "ok")
            self._numbers[path] += 1
            if self.script[path]:
                return self.script[path].pop(0)
            draw = random.Random(f"{self.seed} {path} {self._numbers[path]}")
            if path not in self.always and draw.random() < self.chance:
                return draw.choice(self.at_random)
            return self.always.get(path, "ok")

    def note(self, seen: Seen) -> None:
        assert set(seen.fault.split()) <= KNOWN, seen.fault
        with self._lock:
            self.seen.append(seen)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that went away: half of what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ThreadingHTTPServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        flaky: FlakyServer = self.server.flaky
        parts = urlsplit(self.path)
        path = unquote(parts.path.lstrip("/"))
        faults = flaky.fault(self.command, path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        seen = Seen(self.command, path, parts.query, start, faults, self.headers.get("Authorization"))
        flaky.note(seen)
        words = set(faults.split())
        if "mute" in words:
            flaky.over.wait()
        elif self.command == "HEAD" and "no_length" in words:
            self._refuse(405)
        elif words & STATUSES:
            self._refuse(int((words & STATUSES).pop()))
        elif not (flaky.folder / path).is_file():
            self._refuse(404)
        else:
            self._file(flaky, (flaky.folder / path).read_bytes(), words, asked, seen)

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, flaky: FlakyServer, whole: bytes, words: set[str], asked: re.Match | None, seen: Seen) -> None:
        body, status = whole, 200
        if asked and "no_range" not in words:
            last = min(int(asked[2] or len(whole) - 1), len(whole) - 1)
            if seen.start > last:
                return self._refuse(416)
            body, status = whole[seen.start : last + 1], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {seen.start}-{seen.start + len(body) - 1}/{len(whole)}")
        if "no_length" in words:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if "wrong" in words:
            body = bytes(255 - byte for byte in body)
        try:
            self._send(flaky, body, words, seen)
        except OSError:
            self.close_connection = True

    def _send(self, flaky: FlakyServer, body: bytes, words: set[str], seen: Seen) -> None:
        half = words & {"cut", "short", "hang"}
        end = len(body) // 2 if half else len(body)
        for at in range(0, end, PIECE):
            piece = body[at : min(at + PIECE, end)]
            self.wfile.write(piece)
            seen.sent += len(piece)
            if "slow" in words:
                time.sleep(flaky.pause)
        if half:
            self.close_connection = True
        if "hang" in words:
            flaky.over.wait()
        if "cut" in words:  # closing now resets the connection
            time.sleep(0.02)  # else what was sent is lost with it
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
