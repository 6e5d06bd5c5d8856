"""`pipe:COMMAND`: what a shell command prints, as if it were what is at a URL."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

from distgan.data.failures import POLL, RemoteError, heed, pause
from distgan.data.urls import masked, shown

ATTEMPTS = 3
SILENCE_SECONDS = 600.0  # without a byte; a command may have to wait for a tape


def download_pipe(url: str, file: BinaryIO, size: int | None, stop: threading.Event | None) -> None:
    """Fills `file` with what a command prints, and runs it again when it fails. As `remote.download` otherwise."""
    for attempt in range(1, ATTEMPTS + 1):
        heed(stop)
        file.seek(0)
        file.truncate(0)
        try:
            return _run(url, file, size, stop)
        except EOFError as error:
            reason = str(error)
        if attempt < ATTEMPTS:
            pause(attempt, stop)
    raise RemoteError(f"{shown(url)}: the command failed {ATTEMPTS} times ({masked(reason)}); run it by hand")


def _run(url: str, file: BinaryIO, size: int | None, stop: threading.Event | None) -> None:
    """Runs the command once. Raises `EOFError` where it fails or prints too little."""
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
                    heed(stop)
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
        heed(stop)
        if poller.poll(1000 * POLL):
            if not (data := os.read(descriptor, 2**20)):
                return
            yield data
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE_SECONDS:
            raise EOFError(f"printed nothing for {SILENCE_SECONDS:.0f} s")
