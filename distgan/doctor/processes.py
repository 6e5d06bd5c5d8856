"""Whether the processes of a run are there, and all run the same code."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

import distgan
from distgan.doctor.table import FINE, NOT_FINE, Finding, merged, named
from distgan.environment import version
from distgan.runtime import Exchange, Runtime, launched_processes

_SAME = ("python", "torch", "accelerate", "distgan", "code")


class Processes:
    """The processes of a run, as they tell each other what they have found."""

    def __init__(self, runtime: Runtime | None) -> None:
        """`runtime` None: of a config that was refused once the processes knew each other, or of one process."""
        self.world_size = launched_processes() if runtime is None else runtime.world_size
        self.rank = int(os.environ.get("RANK", 0)) if runtime is None else runtime.rank
        self.is_first_of_machine = os.environ.get("LOCAL_RANK", "0") == "0"
        self._exchange = Exchange(self.world_size)
        self._facts = [json.loads(text) for text in self.gather(json.dumps(facts(runtime)))]
        self.hosts = [each["host"] for each in self._facts]

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, text: str) -> list[str]:
        """The texts of all processes; waits for all, and for nothing that another thread of theirs does."""
        return self._exchange.gather(text)

    def union(self, names: frozenset[str]) -> frozenset[str]:
        """What any process holds; waits for all."""
        return frozenset().union(*(json.loads(text) for text in self.gather(json.dumps(sorted(names)))))

    def merged(self, findings: Sequence[Finding]) -> list[Finding]:
        """The rows for what each process has found, on all of them alike."""
        found = [[Finding(*part) for part in json.loads(text)] for text in self.gather(json.dumps(findings))]
        return merged(found, self.hosts)

    def rows(self) -> list[Finding]:
        """Who they are, and what differs between them."""
        return [_presence(self._facts), *_sameness(self._facts, self.hosts)]


def facts(runtime: Runtime | None) -> dict[str, str]:
    """What this process is, and what it runs."""
    on_cuda = runtime is not None and runtime.device.type == "cuda"
    return {
        "host": platform.node(),
        "device": torch.cuda.get_device_name(runtime.device) if on_cuda else "cpu",
        "python": platform.python_version(),
        **{name: str(version(name)) for name in ("torch", "accelerate", "distgan")},
        "code": code_hash(),
    }


def code_hash() -> str:
    """12 hexadecimal digits of all source files of the package that this process has imported."""
    folder, digest = Path(distgan.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _presence(found: Sequence[dict]) -> Finding:
    asked, count = launched_processes(), len(found)
    places = Counter((each["host"], each["device"]) for each in found)
    text = ", ".join(f"{many} on {host} ({device})" for (host, device), many in places.items())
    text = f"{count}: {text}" if len(places) > 1 else text
    if asked == count:
        return Finding("processes", FINE, text)
    return Finding("processes", NOT_FINE, f"{text}; the launcher started {asked}, so look at its settings")


def _sameness(found: Sequence[dict], hosts: Sequence[str]) -> list[Finding]:
    rows = []
    for name in _SAME:
        who = defaultdict(list)
        for rank, each in enumerate(found):
            who[each[name]].append(rank)
        if len(who) > 1:
            listed = ", ".join(f"{value} on {named(ranks, hosts)}" for value, ranks in who.items())
            rows.append(Finding("code", NOT_FINE, f"{_called(name)} differs: {listed}; install the same everywhere"))
    versions = ", ".join(_called(name, found[0][name]) for name in _SAME)
    return rows or [Finding("code", FINE, versions + (", the same on all" if len(found) > 1 else ""))]


def _called(name: str, value: str = "") -> str:
    return f"{'hash of the sources' if name == 'code' else name} {value}".rstrip()
