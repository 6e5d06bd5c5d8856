"""metrics.jsonl: the record of a run, which every other view follows."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
from itertools import pairwise

from distgan.errors import UserError
from distgan.files import new_file
from distgan.run_folder import RunFolder, cannot_write, read_lines
from distgan.trouble import Trouble, tell


class JsonLines:
    """One object a line, steps ascending, none twice; null for what is not finite (JSON has no NaN).

    A disk that is full or gone ends nothing: all lines are kept in memory, and those that are not in the file are
    written, in their order, with the next one that the disk takes. A file that was removed is made anew with all of
    them. Safe to be used by several threads.
    """

    def __init__(self, folder: RunFolder, step: int, known: tuple[int, int] = (0, 0)) -> None:
        """Goes on after the line of `step`: later ones, which a crash or an early end left behind, are dropped.

        `known`: how many lines there were up to which step; it is told when some of them are missing. Raises UserError
        when the file cannot be written."""
        self._path, self._trouble, self._busy = folder.metrics, Trouble(folder.metrics), threading.RLock()
        self._lines: list[tuple[int, bytes]] = [
            (line["step"], _encoded(line)) for line in read_lines(folder.metrics) if line["step"] <= step
        ]
        self._tell_missing(*known)
        self._written = self._size = 0
        self._file: int | None = None
        try:
            self._make_anew()
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def _tell_missing(self, count: int, step: int) -> None:
        there = [number for number, _ in self._lines if number <= step]
        if len(there) < count:
            width, end = max((b - a, b) for a, b in pairwise([0, *there, step]))
            tell(
                f"{self._path}: {count - len(there)} of its {count} lines up to step {step} are missing or damaged "
                f"(the widest gap is from step {end - width} to {end}) and stay so; the run goes on"
            )

    @property
    def count(self) -> int:
        return len(self._lines)

    @property
    def last_step(self) -> int:
        return self._lines[-1][0] if self._lines else 0

    def lines(self) -> list[dict]:
        """All lines of the run so far, those too that are not in the file."""
        with self._busy:
            return [json.loads(data) for _, data in self._lines]

    def add(self, line: dict) -> None:
        with self._busy:
            self._lines.append((line["step"], _encoded(line)))
            self._catch_up()

    def written(self, step: int) -> bool:
        """Whether all lines up to `step` are in the file; tries once more to write those that are not."""
        with self._busy:
            self._catch_up()
            return all(number > step for number, _ in self._lines[self._written :])

    def sync(self, step: int) -> bool:
        """Whether all lines up to `step` are on the disk, so that they outlast a power cut. Waits for the disk, and
        lets other threads write meanwhile."""
        with self._busy:
            if not self.written(step):
                return False
            descriptor = os.dup(self._file)
        try:
            os.fsync(descriptor)
        except OSError as error:  # nobody knows then what of it is there
            with self._busy:
                self._trouble.met(error)
                self._forget()
            return False
        finally:
            os.close(descriptor)
        return True

    def rewind(self, step: int) -> None:
        """Drops the lines after `step`, in the file as soon as the disk allows it."""
        with self._busy:
            del self._lines[sum(number <= step for number, _ in self._lines) :]
            self._written = min(self._written, len(self._lines))
            self._size = sum(len(data) for _, data in self._lines[: self._written])
            self._catch_up()

    def close(self) -> None:
        """Tries a last time to write what is not written. Raises UserError when lines are lost."""
        with self._busy:
            if not self.sync(self.last_step):
                self._catch_up()
            lost, error = [number for number, _ in self._lines[self._written :]], self._trouble.error
            self._forget()
        if lost:
            raise UserError(
                f"{self._path}: cannot be written: {error.strerror}; its last {len(lost)} lines are lost (steps "
                f"{lost[0]} to {lost[-1]}); make room and start again to resume"
            )

    def _catch_up(self) -> None:
        """Writes all that is not written, or as many whole lines as the disk takes."""
        waiting = len(self._lines) - self._written
        try:
            if not self._is_ours():
                self._forget()
                self._make_anew()
            for _, data in self._lines[self._written :]:
                _write(self._file, data)
                self._size += len(data)
                self._written += 1
        except OSError as error:
            self._trouble.met(error)
            self._take_back_half_a_line()
            return
        self._trouble.over(f"is written again, with the {waiting} lines that had waited")

    def _take_back_half_a_line(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # the next line tries again
                os.ftruncate(self._file, self._size)

    def _is_ours(self) -> bool:
        """Whether the open file is the one of that name, and holds the lines that were written and no more."""
        if self._file is None:
            return False
        try:
            here, there = os.fstat(self._file), os.stat(self._path)
            if here.st_size > self._size:
                os.ftruncate(self._file, self._size)
        except OSError:
            return False
        return os.path.samestat(here, there) and here.st_size >= self._size

    def _make_anew(self) -> None:
        """The file with all lines, under its name when it is whole."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        data = b"".join(data for _, data in self._lines)
        with new_file(self._path) as file:
            file.write(data)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        self._written, self._size = len(self._lines), len(data)

    def _forget(self) -> None:
        """Closes the file; whatever it holds, all lines are to be written."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
        self._file, self._written, self._size = None, 0, 0


def _encoded(line: dict) -> bytes:
    finite = {k: None if isinstance(value, float) and not math.isfinite(value) else value for k, value in line.items()}
    return (json.dumps(finite) + "\n").encode()


def _write(descriptor: int, data: bytes) -> None:
    """All of it, at the end of the file."""
    while data:
        data = data[os.write(descriptor, data) :]
