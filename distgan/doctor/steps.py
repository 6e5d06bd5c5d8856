"""A few steps of training on every process, as the trainer takes them, and what they took."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from distgan.assembly import make_critic, make_generator
from distgan.averaging import WeightAverage
from distgan.bad_numbers import Update
from distgan.config import Config
from distgan.config.growing import Stage
from distgan.data.memory import available_memory, taken_memory
from distgan.doctor.processes import Processes
from distgan.errors import UserError
from distgan.exit_status import LEFT_BEHIND
from distgan.inputs import Inputs
from distgan.phases import Phases
from distgan.runtime import Runtime
from distgan.schedules import ema_decay

RUNNING, DONE, FAILED, NO_MEMORY = "running", "done", "failed", "out of memory"

GRACE = 5.0
"""Seconds in which others may fail too once a process has; the rest wait for it in vain."""
TOLD = 5.0
"""Seconds after which it is told that a step is being tried."""
PATIENCE, PATIENCE_COMPILING = 60.0, 600.0
"""Seconds after which one process, which waits for no other, is asked for no more."""
_PAUSES = (0.02, 0.5)
"""Seconds between two questions how far all are: at first, and at most."""
_MEMORY = ("can't allocate memory", "out of memory", "alloc_failed", "bad_alloc")


@dataclass
class Outcome:
    """How far one process is with its steps, and what it has found."""

    state: str = RUNNING
    error: str = ""
    """One line, when it has failed."""
    seconds: list[float] = field(default_factory=list)
    """Of each step; the first has the compilation in it."""
    peak: int = 0
    """Most bytes that the process had at one time: of the device, or of the machine where it is the CPU."""
    room: int = 0
    """Bytes that it may have."""
    broken: list[str] = field(default_factory=list)
    """Parameters that are not finite, or whose gradient is not."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of each part of a step, where that was asked for."""
    facts: dict[str, float] = field(default_factory=dict)
    """What else was found of a step then."""


Measure = Callable[[Config, Runtime, Outcome], None]


def try_steps(
    config: Config,
    runtime: Runtime,
    processes: Processes,
    measure: Measure | None = None,
    seconds: float | None = None,
) -> list[Outcome]:
    """The outcomes of all processes, on all alike, of `measure` (a few steps). After so many `seconds` (`patience`) no
    process is waited for any more.

    The steps are taken by another thread, so that a process which fails or is stuck can be told of by those that wait
    for it in a reduction: their thread is then left behind, and the process must leave without an orderly end.
    """
    outcome, seconds = Outcome(), seconds or patience(config, runtime)
    arguments = (config, runtime, outcome, measure or _measure)
    thread = threading.Thread(target=_take, args=arguments, name=LEFT_BEHIND, daemon=True)
    thread.start()
    waited, failed, told, pause = 0.0, 0.0, not processes.is_main, _PAUSES[0]
    while True:  # every process counts the same pauses, so that all give up at once
        thread.join(pause)
        found = [Outcome(**json.loads(text)) for text in processes.gather(json.dumps(asdict(outcome)))]
        states = {each.state for each in found}
        waited, failed = waited + pause, failed + pause * bool(states & {FAILED, NO_MEMORY})
        if RUNNING not in states or failed > GRACE or waited > seconds:
            return found
        if waited > TOLD and not told:
            told = True
            print("trying a step of training, which takes its time", file=sys.stderr, flush=True)
        pause = min(1.2 * pause, _PAUSES[1])


def patience(config: Config, runtime: Runtime) -> float:
    """Seconds that the steps may take: as training would wait for a process that others wait for."""
    if runtime.world_size > 1:
        return config.train.stuck_after.seconds
    return PATIENCE_COMPILING if runtime.compiles else PATIENCE


def _take(config: Config, runtime: Runtime, outcome: Outcome, measure: Measure) -> None:
    try:
        if runtime.device.type == "cuda":
            torch.cuda.set_device(runtime.device)  # each thread has its own
        with _in_memory(runtime):
            measure(config, runtime, outcome)
        outcome.state = DONE
    except Exception as error:  # noqa: BLE001  told by the thread that prints the table
        outcome.error = f"{type(error).__name__}: {str(error).strip() or 'without a word'}".splitlines()[0]
        short = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if short or any(words in str(error).lower() for words in _MEMORY):
            outcome.state = NO_MEMORY
            return
        if not isinstance(error, UserError):
            traceback.print_exception(error)
        outcome.state = FAILED


