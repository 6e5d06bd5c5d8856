"""`distgan doctor --profile`: where the time of a step goes, on the processes and devices of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from distgan.config import Config
from distgan.data.dataset import Dataset, open_dataset
from distgan.doctor.advice import advice
from distgan.doctor.processes import Processes
from distgan.doctor.room import check_room
from distgan.doctor.step_rows import step_rows
from distgan.doctor.steps import DONE, RUNNING, Outcome, patience, try_steps
from distgan.doctor.table import REMARK, Finding, Table
from distgan.doctor.timed_training import BUSY, LAUNCHES, PLAIN, STEP, measure
from distgan.runtime import Runtime

_LONGER = 10
"""Times the patience of one step: a profile takes ten and more."""


def breakdown(config: Config, name: str) -> int:
    """Prints the table and what to change first. Returns 0, or 1 where the steps could not be taken, on all processes
    alike.

    Raises UserError for shards that cannot be used."""
    dataset = open_dataset(config.data)
    runtime = Runtime(config)
    processes = Processes(runtime)
    table = Table(prints=processes.is_main)
    table.add(processes.merged(check_room(config, runtime)))
    if table.status:
        outcomes = []
    else:
        seconds = _LONGER * patience(config, runtime) if runtime.world_size == 1 else None
        outcomes = try_steps(config, runtime, processes, partial(_measured, dataset), seconds)
        _tell(config, runtime, processes, outcomes, name, table)
    processes.gather("")  # all is said before any leaves: the launcher then ends the others
    if all(outcome.state != RUNNING for outcome in outcomes):
        runtime.close()
    return table.status


def _measured(dataset: Dataset, config: Config, runtime: Runtime, outcome: Outcome) -> None:
    measure(config, runtime, dataset, outcome)


def _tell(
    config: Config, runtime: Runtime, processes: Processes, outcomes: list[Outcome], name: str, table: Table
) -> None:
    states = {outcome.state for outcome in outcomes}
    if states == {DONE}:
        for line in (_head(config, runtime, outcomes[0], name), "", *_rows(outcomes), ""):
            table.line(line)
        for number, text in enumerate(advice(config, runtime, outcomes, processes.hosts), start=1):
            table.line(f"{number}. {text}")
    elif states == {RUNNING} and runtime.world_size == 1:
        text = f"no end after {_LONGER * patience(config, runtime):g} s; give it a smaller train.batch_size"
        table.add([Finding("step", REMARK, text)])
    else:
        table.add(step_rows(outcomes, config, runtime, processes.hosts))


def _head(config: Config, runtime: Runtime, outcome: Outcome, name: str) -> str:
    train, count = config.train, runtime.world_size
    local = train.batch_size // count
    micro = min(train.micro_batch or local, local)
    return (
        f"{name}: {count} process{'es' * (count > 1)} on {runtime.device.type}, {train.precision}, "
        f"{'compiled' if runtime.compiles else 'eager'}\n"
        f"batch {train.batch_size}: {local} on each process, {micro} at a time; {train.critic_steps} updates of the "
        f"critic a step; mean of {outcome.facts['steps']:.0f} steps"
    )


def _rows(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Of several processes the mean, and what the slowest takes, part for part."""
    several, whole = len(outcomes) > 1, mean_of(outcomes, STEP)
    yield f"{'part':22} {'ms a step':>10} {'share':>8}" + (f" {'slowest':>10}" if several else "")
    for part in outcomes[0].parts:
        mean = mean_of(outcomes, part)
        line = f"{part:22} {1e3 * mean:10.2f} {mean / whole:8.1%}"
        yield line + (f" {1e3 * max(outcome.parts[part] for outcome in outcomes):10.2f}" if several else "")
    facts = outcomes[0].facts
    if PLAIN in facts:
        yield f"\nwithout waiting for the device at every part a step takes {1e3 * facts[PLAIN]:.2f} ms"
    if BUSY in facts:
        yield f"the device computes in {facts[BUSY]:.0%} of it, in {facts[LAUNCHES]:.0f} kernels"


def mean_of(outcomes: Sequence[Outcome], part: str) -> float:
    """Seconds of a part, mean over processes."""
    return sum(outcome.parts[part] for outcome in outcomes) / len(outcomes)
