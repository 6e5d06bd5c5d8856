"""What `accelerate launch` started, and how its processes find each other again after a restart."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from distgan.errors import ConfigError


def meet_after_restart(backend: str, timeout: timedelta) -> None:
    """Brings up the process group where the launcher has started its processes again (`--max_restarts`): they are given
    the store of those before, in which gloo would find addresses of processes that are gone."""
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
    try:
        launcher = Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")
    except OSError:  # no such thing on this system: nothing can be said
        return
    is_accelerate = "accelerate.commands.launch" in launcher[:4] or any(
        Path(part).name in ("accelerate", "accelerate-launch") for part in launcher[:2]
    )
    asked = re.search(r"\0--num[_-]processes[=\0](\d+)\0", "\0".join(launcher))
    if is_accelerate and asked and int(asked[1]) > 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"accelerate launch was asked for {asked[1]} processes and started one, as it does on a CPU; "
            "add --config_file launch/cpu.yaml"
        )
