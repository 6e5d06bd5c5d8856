"""What the files of a run folder say of it, read so that a thousand runs take a second."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path

from pydantic import ValidationError

from distgan.config.growing import Course, Growing
from distgan.config.schema import Train
from distgan.config.yaml_files import parse_yaml
from distgan.errors import ConfigError
from distgan.run_folder import RunFolder
from distgan.slurm.history import History

STATUSES = ("running", "finished", "preempted", "failed")
_TAIL = 8192
"""Bytes of metrics.jsonl, from its end, that the speed is taken from."""
_LINES = 10
"""Lines, at most, that it is taken from."""
_MOST = 1 << 20
"""Bytes of any other file that are read: none that is ours is larger."""
_SECTION = re.compile(r"^(train|growing|data):.*\n(?:[ #].*\n|\n)*", re.MULTILINE)
_LENGTH = ("length", "batch_size", "critic_steps")
_MARKS = ("config.yaml", "slurm/jobs.jsonl", "slurm/starts.jsonl")
"""A folder with one of these is a run."""
_ARRAY = "slurm/elements"
"""A folder with this holds the runs of an array."""


def find_runs(folder: Path) -> Iterator[Path]:
    """The run folders at or below a folder, and those that cannot be looked into; hidden ones are left out, and nothing
    is sought in a run."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            found = os.stat(here)
            if (found.st_dev, found.st_ino) in seen:  # a link to a folder above
                continue
            seen.add((found.st_dev, found.st_ino))
            is_run = any(os.path.lexists(here / name) for name in _MARKS)
            if is_run:
                yield here
            if is_run and not os.path.lexists(here / _ARRAY):
                continue
            with os.scandir(here) as entries:
                waiting += [here / entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
        except OSError:
            yield here


class RunRecord:
    """The files of one run, each read when it is asked for. What is wrong with them is told in `problems`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self._folder, self._history = RunFolder(path), History(path)

    @cached_property
    def _submissions(self) -> list[dict]:
        return self._known_of(self._history.jobs)

    @cached_property
    def _told(self) -> list[dict]:
        return self._known_of(self._history.starts)

    def _known_of(self, read: Callable[[], list[dict]]) -> list[dict]:
        try:
            return read()
        except OSError as error:
            self.problems.append(f"{self._history.path.name}: cannot be read: {error.strerror}")
            return []

    @cached_property
    def starts(self) -> list[dict]:
        """Of jobs, as History has them."""
        return [start for start in self._told if "chain" in start]

    @cached_property
    def last_end(self) -> dict | None:
        """What a job said at the end of its newest start; None while that goes on, or where it could say nothing."""
        last = self._told[-1] if self._told else {}
        return last if "ended" in last else None

    @cached_property
    def continuation(self) -> str | None:
        """The job that was submitted to go on with the run, where requeueing is not allowed."""
        before, words, job = str((self.last_end or {}).get("next")).partition("continued as ")
        return job if words and not before else None

    @cached_property
    def jobs(self) -> list[str]:
        """All that are known, in their order."""
        named = [str(line["job"]) for line in [*self._submissions, *self._told] if "job" in line]
        return list(dict.fromkeys([*named, *([self.continuation] if self.continuation else [])]))

    @cached_property
    def status(self) -> str | None:
        """The word in the file, or that of end.json where the disk did not take it."""
        word = (self._text(self._folder.status) or "").strip()
        if word and word not in STATUSES:
            self.problems.append(f"status: {word[:40]!r} is none of {', '.join(STATUSES)}")
            return None
        ended = self.end.get("status")
        return ended if word in ("", "running") and ended in STATUSES else word or None

    @cached_property
    def status_time(self) -> float:
        """When it was written, seconds since 1970; 0 without."""
        return _written(self._folder.status)

    @cached_property
    def end(self) -> dict:
        """How training ended: end.json, `{}` without."""
        return self._folder.read_end()

    @property
    def is_locked(self) -> bool | None:
        return self._folder.is_locked()

    @cached_property
    def last_sign(self) -> float:
        """When anything was written that tells of training, seconds since 1970; 0 when none has begun."""
        return max(map(_written, (self._folder.metrics, self._folder.status, self._folder.config)))

    @cached_property
    def host(self) -> str | None:
        """The machine of the newest start."""
        try:
            return json.loads(self._text(self._folder.environment) or "")["starts"][-1]["host"]
        except (ValueError, LookupError, TypeError):
            return None

    @cached_property
    def total(self) -> int | None:
        """Steps of the whole run, by the newer of the config that was submitted and the one that was started."""
        kept = max(self._folder.config, self._history.config, key=_written)
        text = self._text(kept)
        try:
            return None if text is None else _total(_sections(text), kept.name)
        except ConfigError as error:
            self.problems.append(str(error))
        except ValidationError:
            self.problems.append(f"{kept.name}: is not the config of a run")
        return None

    @cached_property
    def lines(self) -> list[dict]:
        """The last ones of metrics.jsonl, each with step, kimg and seconds of training."""
        try:
            with open(self._folder.metrics, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL))
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            self.problems.append(f"metrics.jsonl: cannot be read: {error.strerror}")
            return []
        whole = data.split(b"\n")[1 if size > _TAIL else 0 :]
        found = [line for line in map(_line, whole[-_LINES - 1 :]) if line]
        if size and not found:
            self.problems.append("metrics.jsonl: its end is damaged")
        return found

    def _text(self, path: Path) -> str | None:
        """None without the file, or when it cannot be read."""
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read(_MOST)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.problems.append(f"{path.name}: cannot be read: {error.strerror}")
            return None


def seconds_of(time_: object) -> float:
    """Since 1970, of an ISO time; 0 of what is none."""
    try:
        return datetime.fromisoformat(str(time_)).timestamp()
    except ValueError:
        return 0.0


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _sections(text: str) -> str:
    """What decides the length of a run, of its config, which takes several milliseconds to read as a whole: `train`,
    and of one that grows `growing` and `data`."""
    found = {match[1]: match[0] for match in _SECTION.finditer(text + "\n")}
    grows = found.get("growing", "growing: null").strip() != "growing: null"
    return "".join(found.get(name, "") for name in (("train", "growing", "data") if grows else ("train",)))


@cache
def _total(sections: str, name: str) -> int:
    """Steps of a run with these sections, which the runs of a sweep mostly share."""
    tree = parse_yaml(sections, name) or {}
    train = tree.get("train") or {}
    train = Train.model_validate({key: train[key] for key in _LENGTH if key in train})
    growing = Growing.model_validate(tree["growing"]) if tree.get("growing") else None
    resolution = tree["data"]["resolution"] if growing else 0
    return Course.of(train.length, train.batch_size, train.critic_steps, growing, resolution).steps


def _object(line: str | bytes) -> dict | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _line(data: bytes) -> dict | None:
    """None of one that was cut short, or is foreign."""
    line = _object(data) or {}
    numbers = [line.get(name) for name in ("step", "kimg", "seconds")]
    return line if all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers) else None
