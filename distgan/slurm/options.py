"""What a job asks of Slurm, as the command line gives it: understood, and all that is wrong with it told at once."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from distgan.errors import ConfigError

_EARLY = 60
"""Seconds by which Slurm may send the warning before its time."""
_TIME = re.compile(
    r"(?P<min>\d+)(:(?P<s>\d+))?|(?P<h>\d+):(?P<hmin>\d+):(?P<hs>\d+)"
    r"|(?P<d>\d+)-(?P<dh>\d+)(:(?P<dmin>\d+)(:(?P<ds>\d+))?)?"
)
_WORDS = ("partition", "account", "qos", "constraint")
_OURS = {
    **{name: f"--{name}" for name in (*_WORDS, "nodes", "time", "array", "gpus-per-node", "cpus-per-task", "requeue")},
    **{"no-requeue": "--no-requeue", "N": "--nodes", "t": "--time", "a": "--array", "c": "--cpus-per-task"},
    **{"p": "--partition", "A": "--account", "q": "--qos", "C": "--constraint", "signal": "--warn"},
}
"""Options of sbatch that have one of their own here."""
_FIXED = set("ntasks n ntasks-per-node output o error e open-mode chdir D wrap job-name J".split())
"""Options of sbatch that the launcher relies on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that shape the job."""
    many = parser.add_argument_group("many runs")
    many.add_argument(
        "--array",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUES",
        help="all combinations, each in a folder of its own in run_dir: seed=0-2 critic.optimizer.lr=1e-4,2e-4; a key "
        "with one value is laid on all",
    )
    many.add_argument(
        "--array-file", type=Path, metavar="FILE", help="the grid of a W&B sweep, such as those in configs/sweeps"
    )
    many.add_argument("--at-once", metavar="N", help="runs of the array that may run at the same time")
    _add_size(parser)
    where = parser.add_argument_group("where")
    for name in _WORDS:
        where.add_argument(f"--{name}", help="as Slurm's own")
    where.add_argument("--interface", help="network interface of NCCL and gloo on the nodes, e.g. eth0 or ib0")
    where.add_argument("--scratch", metavar="DIR", help="folder on each node's own disk, for copies of the shards")
    how = parser.add_argument_group("how")
    how.add_argument("--env", action="append", default=[], metavar="KEY=VALUE", help="a variable of the job; repeat it")
    how.add_argument(
        "--before", action="append", default=[], metavar="LINE", help="a line of shell first, e.g. 'module load cuda'"
    )
    how.add_argument(
        "--no-requeue",
        action="store_true",
        help="the job may not be requeued: a run that has to leave goes on in a new one",
    )
    how.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="one more option, e.g. --sbatch=--mem=64G; repeat it",
    )


def _add_size(parser: argparse.ArgumentParser) -> None:
    size = parser.add_argument_group("how large (one of --gpus-per-node and --processes-per-node)")
    size.add_argument(
        "--nodes", default="1", metavar="N|A-B", help="nodes, or as many of a range as are free; default 1"
    )
    size.add_argument("--gpus-per-node", metavar="[TYPE:]G", help="GPUs of each node, a process each")
    size.add_argument("--processes-per-node", metavar="P", help="processes of each node on its CPUs, without GPUs")
    size.add_argument(
        "--cpus-per-task",
        metavar="N",
        help="cores of each node, for all of its processes together; default: P, or with GPUs what the cluster gives",
    )
    size.add_argument("--time", help="limit: minutes, MM:SS, HH:MM:SS or D-HH[:MM[:SS]]; default: the partition's")
    size.add_argument(
        "--warn", default="300", metavar="SECONDS", help="before the limit: save, leave, be queued again; default 300"
    )


@dataclass(frozen=True)
class Request:
    """What a job asks for."""

    at_once: int | None
    """Elements of an array that may run at the same time; None: all."""
    nodes: tuple[int, int]
    """The least and the most."""
    processes: int
    """On each node."""
    gpus: str | None
    """Of each node, as Slurm is told; None: no GPUs."""
    cores: int | None
    """Of each node; None: what the cluster gives."""
    time: str | None
    warn: int
    """Seconds before the time limit."""
    words: dict[str, str]
    """partition, account, qos and constraint, as far as given."""
    interface: str | None
    scratch: str | None
    env: dict[str, str]
    before: tuple[str, ...]
    requeue: bool
    more: tuple[str, ...]
    """Options of sbatch, as they were typed."""

    @property
    def nodes_text(self) -> str:
        least, most = self.nodes
        return str(least) if least == most else f"{least}-{most}"


def requested(args: argparse.Namespace) -> Request:
    """What the options ask for. Raises ConfigError with a line for each mistake."""
    mistakes: list[str] = []

    def read(action: Callable, *arguments: object) -> object:
        try:
            return action(*arguments)
        except ConfigError as error:
            mistakes.append(str(error))
            return None

    at_once = read(_at_once, args.at_once, args.array or args.array_file)
    warn = read(_count, "--warn", args.warn)
    size = read(_processes, args.gpus_per_node, args.processes_per_node)
    cores = None if args.cpus_per_task is None else read(_count, "--cpus-per-task", args.cpus_per_task)
    nodes = read(_nodes, args.nodes)
    read(_check_time, args.time, warn)
    read(_check_scratch, args.scratch)
    env = [read(_variable, text) for text in args.env]
    for option in args.sbatch:
        read(_check_option, option)
    words = {name: value for name in _WORDS if (value := getattr(args, name)) is not None}
    for name, text in _lines(args, words):
        read(_check_line, name, text)
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return Request(
        at_once=at_once,
        nodes=nodes,
        processes=size,
        gpus=args.gpus_per_node,
        cores=cores or (None if args.gpus_per_node else size),
        time=args.time,
        warn=warn,
        words=words,
        interface=args.interface,
        scratch=args.scratch,
        env=dict(env),
        before=tuple(args.before),
        requeue=not args.no_requeue,
        more=tuple(args.sbatch),
    )


def seconds(time: str) -> int:
    """A time limit as Slurm reads it. Raises ConfigError naming the forms."""
    found = _TIME.fullmatch(time)
    if not found:
        raise ConfigError(f"--time {time}: not a time; give minutes, MM:SS, HH:MM:SS or D-HH[:MM[:SS]], e.g. 23:59:00")
    part = {name: int(digits or 0) for name, digits in found.groupdict().items()}
    hours = part["d"] * 24 + part["dh"] + part["h"]
    return (hours * 60 + part["min"] + part["hmin"] + part["dmin"]) * 60 + part["s"] + part["hs"] + part["ds"]


def _count(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) < 1:
        raise ConfigError(f"{name} {text}: not a whole number from 1 to 99999")
    return int(text)


def _at_once(text: str | None, array: list[str] | Path | None) -> int | None:
    if text is not None and not array:
        raise ConfigError(f"--at-once {text}: is for the runs of an --array; give one, or leave it out")
    return None if text is None else _count("--at-once", text)


def _nodes(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most:
        raise ConfigError(f"--nodes {text}: not a number of nodes, such as 2, nor a range of them, such as 2-4")
    return least, most


def _processes(gpus: str | None, processes: str | None) -> int:
    """Processes of a node."""
    if (gpus is None) == (processes is None):
        given = "both are given" if gpus else "neither is given"
        raise ConfigError(f"--gpus-per-node, or --processes-per-node for nodes without GPUs: {given}; give one of them")
    if gpus is None:
        return _count("--processes-per-node", processes)
    kind, colon, count = gpus.rpartition(":")
    if colon and not re.fullmatch(r"[\w.-]+", kind):
        raise ConfigError(f"--gpus-per-node {gpus}: not a number, such as 8, nor type and number, such as a100:8")
    return _count("--gpus-per-node", count)


def _check_time(time: str | None, warn: int | None) -> None:
    if time is None or warn is None:
        return
    if seconds(time) <= warn + _EARLY:
        raise ConfigError(
            f"--time {time}: {seconds(time)} s leave no time to train before the warning, which comes --warn {warn} s "
            f"before the limit or up to {_EARLY} s earlier; ask for more time, or give a smaller --warn"
        )


def _check_scratch(scratch: str | None) -> None:
    if scratch is not None and not os.path.isabs(scratch):
        raise ConfigError(f"--scratch {scratch}: not a whole path; give that of a folder on the nodes, e.g. /scratch")


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise ConfigError(f"--env {text}: not a variable; write KEY=VALUE, e.g. NCCL_DEBUG=INFO")
    return name, value


def _check_option(text: str) -> None:
    found = re.match(r"--([a-z-]+)|-([A-Za-z])", text)
    if not found:
        raise ConfigError(f"--sbatch={text}: not an option of sbatch; write for example --sbatch=--mem=64G")
    name = found[1] or found[2]
    if found[1]:  # sbatch takes beginnings of names too
        name = next((full for full in (*_OURS, *_FIXED) if len(name) > 1 and full.startswith(name)), name)
    if name in _OURS:
        raise ConfigError(f"--sbatch={text}: use distgan's own {_OURS[name]}")
    if name in _FIXED:
        raise ConfigError(f"--sbatch={text}: the launcher relies on what distgan writes there; leave it out")


def _lines(args: argparse.Namespace, words: dict[str, str]) -> Iterator[tuple[str, str | None]]:
    """What becomes a line of the script, or a part of one."""
    yield from words.items()
    yield from (("time", args.time), ("interface", args.interface))
    yield from (("before", line) for line in args.before)
    yield from (("sbatch", option) for option in args.sbatch)


def _check_line(name: str, text: str | None) -> None:
    if text is not None and (not text.strip() or "\n" in text):
        raise ConfigError(f"--{name} {text!r}: must be one line that is not empty")
