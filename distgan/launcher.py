"""What started this process, and how the processes of a launcher find each other again after a restart."""

from __future__ import annotations

import contextlib
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from distgan.errors import ConfigError

if TYPE_CHECKING:
    import torch


def launcher() -> int | None:
    """The pid of the torchrun or `accelerate launch` that started this process, None where neither did.

    Accelerate alone (one process) passes no signal on: its end is all that this process is told.
    """
    by_one = "TORCHELASTIC_RUN_ID" in os.environ or _is_accelerate(_command_of_parent())
    return os.getppid() if by_one else None


def workers_of(launcher: int) -> int:
    """How many processes of a torchrun are at work on this machine."""
    found = 0
    for entry in filter(str.isdecimal, os.listdir("/proc")):  # not "self"
        try:
            with open(f"/proc/{entry}/stat") as file:
                _, parent = file.read().rpartition(")")[2].split()[:2]
            if int(parent) == launcher:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    found += b"\0LOCAL_RANK=" in b"\0" + file.read()  # one that has ended has none
        except (OSError, ValueError):
            continue
    return found


def first_is_there() -> bool:
    """Whether the first process of this machine is at work: the one of the same command and the same meeting place."""
    try:
        command, places = _process("self")
    except OSError:  # no such thing on this system: nothing can be said
        return False
    wanted = {place for place in places if place.startswith((b"MASTER_ADDR=", b"MASTER_PORT="))} | {b"LOCAL_RANK=0"}
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            other, places = _process(entry)
            if other == command and wanted <= places:
                return True
    return False


def meet_after_restart(backend: str, timeout: timedelta) -> None:
    """Brings up the process group where the launcher has started its processes again (`--max_restarts`): they are given
    the store of those before, in which gloo would find addresses of processes that are gone."""
    import torch
    import torch.distributed as dist

    places = os.environ
    count = places.get("TORCHELASTIC_RESTART_COUNT", "0")
    one_launcher = places.get("GROUP_WORLD_SIZE") == "1"  # several need not have counted alike
    if count == "0" or not one_launcher or places.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    if backend == "nccl":
        torch.cuda.set_device(int(places["LOCAL_RANK"]))
    store = dist.TCPStore(places["MASTER_ADDR"], int(places["MASTER_PORT"]), is_master=False, timeout=timeout)
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(f"restart {count}", store),
        rank=int(places["RANK"]),
        world_size=int(places["WORLD_SIZE"]),
        timeout=timeout,
    )


def check_launch() -> None:
    """Raises ConfigError where accelerate was asked for several processes and silently started one."""
    command = _command_of_parent()
    asked = re.search(r"\0--num[_-]processes[=\0](\d+)\0", "\0".join(command))
    if _is_accelerate(command) and asked and int(asked[1]) > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"accelerate launch was asked for {asked[1]} processes and started one, as it does on a CPU; "
            "add --config_file launch/cpu.yaml"
        )


def _process(entry: str) -> tuple[bytes, set[bytes]]:
    """The command of a process and the variables that it was given; those of one that has ended are empty."""
    place = Path("/proc", entry)
    return (place / "cmdline").read_bytes(), set((place / "environ").read_bytes().split(b"\0"))


def _command_of_parent() -> list[str]:
    try:
        return Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")
    except OSError:  # no such thing on this system: nothing can be said
        return []


def _is_accelerate(command: list[str]) -> bool:
    return "accelerate.commands.launch" in command[:4] or any(
        Path(part).name in ("accelerate", "accelerate-launch") for part in command[:2]
    )


def numbered(device: torch.device) -> torch.device:
    """The device with its number, which accelerate leaves out on one process, and other threads need."""
    import torch

    is_any = device.type == "cuda" and device.index is None
    return torch.device("cuda", torch.cuda.current_device()) if is_any else device
