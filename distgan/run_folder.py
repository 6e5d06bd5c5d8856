"""The files of a run folder: their names, and the two ways in which they are written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

from pydantic_core import from_json

from distgan.errors import ConfigError, RunFolderError, UserError
from distgan.files import new_file


class RunFolder:
    """`runs/NAME`: everything that a run leaves behind. Only the main process writes in it."""

    def __init__(self, path: str | Path) -> None:
        if not str(path):
            raise ConfigError("run_dir: must name a folder, e.g. runs/first")
        self.path = Path(path).expanduser()
        self.config = self.path / "config.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.status = self.path / "status"
        self.end = self.path / "end.json"
        self.wandb_id = self.path / "wandb_id"
        self.wandb_given = self.path / "wandb_given.json"
        self.samples = self.path / "samples"
        self.evolution = self.samples / "evolution.gif"
        self.reals = self.path / "reals.png"
        self.curves = self.path / "curves.png"
        self.checkpoints = self.path / "checkpoints"
        self.bad_numbers = self.path / "bad_numbers"
        self.rollbacks = self.path / "rollbacks"

    def sample(self, step: int) -> Path:
        return self.samples / f"{step:08d}.png"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"{step:08d}"

    def lock(self) -> None:
        """Keeps other trainings out while this process lives. Raises ConfigError when one is already there."""
        self._held = _lock(self.path / ".lock")

    def is_locked(self) -> bool | None:
        """Whether a training is running here, on this machine or another that shares the locks of this disk; None where
        that cannot be known. Changes nothing."""
        try:
            with open(self.path / ".lock", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two may ask at once
        except BlockingIOError:
            return True
        except OSError:  # no such file, or a file system without locks
            return None
        return False

    def write_status(self, status: str) -> None:
        """How the run stands. On a full disk at least the word that is no longer true goes."""
        try:
            write_atomically(self.status, status + "\n")
        except UserError:
            self.status.unlink(missing_ok=True)
            raise

    def read_status(self) -> str | None:
        """running, finished, preempted or failed; None where no training has begun."""
        with contextlib.suppress(OSError):
            return self.status.read_text().strip() or None
        return None

    def give_up(self, why: str, again: bool = False) -> None:
        """The status of a run that ends while it was running, and why it does, as far as that can be written."""
        self.note_end("failed", why, again)
        with contextlib.suppress(OSError, UserError):
            if self.read_status() == "running":
                self.write_status("failed")

    def note_end(self, status: str, why: str, again: bool = False) -> None:
        """Keeps why a start ended; the first of several processes that have something to say is heard. `again`: it was
        ended by something outside of it, so that it is worth starting again."""
        note = {
            "status": status,
            "why": why.partition("\n")[0],
            "again": again,
            "rank": int(os.environ.get("RANK", 0)),
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError), open(self.end, "x", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")

    def read_end(self) -> dict:
        """What `note_end` kept; empty where there is nothing that can be read."""
        with contextlib.suppress(OSError, ValueError):
            note = json.loads(self.end.read_text(encoding="utf-8"))
            return note if isinstance(note, dict) else {}
        return {}

    def forget_end(self) -> None:
        """A start begins: why the one before ended says nothing of it."""
        with contextlib.suppress(OSError):
            self.end.unlink(missing_ok=True)

    def rollbacks_made(self) -> int:
        """By all starts of the run, as `rollbacks` has it; 0 where it does not."""
        try:
            return int(self.rollbacks.read_text())
        except (OSError, ValueError):
            return 0

    def newest_step(self) -> int | None:
        """Of the newest checkpoint, which nobody has read through; None where there is none."""
        try:
            return max((int(path.name) for path in self.checkpoints.iterdir() if path.name.isdecimal()), default=None)
        except OSError:
            return None

    def newest_told(self) -> str:
        """Whether there is a checkpoint to go back to, as a clause."""
        newest = self.newest_step()
        return "there is no checkpoint yet" if newest is None else f"the newest checkpoint is of step {newest}"

    def way_on(self) -> str:
        """What to do once a run has failed, as a clause; nothing where it would begin anew."""
        newest = self.newest_step()
        return "" if newest is None else f"the same command goes on from step {newest}"

    def cannot_go_on(self) -> None:
        """The status of a run that was to go on and has nothing to go on from, as far as that can be written."""
        with contextlib.suppress(OSError, UserError):
            if not self.status.exists() or self.status.read_text() != "finished\n":
                self.write_status("failed")

    def create(self) -> None:
        """Makes the folders. Raises UserError when that, or writing in them, is not possible."""
        try:
            for folder in (self.samples, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable-{platform.node()}-{os.getpid()}"  # every process looks for itself
            try:
                probe.write_bytes(b"x")
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise RunFolderError(f"run_dir {self.path}: {unwritable(error)}") from None


def _lock(path: Path) -> BinaryIO:
    """Holds a file for as long as this process lives. Raises ConfigError while another one does."""
    file = open(path, "wb")  # noqa: SIM115  (held until the end)
    for _ in range(3):  # `is_locked` of another process may hold it too, for a moment
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:  # a file system without locks
            return file
        else:
            return file
    raise ConfigError(f"run_dir {path.parent}: a training is running in it; stop it, or use another run_dir")


def write_atomically(path: Path, text: str) -> None:
    """The whole text under its final name, or the file that was there before."""
    try:
        with new_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise cannot_write(path, error) from None


def unwritable(error: OSError) -> str:
    """Why nothing can be written in a run folder, and the way out."""
    or_room = " or make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"cannot be written: {error.strerror}; choose another run_dir{or_room}"


def cannot_write(path: Path | str, error: OSError) -> UserError:
    """The one line for a disk that does not take a file."""
    return UserError(f"{path}: cannot be written: {error.strerror}; make room and start again to resume")


def grids_in(samples: Path) -> dict[int, Path]:
    """The sample grids of a folder by their step, ascending; other files in it are passed over."""
    return {int(path.stem): path for path in sorted(samples.glob("[0-9]*.png")) if path.stem.isdecimal()}


def read_lines(path: Path) -> Iterator[dict]:
    """The lines of a metrics.jsonl; one that a crash cut short, or that is damaged, is passed over."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for data in file:
            try:
                line = from_json(data, cache_strings="keys")  # three times as fast as json
                whole = isinstance(line["step"], int)
            except (ValueError, KeyError, TypeError):
                continue
            if whole:
                yield line
