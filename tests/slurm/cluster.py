"""A private Slurm cluster on this one machine: real slurmctld, slurmd and munged, on nodes with their own network, host
name and processes (machines.py). Only root can have one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client munge iproute2"
COMMANDS = ("slurmctld", "slurmd", "munged", "sbatch", "ip", "unshare", "nsenter", "setpriv")
SBIN = "/usr/sbin:/sbin"
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "DEADLINE"}


def missing() -> str | None:
    """Why there can be no cluster here."""
    path = f"{os.environ.get('PATH', '')}:{SBIN}"
    absent = [name for name in COMMANDS if not shutil.which(name, path=path)]
    if absent:
        return f"no {', '.join(absent)}: apt-get install -y --no-install-recommends {PACKAGES}"
    if os.geteuid() != 0:
        return "only root can make the nodes of a private Slurm cluster"
    spaces = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--mount-proc", "true"]
    done = subprocess.run(spaces, capture_output=True, text=True, timeout=20)
    return f"no namespaces for the nodes of a Slurm cluster: {done.stderr.strip()}" if done.returncode else None


class Cluster:
    """Nodes n1, n2, ... with 16 CPUs each. Jobs of partition `urgent` preempt those of `main`, the default."""

    def __init__(self, nodes: int = 2) -> None:
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self.folder = Path(tempfile.mkdtemp(prefix="distgan-slurm-", dir="/tmp"))  # short, since it has a Unix socket
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:{SBIN}"}
        self._errors = open(self.folder / "machines.log", "w+")  # noqa: SIM115
        self._machines = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount", sys.executable, "-u"]
            + [str(Path(__file__).with_name("machines.py")), str(self.folder), str(nodes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
            env=environment,
        )
        self._dead: set[str] = set()
        self._head = self._answer().removeprefix("done ")
        self.wait_for(self.is_idle, 30, "nodes are up")

    @property
    def small_disk(self) -> Path:
        """A disk of 1 MB that all machines of the cluster see, and this process does not."""
        return self.folder / "small"

    def stop(self) -> None:
        """All processes of the cluster end; nothing is left of it."""
        self._machines.stdin.close()
        self._machines.wait(60)
        self._machines.stdout.close()
        self._errors.close()

    def kill_node(self, name: str) -> None:
        """Its network is gone and all its processes are killed, at once."""
        self._dead.add(name)
        self._order(f"kill {name}")

    def give_up_node(self, name: str) -> None:
        """Slurm takes the node for dead, as it would after 5 minutes (SlurmdTimeout), and waits for it no more."""
        self.call("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=silent")

    def revive_node(self, name: str) -> None:
        self._dead.remove(name)
        self._order(f"revive {name}")

    def call(self, *words: str | Path, check: bool = True, **kwargs) -> subprocess.CompletedProcess:
        """A command on the head, where users log in."""
        space = ["nsenter", "--target", self._head, "--net", "--uts", "--mount", "--pid", "--"]
        command = [*space, "env", "-C", str(kwargs.pop("cwd", os.getcwd())), *map(str, words)]
        environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), **kwargs.pop("env", {})}
        options = {"capture_output": True, "text": True, "timeout": 60, "env": environment, **kwargs}
        done = subprocess.run(command, **options)
        assert not check or done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stderr}"
        return done

    def submit(self, script: str, *options: str | Path) -> str:
        """The id of a job with this script."""
        return self.call("sbatch", "--parsable", *options, input=f"#!/bin/bash\n{script}\n").stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says of it."""
        return fields(self.call("scontrol", "show", "job", "-o", number).stdout)

    def end(self, number: str, seconds: float = 60) -> dict[str, str]:
        """The job, when it is over."""
        self.wait_for(lambda: self.job(number)["JobState"] in OVER, seconds, f"job {number} is over")
        return self.job(number)

    def runs(self, number: str, seconds: float = 60, restarts: int = 0) -> dict[str, str]:
        """The job, when it runs, for the `restarts`-th time again."""
        return self._reaches(number, seconds, JobState="RUNNING", Restarts=str(restarts))

    def preempt(self) -> None:
        """Asks for both nodes, which all jobs of the partition `main` have to leave, for a second."""
        whole = ["--exclusive", f"--nodes={len(self.names)}"]
        self.submit("sleep 1", "--partition=urgent", *whole, "--output=/dev/null")

    def waits(self, number: str, seconds: float = 60, restarts: int = 1) -> dict[str, str]:
        """The job, when it is in the queue again, for the `restarts`-th time."""
        return self._reaches(number, seconds, JobState="PENDING", Restarts=str(restarts))

    def limit(self, number: str, minutes: int) -> None:
        """Another time limit for a job."""
        self.call("scontrol", "update", f"JobId={number}", f"TimeLimit={minutes}")

    def states(self) -> dict[str, str]:
        """The state of every node, as sinfo names it; empty while the controller does not answer."""
        done = self.call("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False)
        return dict(line.split() for line in done.stdout.splitlines()) if done.returncode == 0 else {}

    def is_idle(self) -> bool:
        """All nodes are up and have no jobs."""
        return self.states() == dict.fromkeys(self.names, "idle")

    def clear(self) -> None:
        """No job, and every node up again: as at the beginning."""
        self.call("scancel", "--quiet", "--full", "--signal", "KILL", "--user", "root", check=False)
        self.call("scancel", "--user", "root")
        for name in sorted(self._dead):
            self.revive_node(name)
        self.wait_for(self.is_idle, 60, "jobs are gone and nodes are up")

    def wait_for(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Until the condition holds; a failure says `what` did not come, and shows jobs and logs."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}\n{self.report()}")
            time.sleep(0.2)

    def report(self) -> str:
        """Jobs, the files that they print to, and the daemons' logs."""
        shown = ("JobId", "JobState", "Reason", "Restarts", "ExitCode", "StartTime", "EndTime", "NodeList", "StdOut")
        jobs = [fields(line) for line in self.call("scontrol", "show", "job", "-o", check=False).stdout.splitlines()]
        told = [" ".join(f"{key}={job[key]}" for key in shown if key in job) for job in jobs]
        outputs = [Path(job["StdOut"]) for job in jobs if "StdOut" in job]
        near = {file for output in outputs for file in output.parent.glob("*.out")}
        files = [file for file in [*sorted(near), *sorted(self.folder.glob("*.log"))] if file.is_file()]
        return "\n".join([*told, *(f"== {file}\n{tail(file)}" for file in files)])

    def _reaches(self, number: str, seconds: float, **state: str) -> dict[str, str]:
        self.wait_for(lambda: state.items() <= self.job(number).items(), seconds, f"job {number}: {state}")
        return self.job(number)

    def _order(self, line: str) -> None:
        self._machines.stdin.write(f"{line}\n")
        self._machines.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        line = self._machines.stdout.readline().strip()
        if not line.startswith("done"):
            self._errors.seek(0)
            raise RuntimeError(f"the cluster: {line or self._errors.read()}")
        return line


def fields(line: str) -> dict[str, str]:
    """Of a line of `scontrol show -o`, which has KEY=VALUE words."""
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def tail(file: Path, count: int = 40) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-count:])
