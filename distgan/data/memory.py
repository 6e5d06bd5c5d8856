"""How much memory this process has, and how much it may still take: of the machine, and of the control groups that a
container or a batch system has put it in."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_UNKNOWN = 4 * 2**30  # where there is no /proc


def available_memory(proc: Path = Path("/proc"), groups: Path = _GROUPS) -> int:
    """Bytes that could still be had without anything being killed or swapped out."""
    rooms = [_of_machine(proc), *(_of_group(folder, names) for folder, names in _own_groups(proc, groups))]
    return max(min(room for room in rooms if room is not None), 0)


def taken_memory(proc: Path = Path("/proc")) -> tuple[int, int]:
    """Bytes of the machine's memory that this process has now, and the most that it has had at one time.

    What the system counts as used (`ru_maxrss`) would not do: a process begins with its parent's.
    """
    try:
        lines = dict(line.split(":", 1) for line in (proc / "self" / "status").read_text().splitlines())
        now, most = (int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    except (OSError, KeyError, ValueError, IndexError):
        now = most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return now, most


def _of_machine(proc: Path) -> int:
    try:
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return _UNKNOWN


def _own_groups(proc: Path, groups: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of the groups of this process, each with those above it, whose limits hold for it too."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (groups / "memory", _V1) if controllers else (groups, _V2)
        own = Path(path.lstrip("/"))
        for folder in (own, *own.parents):
            yield root / folder, names


def _of_group(folder: Path, names: tuple[str, str, str]) -> int | None:
    """What a group leaves, files that it would give back not counted as taken; None without a limit."""
    limit, used, given_back = names
    try:
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        taken = int((folder / used).read_text()) - int(statistics.get(given_back, 0))
        return int((folder / limit).read_text()) - taken
    except (OSError, ValueError):  # "max", or no such file at the root
        return None
