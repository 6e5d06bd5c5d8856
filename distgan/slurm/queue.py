"""What Slurm's queue says of jobs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from distgan.slurm.client import SlurmError, call

_PATIENCE = 20.0
"""Seconds that the controller is given: a list of runs is worth having without it."""
_ID = re.compile(r"(\d+)(_\d+)?")
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"}


@dataclass(frozen=True)
class Job:
    """A job, or an element of an array, that is in the queue."""

    id: str
    """`17`, or `17_0` of an array."""
    state: str
    """Slurm's word: PENDING, RUNNING, COMPLETING, ..."""
    reason: str | None
    """Why it waits, in Slurm's word, such as Resources or BeginTime."""
    starts_at: str | None
    """When Slurm means to start it, or did: ISO, in the time of the cluster."""

    @property
    def waits(self) -> bool:
        return self.state in _WAITING

    @property
    def runs(self) -> bool:
        return self.state in _RUNNING


def number(job: str) -> int:
    """17 of `17` and of `17_0`; -1 for what is no job."""
    match = _ID.fullmatch(job)
    return int(match[1]) if match else -1


def jobs_in_queue(jobs: Iterable[str]) -> dict[str, Job]:
    """Those of the jobs that are in the queue, by their id; one question for all. Raises SlurmError when Slurm is not
    here or does not answer."""
    numbers = sorted({number(job) for job in jobs} - {-1})
    if not numbers:
        return {}
    try:
        text = call(*_question(numbers), env=_environment(), patience=_PATIENCE)
    except SlurmError as error:
        if "invalid job id" in str(error).lower():  # a single one, which Slurm has forgotten
            return {}
        raise
    rows = [line.split("|") for line in text.splitlines()]
    found = [Job(row[0], row[1], _said(row[2]), _said(row[3])) for row in rows if len(row) == 4]
    return {job.id: job for job in found}


def _question(numbers: list[int]) -> list[str]:
    these = f"--jobs={','.join(map(str, numbers))}"
    return ["squeue", "-h", "-r", "-o", "%i|%T|%r|%S", *([these] if len(these) < 100_000 else [])]


def _environment() -> dict[str, str]:
    """Without what makes squeue leave out jobs or write times in another form."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    return {**kept, "SLURM_TIME_FORMAT": "standard"}


def _said(word: str) -> str | None:
    return None if word in ("", "None", "N/A") else word


def told_queue(jobs: Iterable[str]) -> dict[str, Job] | None:
    """As `jobs_in_queue`; None where that is not known, which is told."""
    try:
        return jobs_in_queue(jobs)
    except SlurmError as error:
        print(f"distgan: {error}; what follows is by the files alone", file=sys.stderr, flush=True)
        return None
