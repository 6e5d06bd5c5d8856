"""W&B's part of a run, in a process of its own: nothing that wandb does to a process happens to the one that trains.

Started by `distgan.tracking.weights_and_biases`, which writes a line of JSON for each thing to do to standard input,
the first of them an `Order`. Answers on standard output with a line once the W&B run has begun, or cannot begin, and
with one at its end, or when something goes wrong. It ends soon after the trainer does, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

if not __package__:  # run as a script: this folder's files must not stand before the standard library's
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

import wandb

from distgan.histogram import EDGES
from distgan.run_folder import RunFolder
from distgan.tracking.backlog import GRIDS, backlog
from distgan.tracking.best import bests
from distgan.tracking.picture_files import check_size
from distgan.tracking.wandb_files import held

SUMMARY_SECONDS = 60.0
"""Between two looks at all lines for the summaries."""
AXES = ("step", "kimg", "seconds")


class Order(TypedDict):
    """What is to be begun."""

    folder: str
    run_id: str
    step: int
    """From which the run goes on."""
    mode: str
    init: dict
    """More arguments of wandb.init."""
    trainer: int
    """Its process id."""
    start_seconds: float
    """How long a server may take to accept the run."""
    orphan_seconds: float
    """How long it may take to finish a run whose trainer has gone; the next start waits for that."""
    checkpoints: str
    """none, last or all: which become artifacts."""
    best: list
    """checkpoint.best and best_is."""


class Follower:
    """One W&B run; each line and picture arrives once, however often the run is started or goes back."""

    def __init__(self, order: Order) -> None:
        self._order, self._folder = order, RunFolder(order["folder"])
        self._summed = time.monotonic()
        self._last_checkpoint: Path | None = None
        self._held = held(self._folder, order["run_id"])
        self._has_logged = False
        self._run = wandb.init(
            **order["init"],
            dir=order["folder"],
            id=order["run_id"],
            resume="allow",
            mode=order["mode"],
            settings=wandb.Settings(
                init_timeout=order["start_seconds"],
                console="off",
                silent=True,
                disable_git=True,  # its remote may name a password; the commit is in the config
                x_stats_pid=order["trainer"],
            ),
        )
        if self._run.starting_step:  # the server knows what it has
            self._held.line = self._run.starting_step - 1
            self._held.pictures = dict.fromkeys((*GRIDS, "reals"), self._held.line)
        for axis in AXES:
            self._run.define_metric(axis)
        self._run.define_metric("*", step_metric="step")
        for item in backlog(self._folder, self._held, order["step"]):
            self.metrics(item) if isinstance(item, dict) else self.picture(*item)

    def metrics(self, line: dict) -> None:
        if self._held.lacks_line(line["step"]):
            self._held.line, self._has_logged = line["step"], True
            self._run.log(_row(line), step=line["step"])
        if time.monotonic() - self._summed > SUMMARY_SECONDS:
            self._summarise()

    def picture(self, name: str, path: str | Path, step: int) -> None:
        if not self._held.lacks_picture(name, step):
            return
        with contextlib.suppress(OSError):  # it may be of a past that the run has left, and is gone then
            check_size(path)
            image = wandb.Image(str(path))
            self._held.pictures[name] = step
            at = {"step": step} if step >= self._held.line else {}  # else the row of the line is no longer its step's
            self._run.log({name: image, **at}, step=max(step, self._held.line))

    def checkpoint(self, path: str) -> None:
        self._last_checkpoint = Path(path)
        if self._order["checkpoints"] == "all":
            self._keep_checkpoint()

    def _keep_checkpoint(self) -> None:
        """The weights of a whole checkpoint as an artifact. They are copied first: the run removes old ones."""
        path = self._last_checkpoint
        if path is None or not (path / "manifest.json").exists():
            return
        artifact = wandb.Artifact(f"weights-{self._order['run_id']}", type="model", metadata={"step": int(path.name)})
        for file in sorted(path.glob("*.safetensors")):
            if file.name != "state.safetensors":
                artifact.add_file(str(file))
        self._run.log_artifact(artifact)

    def _summarise(self) -> None:
        """The best and last values of all lines: wandb itself knows those of one start alone."""
        self._summed = time.monotonic()
        best, last = bests(self._folder.metrics, tuple(self._order["best"]))
        self._run.summary.update({"best": best, "last": last})

    def close(self, status: str) -> None:
        if self._order["checkpoints"] == "last":
            self._keep_checkpoint()
        if self._folder.curves.exists() and self._has_logged:  # else the row of that step is in an older file
            row = {"curves": wandb.Image(str(self._folder.curves)), "step": self._held.line}
            self._run.log(row, step=self._held.line)
        self._summarise()
        self._run.summary.update({"status": status})
        self._run.finish(exit_code=0 if status in ("finished", "preempted") else 1)


def _row(line: dict) -> dict:
    """A line as W&B takes it: numbers, and the histogram with the cells below and above its edges."""
    row = {name: value for name, value in line.items() if isinstance(value, (int, float)) and math.isfinite(value)}
    ends = (0.0, *EDGES, 2 * EDGES[-1])
    for name, counts in line.items():
        if isinstance(counts, list) and len(counts) == len(ends) - 1:
            row[name] = wandb.Histogram(np_histogram=(counts, ends))
    return row


def has_key() -> bool:
    """Whether wandb finds a key of the user's. Asks neither the user nor a server. Raises what wandb does where what it
    finds is no key, or cannot be read."""
    wandb.setup(wandb.Settings(silent=True))  # it would ask the server whose key that is, to say so
    return wandb.login(prompt=False, verify=False)


def messages(descriptor: int, trainer: int) -> Iterator[dict]:
    """What comes on a descriptor, until that ends or the trainer has gone, whose children may hold the other end."""
    text = b""
    while True:
        while not select.select([descriptor], [], [], 1.0)[0]:
            if os.getppid() != trainer:
                return
        data = os.read(descriptor, 1 << 16)
        if not data:
            return
        *whole, text = (text + data).split(b"\n")
        yield from map(json.loads, whole)


def _wait_for_the_one_before(folder: Path, seconds: float) -> None:
    """Holds a lock for as long as this process lives: of an earlier start, W&B may still be writing. Raises
    TimeoutError."""
    (folder / "wandb").mkdir(exist_ok=True)
    descriptor = os.open(folder / "wandb" / ".lock", os.O_RDWR | os.O_CREAT)
    deadline = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError("the process of an earlier start does not end") from None
            time.sleep(0.2)
        except OSError:  # a file system without locks
            return None


def _answer(**answer: object) -> None:
    with contextlib.suppress(OSError):  # the trainer may have gone
        os.write(1, json.dumps(answer).encode() + b"\n")


def _end_within(seconds: float) -> None:
    limit = threading.Timer(seconds, os._exit, [1])
    limit.daemon = True
    limit.start()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # they are the trainer's to answer
    source = messages(0, os.getppid())
    order: Order | None = next(source, None)
    if order is None:
        return
    try:
        _wait_for_the_one_before(Path(order["folder"]), order["orphan_seconds"] + 15)
        if order["mode"] == "online" and not has_key():
            raise wandb.errors.AuthenticationError("there is no API key (run `wandb login`, or set WANDB_API_KEY)")
        follower = Follower(order)
        _answer(begun=True)
        status = "stopped"  # as `distgan runs` calls a run that ended without a word
        for message in source:
            if "close" in message:
                status = message["close"]
                break
            (name, arguments), *_ = message.items()
            getattr(follower, name)(*arguments)
        else:
            _end_within(order["orphan_seconds"])
        follower.close(status)
        _answer(done=True)
    except Exception as error:  # noqa: BLE001  told by the trainer, which goes on
        lines = str(error).strip().splitlines() or [""]
        _answer(problem=f"{type(error).__name__}: {lines[0]}")
    os._exit(0)  # wandb's last acts would wait for its service without end


if __name__ == "__main__":
    main()
