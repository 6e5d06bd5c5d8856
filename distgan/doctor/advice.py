"""What to change first, from the shares of a step's time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from distgan.config import Config
from distgan.doctor.steps import Outcome
from distgan.doctor.table import named
from distgan.doctor.timed_training import (
    BUSY,
    FAKES,
    GENERATOR,
    LAUNCHES,
    LOGGING,
    PENALTY,
    PLAIN,
    PLAIN_WAITING,
    REDUCTION,
    SCORES,
    STEP,
    WAITING,
)
from distgan.runtime import Runtime

DATA_SHARE, REDUCTION_SHARE, UNEVEN_SHARE, LOGGING_SHARE = 0.05, 0.15, 0.10, 0.05
"""Of a step's time: above this, something is said of it."""
BUSY_SHARE = 0.90
"""Of the time of a step, that a device computes: below this, its launches are."""
ARITHMETIC_SHARE = 0.50
"""Of the forwards and backwards, above which a shorter precision is worth its name."""
PENALTY_SHARE = 0.30
ROOM_SHARE = 0.40
"""Of its memory that a process has taken: below this, twice the micro-batch fits."""
MOST = 3
"""Lines that are said."""

_ARITHMETIC = (FAKES, SCORES, PENALTY, GENERATOR)


def advice(config: Config, runtime: Runtime, outcomes: Sequence[Outcome], hosts: Sequence[str]) -> list[str]:
    """One to three lines, the largest share first; what changes the objective comes last."""
    found = sorted(_found(config, runtime, outcomes, hosts), reverse=True)
    lines = [text for _, text in found[:MOST]]
    penalty = _share(outcomes, PENALTY)
    if penalty > PENALTY_SHARE and config.objective.every == 1 and len(lines) < MOST:
        lines.append(
            f"the penalty takes {penalty:.0%}: objective.every 4 would save three quarters of that, and is another "
            "objective (lazy regularisation), so only for those who want it"
        )
    if not found:
        whole = sum(_share(outcomes, part) for part in _ARITHMETIC)
        lines.insert(0, f"nothing stands out: {whole:.0%} of a step is the arithmetic of the networks")
    return lines


def _share(outcomes: Sequence[Outcome], part: str) -> float:
    """Of a step, mean over processes."""
    return sum(outcome.parts.get(part, 0.0) / outcome.parts[STEP] for outcome in outcomes) / len(outcomes)


def _found(
    config: Config, runtime: Runtime, outcomes: Sequence[Outcome], hosts: Sequence[str]
) -> Iterator[tuple[float, str]]:
    """Shares that could be saved, and how."""
    yield from _data(config, outcomes)
    yield from _logging(config, outcomes)
    yield from _micro_batches(config, runtime, outcomes)
    if runtime.device.type == "cuda":
        yield from _device(config, runtime, outcomes)
    if runtime.world_size > 1:
        yield from _reduction(config, runtime, outcomes)
        yield from _uneven(outcomes, hosts)


def _data(config: Config, outcomes: Sequence[Outcome]) -> Iterator[tuple[float, str]]:
    """The slowest process's wait, since all wait for it; without a clock, where that was seen too."""
    share = max(outcome.parts[WAITING] / outcome.parts[STEP] for outcome in outcomes)
    share = max([share, *(each.facts[PLAIN_WAITING] / each.facts[PLAIN] for each in outcomes if PLAIN in each.facts)])
    if share <= DATA_SHARE:
        return
    data = config.data
    ways = ["`distgan prepare --encoding raw`, which leaves nothing to decode"]
    if data.order != "resampled":
        ways.insert(0, "data.tier: memory where the decoded set fits")
    ways.insert(0, f"a higher data.threads (now {data.threads or 'one for each core'})")
    yield share, f"{share:.0%} of a step waits for pictures: {', or '.join(ways)}"


def _logging(config: Config, outcomes: Sequence[Outcome]) -> Iterator[tuple[float, str]]:
    share = max(outcome.parts[LOGGING] / outcome.parts[STEP] for outcome in outcomes)
    if share > LOGGING_SHARE:
        yield share, f"{share:.0%} goes to metrics: a longer tracking.every than {config.tracking.every}"


def _micro_batches(config: Config, runtime: Runtime, outcomes: Sequence[Outcome]) -> Iterator[tuple[float, str]]:
    """What a larger one saves is not known; it is said after what is."""
    micro, local = config.train.micro_batch, config.train.batch_size // runtime.world_size
    room = max(outcome.peak / max(outcome.room, 1) for outcome in outcomes)
    if micro and micro < local and room < ROOM_SHARE:
        parts = -(-local // micro)
        yield 0.0, f"{local} images go in {parts} parts and take {room:.0%} of the memory: a larger train.micro_batch"


def _device(config: Config, runtime: Runtime, outcomes: Sequence[Outcome]) -> Iterator[tuple[float, str]]:
    arithmetic = sum(_share(outcomes, part) for part in _ARITHMETIC)
    if config.train.precision == "fp32" and arithmetic > ARITHMETIC_SHARE:
        yield arithmetic / 2, f"{arithmetic:.0%} is arithmetic in fp32: train.precision: bf16"
    facts = [outcome.facts for outcome in outcomes if BUSY in outcome.facts]
    if not facts:
        return
    busy = min(each[BUSY] for each in facts)
    waiting = max(each[PLAIN_WAITING] / each[PLAIN] for each in facts)
    if 1 - busy - waiting > 1 - BUSY_SHARE:
        what = "train.compile: true, which launches fewer"
        if runtime.compiles:
            graphs = "" if config.train.cuda_graphs else "train.cuda_graphs: true, or "
            what = f"{graphs}a larger train.batch_size"
        launches = facts[0][LAUNCHES]
        yield 1 - busy - waiting, f"the device computes in {busy:.0%} of a step, in {launches:.0f} kernels: {what}"


def _reduction(config: Config, runtime: Runtime, outcomes: Sequence[Outcome]) -> Iterator[tuple[float, str]]:
    """Of the process that waits least for the others: what is left is sending."""
    share = min(outcome.parts[REDUCTION] / outcome.parts[STEP] for outcome in outcomes)
    if share <= REDUCTION_SHARE:
        return
    train = config.train
    ways = [
        f"more images a process than {train.batch_size // runtime.world_size} (train.batch_size, or fewer processes)"
    ]
    if train.reduce == "fp32" and train.precision != "fp64":
        ways.append("train.reduce: bf16, which sends half")
    yield share, f"{share:.0%} of a step is reduction over {runtime.world_size} processes: {', or '.join(ways)}"


def _uneven(outcomes: Sequence[Outcome], hosts: Sequence[str]) -> Iterator[tuple[float, str]]:
    """How much longer the slowest process takes for its own work than all do in the mean."""
    own = [outcome.parts[STEP] - outcome.parts[REDUCTION] for outcome in outcomes]
    slowest = max(range(len(own)), key=own.__getitem__)
    mean = sum(own) / len(own)
    share = (own[slowest] - mean) / outcomes[slowest].parts[STEP]
    if share > UNEVEN_SHARE:
        text = (
            f"{named([slowest], hosts)} takes {own[slowest] / mean - 1:.0%} longer than the mean, and all wait for it"
        )
        yield share, f"{text}: look what else runs there"
