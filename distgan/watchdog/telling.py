"""What the end of a run by its watchdog says."""

from __future__ import annotations

import sys
import threading
import traceback

from distgan.watchdog import judge
from distgan.watchdog.judge import Verdict
from distgan.watchdog.members import Member

_SENTENCES = {
    judge.FAILED: "{who} has failed; see what it said",
    judge.GONE: "{who} was killed, or ended without a word, last seen at {where}; ending the run",
    judge.UNREACHABLE: "{who} cannot be reached any more, last seen at {where}; ending the run",
    judge.STOPPED: "{who} was stopped (SIGSTOP) and does not go on: {where}; ending the run",
    judge.SILENT: "{who} has not answered for {limit} (train.stuck_after): {where}; ending the run",
    judge.STUCK: "{who} has stopped moving, for {limit} (train.stuck_after): {where}; ending the run",
    judge.NETWORK: (
        "no process has moved for {limit} (train.stuck_after) and none is behind: {where}; the stacks tell whether it "
        "is the network between them or something else that they all wait for; ending the run"
    ),
}
_NAMED = 8
"""Culprits that are named one by one."""


def sentence(verdict: Verdict, members: list[Member], limit: str) -> str:
    """One line; `limit` is train.stuck_after, with its unit."""
    ranks = sorted(verdict.culprits)
    named = ", ".join(str(members[rank]) for rank in ranks[:_NAMED])
    if len(ranks) > _NAMED:
        named += f" and {len(ranks) - _NAMED} others"
    places = list(dict.fromkeys(verdict.culprits[rank] for rank in ranks))
    return _SENTENCES[verdict.kind].format(who=named, where=" / ".join(places[:_NAMED]), limit=limit)


def stack_of_training(rank: int, remark: str) -> str:
    """Where the main thread is, each line under the process's name."""
    frame = sys._current_frames().get(threading.main_thread().ident)
    stack = traceback.format_stack(frame) if frame is not None else ["(it has ended)"]
    lines = "".join([f"process {rank}{remark}\n", *stack]).splitlines()
    return "".join(f"[process {rank}] {line}\n" for line in lines)
