"""The processes of a run as the operating system knows them."""

from __future__ import annotations

import os
import platform
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Member:
    """One process of the run."""

    rank: int
    pid: int
    started: str
    """When, in the machine's clock ticks; with the pid it names one process and no later one."""
    host: str
    """The machine's name, for people."""
    machine: str
    """Equal for two processes that see each other's pids, and for no others."""

    def __str__(self) -> str:
        return f"process {self.rank} (pid {self.pid} on {self.host})"

    def state(self) -> str | None:
        """The kernel's letter for what it is doing (proc(5)), asked on its own machine; None when it is gone."""
        letter, started = _stat(self.pid)
        return letter if started == self.started and letter not in ("Z", "X") else None

    def is_stopped(self) -> bool:
        """Whether somebody has sent it SIGSTOP. Held by a debugger (letter t) it is not."""
        return self.state() == "T"

    def end(self) -> None:
        """SIGKILL, from its own machine: the launcher would give one that does not answer half a minute."""
        try:
            handle = os.pidfd_open(self.pid)
        except (OSError, AttributeError):  # gone, or a system without
            return
        try:
            if self.state() is not None:  # it is still the one that the handle holds
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        except OSError:
            pass
        finally:
            os.close(handle)

    def end_unless_it_does(self, seconds: float) -> None:
        """SIGKILL if it is still there then, at once when it is stopped."""
        until = time.monotonic() + seconds
        while self.state() not in (None, "T") and time.monotonic() < until:
            time.sleep(0.05)
        self.end()


def this_process(rank: int) -> Member:
    try:
        machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:  # no such thing here: nobody is on its machine
        machine = f"{platform.node()} {os.getpid()}"
    return Member(rank, os.getpid(), _stat(os.getpid())[1], platform.node(), machine)


def neighbour(members: list[Member], rank: int) -> Member | None:
    """The process of the same machine that this one keeps an eye on; each is so seen by one other, if there is one."""
    here = [member for member in members if member.machine == members[rank].machine]
    return None if len(here) == 1 else here[(here.index(members[rank]) + 1) % len(here)]


def _stat(pid: int) -> tuple[str, str]:
    """State and start time of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # its name may hold anything
    except OSError:
        return "X", ""
    return fields[0], fields[19]
