"""Writes checkpoints on a thread of its own while training goes on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from distgan.checkpoint.files import write
from distgan.checkpoint.retention import prune
from distgan.checkpoint.snapshot import Snapshot, Snapshots
from distgan.checkpoint.state import TrainState
from distgan.errors import UserError
from distgan.trouble import tell

RETRY_SECONDS = 15.0
"""Between two attempts to write what a disk did not take."""
LAST_SECONDS = 60.0
"""How long the end of a run goes on trying."""


class Writer:
    """One checkpoint at a time: a snapshot is taken where `save` is called, and written by a thread.

    One that the disk does not take is told once and tried again, until it is written or the next one takes its place.
    """

    def __init__(
        self,
        checkpoints: Path,
        *,
        keep: int,
        stretch: Callable[[int], int] | None = None,
        before: Callable[[int], None] = lambda step: None,
        after: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        """`keep` and `stretch` as for `kept`. `before` is called, on the thread, with the step of a checkpoint before
        that gets its name; an OSError or UserError of it is the disk's. `after` is called there with each whole one."""
        self._checkpoints, self._keep, self._stretch = checkpoints, keep, stretch
        self._before, self._after = before, after
        self._snapshots = Snapshots()
        self._changed = threading.Condition()
        self._wanted: Snapshot | None = None
        self._writing = self._closed = False
        self._refused: str | None = None
        self._defect: BaseException | None = None
        self._thread: threading.Thread | None = None
        self.written = -1
        """Step of the newest checkpoint that this writer has finished."""
        self._slowest, self._began = 0.0, 0.0
        self.waited = 0.0
        """Seconds that `save` has waited for the checkpoint before."""

    def save(self, state: TrainState, extra: dict[str, Tensor]) -> None:
        """Takes a snapshot and leaves the rest to the thread. Waits while the checkpoint before is being written."""
        started = time.monotonic()
        with self._changed:
            while self._writing or (self._wanted is not None and self._refused is None):
                self._changed.wait()
            self._raise_defect()
            self.waited += time.monotonic() - started
            self._wanted = self._snapshots.take(state, extra)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @property
    def slowest(self) -> float:
        """Seconds that the slowest one took, the one that is being written included as far as it has come; 0 before the
        first."""
        with self._changed:
            return max(self._slowest, time.monotonic() - self._began if self._writing else 0.0)

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is waiting or being written."""
        return self._wanted is not None

    def finish(self) -> None:
        """Waits until the newest snapshot is on the disk. Raises UserError when the disk will not take it."""
        deadline = time.monotonic() + LAST_SECONDS
        with self._changed:
            while self._wanted is not None and (self._writing or time.monotonic() < deadline):
                self._changed.wait(1.0)
                self._raise_defect()
            self._raise_defect()
            if self._wanted is not None:
                raise UserError(f"{self._refused}; make room and start again to resume")

    def withdraw(self) -> None:
        """Forgets a snapshot that the disk has not taken: it is of a past that the run leaves."""
        with self._changed:
            while self._writing:
                self._changed.wait()
            self._wanted = self._refused = None

    def close(self) -> None:
        """Lets the newest snapshot become a checkpoint, unless the disk has refused one, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _raise_defect(self) -> None:
        if self._defect is not None:
            raise self._defect

    def _run(self) -> None:
        while (snapshot := self._next()) is not None:
            try:
                self._write(snapshot)
            except (UserError, OSError) as error:
                self._refuse(error)
            except BaseException as error:  # noqa: BLE001  raised by the training thread, which alone can end the run
                self._done(defect=error)
                return

    def _next(self) -> Snapshot | None:
        """The snapshot to write; None at the end. Waits for one, and after a refusal a while."""
        with self._changed:
            if self._refused is not None and not self._closed:
                self._changed.wait(RETRY_SECONDS)
            while self._wanted is None and not self._closed:
                self._changed.wait()
            self._writing = self._wanted is not None and not (self._closed and self._refused)
            self._began = time.monotonic()
            return self._wanted if self._writing else None

    def _write(self, snapshot: Snapshot) -> None:
        progress = snapshot.record["progress"]
        folder = self._checkpoints / f"{snapshot.step:08d}"
        write(folder, snapshot, self._before)
        self._slowest = max(self._slowest, time.monotonic() - self._began)
        self.written = snapshot.step
        if self._refused is not None:
            self._refused = None
            tell(f"checkpoint {folder}: written after all")
        self._after(folder)
        with contextlib.suppress(OSError):  # what cannot be removed now goes with the next one
            prune(self._checkpoints, snapshot.step, self._keep, self._stretch, progress["best_step"])
        self._done()

    def _refuse(self, error: Exception) -> None:
        with self._changed:
            if self._refused is None:
                then = "" if self._closed else f"; the run goes on, and tries again every {RETRY_SECONDS:.0f} s"
                tell(f"{error}{then}")
            self._refused, self._writing = str(error), False
            self._changed.notify_all()

    def _done(self, defect: BaseException | None = None) -> None:
        with self._changed:
            self._wanted, self._writing, self._defect = None, False, defect
            self._changed.notify_all()
