"""`distgan doctor --config FILE`: will this run start? Everything is looked at, and nothing is changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from distgan.config import Config
from distgan.config.growing import Stage
from distgan.doctor.disk import check_disk
from distgan.doctor.evaluations import check_evaluations
from distgan.doctor.folder import check_folder
from distgan.doctor.processes import Processes
from distgan.doctor.room import check_room
from distgan.doctor.shards import check_shards
from distgan.doctor.step_rows import step_rows, time_rows
from distgan.doctor.steps import RUNNING, try_steps
from distgan.doctor.table import FINE, NOT_FINE, REMARK, Finding, Table
from distgan.doctor.tracking_key import check_tracking
from distgan.errors import ConfigError, UserError
from distgan.runtime import Runtime, launched_processes
from distgan.shared_folder import blind


def check_start(config: Config, name: str, began: float) -> int:
    """Prints the table, on the main process. Returns 0 when all is fine, else 1, on all processes alike.

    `began`: time.perf_counter() of the command. Every process calls it. Raises ConfigError where the processes could
    not even come together.
    """
    runtime, refusal = _come_up(config)
    processes = Processes(runtime)
    table = Table(prints=processes.is_main)
    table.line(f"{name}: will it start?\n")
    table.add(processes.merged([_of_config(config, processes.world_size, refusal)]))
    table.add(processes.rows())
    for findings in _looked_at(config, runtime, processes):
        table.add(processes.merged(findings))
    is_stuck = _add_step(config.heaviest, runtime, processes, table, began)
    table.close(time.perf_counter() - began)
    processes.gather("")  # the table is whole before any leaves: the launcher then ends the others
    if runtime is not None and not is_stuck:
        runtime.close()
    return table.status


def _come_up(config: Config) -> tuple[Runtime | None, ConfigError | None]:
    """The processes together; or why not, where something can still be said: alone, or once they know each other."""
    try:
        return Runtime(config), None
    except ConfigError as error:
        if launched_processes() > 1 and not dist.is_initialized():
            raise
        return None, error


def _of_config(config: Config, world_size: int, refusal: ConfigError | None) -> Finding:
    if refusal is not None:
        return Finding("config", NOT_FINE, str(refusal))
    stages = [_of_stage(stage, config, world_size) for stage in config.course.stages]
    text = f"{config.total_steps} steps {stages[0]}" if len(stages) == 1 else f"{config.total_steps} steps"
    return Finding(
        "config", FINE, "\n".join([f"{text}; {config.train.precision}", *(stages if len(stages) > 1 else ())])
    )


def _of_stage(stage: Stage, config: Config, world_size: int) -> str:
    local, micro = stage.batch_size // world_size, config.train.micro_batch
    text = f"{stage.resolution} px from step {stage.first} on: steps " if config.course.grows else ""
    text += f"of {stage.images_per_step} images; batch {stage.batch_size}"
    text += f", {local} on each process" if world_size > 1 else ""
    return text + (f", {micro} at a time" if micro and micro < local else "")


def _looked_at(config: Config, runtime: Runtime | None, processes: Processes) -> Iterator[list[Finding]]:
    """What this process finds, check after check; each is made although one before it has failed."""
    device = torch.device("cpu") if runtime is None else runtime.device
    is_main, is_first = processes.is_main, processes.is_first_of_machine
    unseeing = blind(Path(config.run_dir).expanduser(), processes.rank, processes.world_size, processes.union)
    yield _attempt("run_dir", lambda: check_folder(config, unseeing))
    yield _attempt("disk", lambda: check_disk(config)) if is_main else []
    yield _attempt("logging", lambda: check_tracking(config)) if is_main else []
    yield _attempt("shards", lambda: check_shards(config, device)) if is_first else []
    yield _attempt("evaluations", lambda: check_evaluations(config)) if is_main else []


def _attempt(what: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except UserError as error:
        return [Finding(what, NOT_FINE, str(error))]
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return [Finding(what, NOT_FINE, f"{place}{error.strerror or error}; look at the disk")]


def _add_step(config: Config, runtime: Runtime | None, processes: Processes, table: Table, began: float) -> bool:
    """Whether a process is left in the middle of its step."""
    if runtime is None:
        table.add([Finding("step", REMARK, "not tried with this config")])
        return False
    started, outcomes = time.perf_counter() - began, []
    table.add(processes.merged(check_room(config, runtime)))
    if table.is_ill("memory"):
        table.add([Finding("step", REMARK, "not tried, as it cannot fit"), *time_rows(config, outcomes, started)])
        return False
    if processes.is_main and runtime.compiles:
        print("compiling for a step, which can take minutes", file=sys.stderr, flush=True)
    outcomes = try_steps(config, runtime, processes)
    table.add([*step_rows(outcomes, config, runtime, processes.hosts), *time_rows(config, outcomes, started)])
    return any(outcome.state == RUNNING for outcome in outcomes)
