"""What the steps of all processes say of the run: memory, speed, gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from distgan.config import Config
from distgan.doctor.steps import DONE, FAILED, NO_MEMORY, RUNNING, Outcome, patience
from distgan.doctor.table import FINE, NOT_FINE, REMARK, Finding, amount, named
from distgan.doctor.way_out import smaller
from distgan.periodic import TimeLimit
from distgan.runtime import Runtime

_NEARLY_ALL = 0.9
_LISTED = 3
_SHORT = 60.0
"""Seconds of train.max_time that are hardly meant."""


def step_rows(outcomes: Sequence[Outcome], config: Config, runtime: Runtime, hosts: Sequence[str]) -> list[Finding]:
    """The rows, the same on all processes."""
    if all(outcome.state == DONE for outcome in outcomes):
        return [_memory(outcomes, runtime, hosts), _speed(outcomes, config, runtime), *_gradients(outcomes, hosts)]
    return list(_failures(outcomes, config, runtime, hosts))


def _failures(outcomes: Sequence[Outcome], config: Config, runtime: Runtime, hosts: Sequence[str]) -> Iterator[Finding]:
    by_state: dict[str, list[int]] = {}
    for rank, outcome in enumerate(outcomes):
        by_state.setdefault(outcome.state, []).append(rank)
    if short := by_state.get(NO_MEMORY):
        text = f"{_who(short, hosts)}too little memory for a step; {smaller(config, runtime)}"
        yield Finding("memory", NOT_FINE, f"{text}\n{outcomes[short[0]].error}")
    for rank in by_state.get(FAILED, []):
        yield Finding("step", NOT_FINE, f"{_who([rank], hosts)}{outcomes[rank].error}")
    if not short and FAILED not in by_state and runtime.world_size == 1:
        text = f"no end after {patience(config, runtime):g} s: a step takes long here, and how long is not known"
        yield Finding("step", REMARK, text)
    elif not short and FAILED not in by_state:
        stuck = _who(by_state[RUNNING], hosts)
        yield Finding(
            "step",
            NOT_FINE,
            f"{stuck}no end after train.stuck_after {config.train.stuck_after}; if it is only slow use a longer one, "
            "else look at the network between the machines",
        )


def _memory(outcomes: Sequence[Outcome], runtime: Runtime, hosts: Sequence[str]) -> Finding:
    """Of the process that is nearest to its limit."""
    rank = max(range(len(outcomes)), key=lambda rank: outcomes[rank].peak / max(outcomes[rank].room, 1))
    peak, room = outcomes[rank].peak, outcomes[rank].room
    where = "of the device" if runtime.device.type == "cuda" else "of memory"
    text = f"{amount(peak)} of {amount(room)} {where}"
    text += f", at most ({named([rank], hosts)})" if len(outcomes) > 1 else ""
    if peak <= _NEARLY_ALL * room:
        return Finding("memory", FINE, text)
    return Finding("memory", REMARK, f"{text}: nearly all, so a smaller train.micro_batch leaves room for surprises")


def _speed(outcomes: Sequence[Outcome], config: Config, runtime: Runtime) -> Finding:
    first, last = (max(outcome.seconds[place] for outcome in outcomes) for place in (0, -1))
    warm = ", compilation included" if runtime.compiles else ""
    images = config.course.stage(0).images_per_step
    text = f"{last:.2f} s, {images / last:.0f} images/s (the first took {first:.1f} s{warm}); "
    text += f"at that {config.train.length} take {_long(config.course.images / images * last)}"
    return Finding("step", FINE, text)


def _long(seconds: float) -> str:
    """For a person: in the unit that is next below it."""
    units = (("days", 86400), ("hours", 3600), ("minutes", 60), ("s", 1))
    name, unit = next(((name, unit) for name, unit in units if seconds >= 2 * unit), units[-1])
    amount = seconds / unit
    return f"{amount:.0f} {name}" if amount >= 10 else f"{amount:.2g} {name}"


def _gradients(outcomes: Sequence[Outcome], hosts: Sequence[str]) -> Iterator[Finding]:
    ranks = [rank for rank, outcome in enumerate(outcomes) if outcome.broken]
    if not ranks:
        yield Finding("gradients", FINE, "finite")
        return
    names = outcomes[ranks[0]].broken
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    who = _who(ranks, hosts) if len(ranks) < len(outcomes) else ""
    yield Finding(
        "gradients",
        NOT_FINE,
        f"{who}not finite after a step: {', '.join(names[:_LISTED])}{more}; try train.precision: fp32, lower learning "
        "rates, and `distgan doctor --parity`",
    )


def _who(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    return f"{named(ranks, hosts)}: " if len(hosts) > 1 else ""


def time_rows(config: Config, outcomes: Sequence[Outcome], started: float) -> Iterator[Finding]:
    """A remark where train.max_time leaves no time to train; `started`: seconds that a start takes before its first
    step. Without an outcome by that alone."""
    limit = config.train.max_time
    if limit is None:
        return
    step = max((outcome.seconds[0] for outcome in outcomes if outcome.seconds), default=0.0)
    if limit.seconds > max(_SHORT, started + 3 * step + TimeLimit.CLOSING):  # a start leaves two steps early
        return
    took = f" and {step:.2g} s for the first step" if step else ""
    text = f"train.max_time {limit} is short: a start takes about {started:.0f} s{took}, and {TimeLimit.CLOSING:.0f} s"
    yield Finding("max_time", REMARK, f"{text} are kept for its end, so it may leave after a step or few")
