"""The machines of a private Slurm cluster: a head and nodes, each with its own network, host name, processes and
/dev/shm, and with the files of all. Run as a script by cluster.py.

Every machine is a PID namespace, so when its first process is killed, the kernel kills all others at once, whatever
they did to get away. Nothing has a name outside: cables lie in the head's network, mounts in the namespace of this
process. What is left to remove are its folder and its control groups.

Reads orders, one a line, and answers each with a line, `done` or `failed: why`. Ends at the end of its input, at
SIGTERM, and so with the process that started it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import slurm_conf
from slurm_conf import HEAD

FREEZER = Path("/sys/fs/cgroup/freezer")
BOOT = """
echo up; read -r plugged; exec </dev/null >>"$2/$1.log" 2>&1
hostname "$1"; ip link set lo up; mount -t tmpfs tmpfs /dev/shm
[ ! -d "$3" ] || mount --bind "$3" "$4"
"""
"""For name, folder, this machine's control groups and where these belong. Waits to be plugged in."""
HEAD_BOOT = """
ip link add bridge type bridge; ip addr add "$5/24" dev bridge; ip link set bridge up; echo ready >"$2/bridge"
munged --foreground --force --key-file="$2/key" --socket="$2/munge" --pid-file="$2/munged.pid" \
       --log-file="$2/munged.log" --seed-file="$2/munged.seed" &
while [ ! -S "$2/munge" ]; do sleep 0.02; done
slurmctld -D -f "$2/slurm.conf"
"""
NODE_BOOT = """
ip addr add "$5/24" dev eth0; ip link set eth0 up
slurmd -D -b -f "$2/slurm.conf" -N "$1"
"""


class Machine:
    """One machine; `boot` makes it, `die` leaves nothing of it."""

    def __init__(self, name: str, folder: Path, groups: Path | None) -> None:
        self.name = name
        self._folder = folder
        self._groups = groups / name if groups else None
        self._outside: subprocess.Popen | None = None

    @property
    def init(self) -> int:
        """The process with which the machine lives."""
        children = Path(f"/proc/{self._outside.pid}/task/{self._outside.pid}/children").read_text().split()
        return int(children[0])

    def boot(self, head: Machine | None) -> None:
        """Starts its daemons, with a cable to the head."""
        assert self._outside is None, f"{self.name} is up"
        if self._groups:
            self._groups.mkdir()
        script = BOOT + (NODE_BOOT if head else HEAD_BOOT)
        groups = str(self._groups or "/nowhere")
        words = [self.name, str(self._folder), groups, str(FREEZER), slurm_conf.address(self.name)]
        spaces = ["--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._outside = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *spaces, "sh", "-c", script, "sh", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._outside.stdout.readline() != "up\n":
            raise RuntimeError(f"{self.name}: its namespaces cannot be made")
        if head:
            head.call("ip", "link", "add", self.name, "type", "veth", "peer", "eth0", "netns", str(self.init))
            head.call("ip", "link", "set", self.name, "master", "bridge", "up")
        with self._outside.stdin as gate:
            gate.write("plugged in\n")

    def call(self, *words: str) -> None:
        """A command in this machine's network."""
        command = ["nsenter", "--target", str(self.init), "--net", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")

    def die(self, head: Machine | None = None) -> None:
        """All processes are killed. Given the head, its cable is pulled before: no other machine hears of the end."""
        if self._outside is None:
            return
        if head:
            head.call("ip", "link", "del", self.name)
        with contextlib.suppress(IndexError, OSError):
            os.kill(self.init, signal.SIGKILL)
        self._outside.wait()
        self._outside.stdout.close()
        self._outside = None
        if self._groups:
            remove_groups(self._groups)


def remove_groups(top: Path) -> None:
    """Control groups without processes; the last one may still be on its way out."""
    for folder, _, _ in os.walk(top, topdown=False):
        for _ in range(100):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
                break
            time.sleep(0.02)


def main(folder: Path, count: int) -> None:
    nodes = [f"n{number}" for number in range(1, count + 1)]
    groups = FREEZER / folder.name if os.access(FREEZER / "tasks", os.W_OK) else None
    try:
        prepare(folder, nodes, groups)
        machines = {name: Machine(name, folder, groups) for name in [HEAD, *nodes]}
        try:
            serve(machines, folder)
        finally:
            for machine in machines.values():
                machine.die()
    finally:
        if groups:
            remove_groups(groups)
        subprocess.run(["umount", str(folder / "small")], capture_output=True, timeout=20)
        shutil.rmtree(folder)


def prepare(folder: Path, nodes: list[str], groups: Path | None) -> None:
    """Files, and what all machines have mounted alike."""
    if groups:
        groups.mkdir()
    slurm_conf.write(folder, nodes, freezer=groups is not None)
    for name in ("state", *(f"spool-{node}" for node in nodes), "small"):
        (folder / name).mkdir()
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    mount = ["mount", "--bind", str(folder / "hosts"), "/etc/hosts"]
    subprocess.run(mount, check=True, timeout=20)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder / "small")], check=True, timeout=20)


def serve(machines: dict[str, Machine], folder: Path) -> None:
    head = machines[HEAD]
    head.boot(None)
    deadline = time.monotonic() + 20
    while not (folder / "bridge").exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{HEAD} does not come up: {(folder / 'head.log').read_text()}")
        time.sleep(0.01)
    for machine in machines.values():
        if machine is not head:
            machine.boot(head)
    print(f"done {head.init}", flush=True)
    for line in sys.stdin:
        order, name = line.split()
        try:
            machines[name].die(head) if order == "kill" else machines[name].boot(head)
            print("done", flush=True)
        except Exception as error:
            print(f"failed: {error}", flush=True)


def end_input(*_: object) -> None:
    """The orders end here, wherever a signal finds this process: nothing that it does is broken off."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end_input)
    main(Path(sys.argv[1]), int(sys.argv[2]))