def _measure(config: Config, runtime: Runtime, outcome: Outcome) -> None:
    """Two steps: the optimisers have their memory from the first on. Compiled, three: the second may compile anew."""
    outcome.room = room_of(runtime)
    steps = Steps(config, runtime)
    for number in range(3 if runtime.compiles else 2):
        started = time.perf_counter()
        steps.take(number)
        if runtime.device.type == "cuda":
            torch.cuda.synchronize(runtime.device)
        outcome.seconds.append(time.perf_counter() - started)
    outcome.peak = peak_of(runtime)
    outcome.broken = list(steps.broken())


class Steps:
    """What the trainer has on the device, and its step, with drawn pictures of the right shape."""

    def __init__(self, config: Config, runtime: Runtime, stage: Stage | None = None) -> None:
        """`stage`: one of the run's, whose steps these are (the first)."""
        train = config.train.model_copy(update={"bad_numbers": "skip"})  # to name what is bad, and not to stop at it
        self.config = config = config.model_copy(update={"train": train})
        self._left_out: list[tuple[str, torch.Tensor]] = []
        self.generator = runtime.place(make_generator(config)).train()
        self.critic = runtime.place(make_critic(config)).train()
        self.average = WeightAverage(self.generator)
        self.phases = Phases(config, runtime, self.generator, self.critic)
        if stage is not None:
            self.phases.enter(stage)
        data, count, source = config.data, self.phases.local, torch.Generator().manual_seed(runtime.rank)
        side = self.phases.stage.resolution
        shape = (count, data.channels, side, side)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=source)
        labels = torch.randint(0, data.classes or 1, (count,), generator=source).to(runtime.device)
        self.inputs = Inputs(runtime.images(pixels), labels if data.classes else None, self.phases.positions)

    def take(self, number: int) -> None:
        """One step: the critic's updates and the generator's."""
        noise = self.phases.noise(number)
        for phase in self.phases:
            self.phases.begin(phase, 0.0)
            for repeat in range(phase.repeats):
                drawn = noise[phase.name][repeat]
                inputs = self.inputs._replace(keys=drawn.keys, latent=drawn.latent)
                self.phases.gradients(phase, inputs, number * phase.repeats + repeat)
                update = Update(phase.name, number, repeat + 1, 0, 0.0, None, [])
                if (left_out := self.phases.apply(phase, update)) is not None:
                    self._left_out.append((f"an update of the {phase.name}", left_out))
        train, images = self.config.train, self.phases.stage.images_per_step
        decay = ema_decay(train.ema_kimg, train.ema_rampup, images, (number + 1) * images)
        self.average.update(self.generator, decay)

    def broken(self) -> Iterator[str]:
        """What is not finite. With fp16 a gradient may be, whose update is then skipped."""
        skips = self.config.train.precision == "fp16"
        for name, network in (("critic", self.critic), ("generator", self.generator)):
            for parameter_name, parameter in network.named_parameters():
                if not _is_finite(parameter, judges_gradient=not skips):
                    yield f"{name} {parameter_name}"
        yield from dict.fromkeys(what for what, left_out in self._left_out if left_out)


def _is_finite(parameter: nn.Parameter, *, judges_gradient: bool) -> bool:
    gradient = parameter.grad if judges_gradient else None
    return bool(parameter.isfinite().all()) and (gradient is None or bool(gradient.isfinite().all()))


@contextlib.contextmanager
def _in_memory(runtime: Runtime) -> Iterator[None]:
    """On a CPU what has no room in memory is refused: else the system would kill a process, perhaps this one."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if runtime.device.type == "cpu":
        taken = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        most = taken + available_memory() // runtime.local_size
        if before[1] == resource.RLIM_INFINITY or most < before[1]:
            resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def room_of(runtime: Runtime) -> int:
    """Bytes that this process may have of its device, or of the machine, whose processes share alike."""
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runtime.device)
        return torch.cuda.mem_get_info(runtime.device)[0] + torch.cuda.memory_reserved(runtime.device)
    return available_memory() // runtime.local_size + taken_memory()[0]


def peak_of(runtime: Runtime) -> int:
    """The most bytes that this process has had at one time: of its device, or of the machine where it is the CPU."""
    if runtime.device.type == "cuda":
        return torch.cuda.max_memory_allocated(runtime.device)
    return taken_memory()[1]  # of the whole life of the process
