"""How a run stands: what its files and the queue say together."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from datetime import datetime, timezone

from distgan.slurm.queue import Job, number
from distgan.slurm.run_record import RunRecord, seconds_of

WAITING = ("queued", "requeued")
_QUIET = 600.0
"""Seconds without a line after which training is thought to have ended, where nothing better is known: as long as one
that is stuck goes on (`train.stuck_after`)."""
_LATER = 60.0
"""Seconds that the clocks of two machines may differ."""
_GIVEN_UP = {"failed": None, "no progress": "no newer checkpoint in several starts"}
"""What a job says at its end that does not go on, and why where it does not say it."""


@dataclass(frozen=True)
class Standing:
    """A row of `distgan runs`."""

    run: str
    """The folder, as it was found."""
    state: str
    """running, queued, requeued (waits, and has begun before), finished, preempted, failed, stopped (ended without a
    word) or unclear."""
    why: str | None
    """What there is to say of the state: the cause of a failure, what a job waits for in Slurm's word."""
    again: bool | None
    """Of a run that has failed: whether that came from outside of it, so that it is worth starting again."""
    requeued: int
    """Times that the job was started again, or waits to be."""
    step: int | None
    """Of the last line of metrics.jsonl; 0 before the first."""
    total: int | None
    """Steps of the whole run."""
    percent: float | None
    images_per_second: float | None
    """Real images shown to the critic, over the last lines."""
    seconds_left: float | None
    """Of training, at the speed of the last lines."""
    job: str | None
    job_state: str | None
    """Slurm's word; None when the job is not in the queue, or the queue is not known."""
    starts_at: str | None
    """When Slurm means to start a job that waits, in the time of the cluster."""
    nodes: str | None
    """Machines of the newest start of a job, as Slurm writes them."""
    last_sign: str | None
    """When training was last heard of: ISO, UTC."""
    problems: list[str]
    """What is wrong with the files."""


def standing(name: str, record: RunRecord, queue: dict[str, Job] | None) -> Standing:
    """Of one run. `queue`: the jobs in the queue by their id; None where it is not known."""
    job = _job_that_counts(record, queue or {})
    state, why = _state(record, job, queue is not None)
    total, lines = record.total, record.lines
    step = _step(record)
    is_known = step is not None and total is not None
    speed, pace = _rate(lines, "kimg"), _rate(lines, "step")
    return Standing(
        run=name,
        state=state,
        why=why,
        again=bool(record.end.get("again")) if state == "failed" else None,
        requeued=_requeued(record, job),
        step=step,
        total=total,
        percent=round(min(100.0, 100 * step / total), 1) if is_known else None,
        images_per_second=round(1000 * speed, 3) if speed else None,
        seconds_left=round(max(0, total - step) / pace, 1) if is_known and pace and state != "finished" else None,
        job=job.id if job else max(record.jobs, key=number, default=None),
        job_state=job.state if job else None,
        starts_at=job.starts_at if job and job.waits else None,
        nodes=record.starts[-1].get("nodes") if record.starts else None,
        last_sign=datetime.fromtimestamp(int(record.last_sign), timezone.utc).isoformat() if record.last_sign else None,
        problems=list(dict.fromkeys(record.problems)),
    )


def _job_that_counts(record: RunRecord, queue: dict[str, Job]) -> Job | None:
    """The newest of its jobs that run, or else of those that wait, or else of those that are in the queue."""
    found = [queue[job] for job in record.jobs if job in queue]
    return max(found, key=lambda job: (job.runs, job.waits, number(job.id)), default=None)


def _step(record: RunRecord) -> int | None:
    if record.lines:
        return int(record.lines[-1]["step"])
    return None if record.total is None or record.problems else 0


def _rate(lines: list[dict], name: str) -> float | None:
    """Of a number that grows, a second of training."""
    if not lines:
        return None
    first = lines[0] if len(lines) > 1 else {name: 0, "seconds": 0}
    seconds = lines[-1]["seconds"] - first["seconds"]
    return (lines[-1][name] - first[name]) / seconds if seconds > 0 else None


