"""Trainings that begin at once: forked, with their real command line, from a process that has loaded torch.

What `python distgan/train.py` or torchrun starts takes seconds to load, on each process. Where a test asks how a run
goes and not how it is launched, `finish` gives the same run without them. As a script this file is the process that is
forked from: it reads orders from a socket, and answers each with how the processes ended."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PORTS = range(20000, 30000)
"""For the processes of a run to meet; below those that a system gives to outgoing connections."""
_SIZE = 1 << 20

_server: subprocess.Popen | None = None
_orders: socket.socket | None = None


def finish(
    arguments: list[str], environment: dict[str, str], folder: Path, processes: int | None, seconds: float
) -> subprocess.CompletedProcess:
    """Trains on so many processes (None: alone, without a launcher), to the end.

    Raises subprocess.TimeoutExpired after `seconds`; nothing of the training is left then."""
    order = {"arguments": arguments, "environment": environment, "folder": str(folder), "processes": processes}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        connection = _connect()
        socket.send_fds(
            connection, [json.dumps({**order, "seconds": seconds}).encode()], [out.fileno(), errors.fileno()]
        )
        answer = connection.recv(_SIZE)
        assert answer, "the process that trainings are forked from has died"
        out.seek(0), errors.seek(0)
        done = subprocess.CompletedProcess(arguments, json.loads(answer)["status"], out.read(), errors.read())
    if done.returncode is None:
        raise subprocess.TimeoutExpired(arguments, seconds, done.stdout, done.stderr)
    return done


def _connect() -> socket.socket:
    """To the server of this process, which ends with it."""
    global _server, _orders
    if _server is None:
        _orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [sys.executable, __file__, str(theirs.fileno())]
            _server = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    return _orders


def serve(orders: socket.socket) -> dict | None:
    """Carries orders out until nobody can give any. In a forked process: what it is to do."""
    while True:
        order, files, _, _ = socket.recv_fds(orders, _SIZE, 2)
        if not order:
            return None
        order = json.loads(order)
        started = {}
        for place in _places(order["processes"]):
            pid = os.fork()
            if pid == 0:
                orders.close()
                return {**order, "place": place, "files": files}
            started[pid] = None
        for file in files:
            os.close(file)
        orders.send(json.dumps({"status": _end(started, order["seconds"])}).encode())


def _places(processes: int | None) -> list[dict[str, str]]:
    """What torchrun tells each process of one machine."""
    if processes is None:
        return [{}]
    size, port = str(processes), str(_free_port())
    common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _free_port() -> int:
    for offset in range(len(PORTS)):
        port = PORTS[(os.getpid() * 131 + time.monotonic_ns() // 1000 + offset) % len(PORTS)]
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def _end(started: dict[int, int | None], seconds: float) -> int | None:
    """The status of the first process that failed, or 0; None after so many seconds. The others are ended then."""
    deadline, failed = time.monotonic() + seconds, None
    while None in started.values() and time.monotonic() < deadline and failed is None:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            started[pid] = os.waitstatus_to_exitcode(status)
            failed = started[pid] or None
        else:
            time.sleep(0.01)
    late = failed is None and None in started.values()
    for pid in [pid for pid, status in started.items() if status is None]:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None if late else failed or 0


def become(order: dict) -> None:
    """This process as if `python distgan/train.py` had just been called."""
    out, errors = order["files"]
    os.dup2(out, 1), os.dup2(errors, 2)
    os.close(out), os.close(errors)
    os.environ.clear()
    os.environ.update({**order["environment"], **order["place"]})
    os.chdir(order["folder"])
    train = str(ROOT / "distgan" / "train.py")
    sys.argv = [train, *order["arguments"]]
    sys.path[0] = str(ROOT / "distgan")
    runpy.run_path(train, run_name="__main__")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as train.py does
    import distgan.trainer  # noqa: F401

    with socket.socket(fileno=int(sys.argv[1])) as socket_of_orders:
        mine = serve(socket_of_orders)
    if mine is not None:
        become(mine)
