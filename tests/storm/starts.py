"""A start of a training: its processes, found by a mark in their environment, and what has become of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from launching import ROOT

DRIVER = Path(__file__).resolve().parent / "driver.py"
PATIENCE = 180.0
"""Seconds for anything that must happen."""
_POLL = 0.003


class Trouble(Exception):
    """Something that must not happen, or that has not happened in time."""


class Member(NamedTuple):
    """A process of a start; `rank` is None for the launcher and for helpers."""

    pid: int
    rank: int | None


class Start:
    """One process by itself, or several under `accelerate launch`; its output goes to `log`."""

    def __init__(self, arguments: list[str], processes: int, log: Path, environment: dict[str, str]) -> None:
        self.processes, self.log = processes, log
        self._mark = f"STORM_MARK={uuid.uuid4().hex}"
        name, value = self._mark.split("=")
        launcher = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / "cpu.yaml")]
        words = [*launcher, "--num_processes", str(processes)] if processes > 1 else []
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *words, str(DRIVER), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment, name: value, "WANDB_MODE": "offline"},
                start_new_session=True,
            )
        self.began = time.monotonic()

    @property
    def text(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")

    def members(self) -> list[Member]:
        """The processes that are there."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and (member := self._member(entry)) is not None:
                found.append(member)
        return found

    def pid(self, rank: int) -> int:
        """The process of a rank; waits until it is there."""
        found: list[int] = []

        def there() -> bool:
            found[:] = [member.pid for member in self.members() if member.rank == rank]
            return bool(found)

        self.await_(there, f"process {rank} to be there")
        return found[0]

    def send(self, pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL for all, the launcher first, until none is left."""
        deadline = time.monotonic() + PATIENCE
        self.send(self.process.pid, signal.SIGKILL)
        while members := self.members():
            for member in members:
                self.send(member.pid, signal.SIGKILL)
            self.process.poll()
            if time.monotonic() > deadline:
                raise Trouble(f"processes {[member.pid for member in members]} do not die")
        self.process.wait()

    def end(self) -> int:
        """Waits until no process is left; the launcher's exit status."""
        wait_until(lambda: self.process.poll() is not None and not self.members(), f"the end of {self.log.name}")
        return self.process.returncode

    def await_(self, happened: Callable[[], bool], what: str) -> None:
        """Until something has happened, which a start that has ended can no longer do."""

        def happened_or_over() -> bool:
            over = self.process.poll() is not None
            if happened():
                return True
            if over:
                raise Trouble(f"{self.log.name} ended with {self.process.returncode}, waiting for {what}")
            return False

        wait_until(happened_or_over, what)

    def _member(self, entry: Path) -> Member | None:
        try:
            environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            return None
        if self._mark not in environment:
            return None
        ranks = [word.removeprefix("RANK=") for word in environment if word.startswith("RANK=")]
        trains = str(DRIVER) in words and "accelerate.commands.launch" not in words
        return Member(int(entry.name), int(ranks[0] if ranks else 0) if trains else None)


def wait_until(happened: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Raises Trouble when it has not happened in time."""
    deadline = time.monotonic() + patience
    while not happened():
        if time.monotonic() > deadline:
            raise Trouble(f"waited {patience:.0f} s in vain for {what}")
        time.sleep(_POLL)