def _state(record: RunRecord, job: Job | None, queue_is_known: bool) -> tuple[str, str | None]:
    """The state and why."""
    if job and job.runs:
        return _in_job(record, job)
    if record.status in (None, "running") and record.is_locked:
        return "running", _silence(record)
    if job and job.waits:
        expected = f", start expected {job.starts_at}" if job.starts_at else ""
        return "requeued" if _goes_on(record, job) else "queued", f"waiting ({job.reason or job.state}){expected}"
    status, end, following = record.status, *_last_word(record)
    if following in _GIVEN_UP and status != "finished":
        return "failed", _why(record, "failed") or end.get("why") or _GIVEN_UP[following]
    if status == "running":
        return _still_running(record, job, queue_is_known)
    if status is None:
        return _never_said(record, queue_is_known)
    was_to_go_on = following.startswith(("requeued", "continued"))
    gone = [f"job {record.jobs[-1]} is no longer in the queue"] if was_to_go_on and queue_is_known else []
    return status, "; ".join([*filter(None, [_why(record, status)]), *gone]) or None


def _last_word(record: RunRecord) -> tuple[dict, str]:
    """What its last job said at its end, and of what was to follow, unless training has begun or ended since."""
    end = record.last_end or {}
    if seconds_of(end.get("ended")) + _LATER < record.status_time:
        return {}, ""
    return end, str(end.get("next", ""))


def _why(record: RunRecord, status: str) -> str | None:
    """By end.json."""
    why = record.end.get("why") if record.end.get("status") == status else None
    return str(why) if why else None


def _in_job(record: RunRecord, job: Job) -> tuple[str, str | None]:
    """Of a run whose job runs."""
    begun = [seconds_of(start.get("time")) for start in record.starts if start.get("job") == job.id]
    is_of_this_start = bool(begun) and record.status_time >= begun[-1]
    if record.status not in (None, "running") and is_of_this_start:
        return record.status, _why(record, record.status) or "its job is about to end"
    if job.state != "RUNNING":
        return "running", f"its job is {job.state}"
    if record.status == "running" and (is_of_this_start or not begun):
        return "running", _silence(record)
    return "running", "starting"


def _silence(record: RunRecord) -> str | None:
    quiet = time.time() - record.last_sign
    return f"nothing heard for {duration(quiet)}" if quiet > _patience(record) else None


def _patience(record: RunRecord) -> float:
    """Seconds between two lines that are no sign of an end."""
    seconds = [line["seconds"] for line in record.lines[-2:]]
    return max(_QUIET, 3 * (seconds[-1] - seconds[0]) if seconds else 0.0)


def _still_running(record: RunRecord, job: Job | None, queue_is_known: bool) -> tuple[str, str | None]:
    """Of a run whose status says so, while no job of it runs and nobody holds its lock."""
    quiet = time.time() - record.last_sign
    died_here = record.is_locked is False and record.host == platform.node()
    was_in_job = bool(record.starts) and (record.last_end is None or _last_word(record)[0] != {})
    if not died_here and not (was_in_job and queue_is_known) and quiet <= _patience(record):
        return "running", f"so it seems: its files were written {duration(quiet)} ago"
    cause = "killed, or its machine went down"
    if job:
        cause = f"its job is {job.state}"
    elif was_in_job and queue_is_known:
        cause = f"job {record.starts[-1].get('job')} is no longer in the queue"
    return "stopped", f"ended without a word {duration(quiet)} ago: {cause}"


def _never_said(record: RunRecord, queue_is_known: bool) -> tuple[str, str | None]:
    """Of a run without a status."""
    if not record.jobs:
        return "unclear", None if record.problems else "no training has begun here, or its disk is full"
    job, did = record.jobs[-1], "began" if record.starts else "was submitted"
    if not queue_is_known:
        return "unclear", f"job {job} {did}; whether it is in the queue is not known"
    before = "training began" if record.starts else "it began"
    return "stopped", f"job {job} left the queue before {before}: cancelled, or see its output"


def _chain(record: RunRecord) -> list[dict]:
    """The starts of the newest submission: of its job, and of the jobs that went on with it."""
    return [start for start in record.starts if start.get("chain") == record.starts[-1].get("chain")]


def _goes_on(record: RunRecord, job: Job) -> bool:
    """Whether a job that waits has been started before, or continues one that has."""
    return job.id == record.continuation or job.id in [start.get("job") for start in _chain(record)]


def _requeued(record: RunRecord, job: Job | None) -> int:
    starts = _chain(record)
    told = [start["restart"] for start in starts if isinstance(start.get("restart"), int)]
    waits = job is not None and job.waits and _goes_on(record, job)
    return max([len(starts) - 1, 0, *told]) + waits


def duration(seconds: float) -> str:
    """For a person, in the largest unit of which there are two."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
