"""Some steps of training with a clock on their parts; nothing is written."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from distgan.collapse import CollapseWatch
from distgan.config import Config
from distgan.config.duration import Duration
from distgan.data.dataset import Dataset
from distgan.doctor.steps import Outcome, peak_of, room_of
from distgan.doctor.timing import Clock, covered
from distgan.objectives.penalties import PENALTIES
from distgan.phases import Phase
from distgan.run_folder import RunFolder
from distgan.runtime import Runtime, Vote
from distgan.trainer import Trainer

WAITING, MOVING, FAKES = "waiting for pictures", "pictures to the device", "making fakes"
SCORES, PENALTY, GENERATOR = "critic: scores", "critic: penalty", "generator update"
REDUCTION, OPTIMISERS, LOGGING, REST = "reduction", "optimizers", "logging", "the rest"
PARTS = (WAITING, MOVING, FAKES, SCORES, PENALTY, GENERATOR, REDUCTION, OPTIMISERS, LOGGING, REST)
STEP, PLAIN, PLAIN_WAITING, BUSY, LAUNCHES = "a step", "plain step", "plain waiting", "busy", "launches"

STEPS, STEPS_SECONDS = (3, 20), 18.0
"""The least and the most steps that are timed, and the seconds that they may take in between."""
ROUNDS, ROUNDS_SECONDS = (3, 10), 8.0
"""The same of rounds in which updates are taken whole and in parts."""
TRACED = 2
"""Steps in which the device's own record is taken."""

_READING, _CRITIC = "reading", "critic"
_FOR_EVER = Duration(10**9, "steps")


class Seconds(NamedTuple):
    """What one update takes."""

    whole: float
    unreduced: float
    """Without the reduction over processes."""
    plain: float
    """And without the penalty."""


class TimedTrainer(Trainer):
    """The training of a config from its first step on, whose parts are timed and which leaves nothing behind."""

    def __init__(self, config: Config, runtime: Runtime, dataset: Dataset) -> None:
        self.every = config.tracking.every.steps(config.course.stage(0).images_per_step)
        """Steps from line to line."""
        super().__init__(_endless(config), runtime, dataset, RunFolder(config.run_dir))
        self.clock = clock = Clock(runtime.device)
        self.progress.tried = dict.fromkeys((phase.name for phase in self.phases), 0)
        self._vote = Vote(runtime.world_size, lambda: (False,), runtime.timeout)
        clock.time(self.reader, "read", _READING)
        clock.time(self.phases, "gradients", lambda phase, *_: GENERATOR if phase.name == "generator" else _CRITIC)
        clock.time(self.phases, "generate", FAKES)
        clock.time(self.phases, "apply", OPTIMISERS)
        clock.time(self.average, "update", OPTIMISERS)
        clock.time(self.meter, "add", LOGGING)

    @property
    def penalised(self) -> float:
        """The share of the critic's updates that have a penalty."""
        objective = self.config.objective
        return 1 / objective.every if objective.penalty in PENALTIES else 0.0

    def step(self) -> None:
        """As the loop of training takes it, up to the vote."""
        self._step(self._vote)
        self._vote.result()

    def line(self) -> float:
        """Seconds of what a line takes beside the step: its measurements, and what is reduced for it."""
        began = self.clock.now()
        for phase in self.phases:
            with self.measurements.watching(phase):
                pass
        self.meter.fold(self.runtime.reduce)
        self.meter.take()
        self.phases.scaling(self.progress.tried)
        self.measurements.take(self.progress.step)
        if self.runtime.is_main and self.config.tracking.watch:
            CollapseWatch(self.config, self.average.network, 1.0, []).diversity()
        return self.clock.now() - began

    def critic_update(self) -> Seconds:
        """One update of the critic, whole and in parts; no weight is changed."""
        phase = self.phases.critic_phase
        unreduced = whole = self._timed(phase, _CRITIC)
        if self.runtime.world_size > 1:
            unreduced = self._timed(phase, _CRITIC, reduced=False)
        if not self.penalised:
            return Seconds(whole, unreduced, unreduced)
        return Seconds(whole, unreduced, self._timed(phase, _CRITIC, reduced=False, penalise=False))

    def generator_update(self) -> Seconds:
        """The same of the generator, which has no penalty."""
        phase = self.phases.generator_phase
        unreduced = whole = self._timed(phase, GENERATOR)
        if self.runtime.world_size > 1:
            unreduced = self._timed(phase, GENERATOR, reduced=False)
        return Seconds(whole, unreduced, unreduced)

    def _timed(self, phase: Phase, name: str, *, reduced: bool = True, penalise: bool = True) -> float:
        """Seconds of the gradients of an update, fakes not included."""
        before = self.clock.seconds[name]
        self.phases.begin(phase, 0.0)
        part = phase if penalise else dataclasses.replace(phase, arguments=_without_penalty(phase.arguments))
        self.phases.gradients(part, self.reader.newest, 0, reduced=reduced)
        taken = self.clock.seconds[name] - before
        if phase.scaler.is_enabled():
            phase.scaler.update()  # it unscales the gradients of an update once
        return taken


def measure(config: Config, runtime: Runtime, dataset: Dataset, outcome: Outcome) -> None:
    """Leaves in `outcome.parts` the seconds of each part of a step, and in `outcome.facts` what else was found."""
    outcome.room = room_of(runtime)
    trainer = TimedTrainer(config, runtime, dataset)
    trainer.phases.settle()
    with trainer.reader.at(0, 0):
        step, rounds = _warm_up(trainer)
        steps = _often(runtime, step, STEPS, STEPS_SECONDS)
        found = _timed_steps(trainer, steps)
        if runtime.device.type == "cuda":
            outcome.facts |= _on_the_device(trainer, steps)
        critic, generator = _shares(trainer, _often(runtime, rounds, ROUNDS, ROUNDS_SECONDS))
        line = median(trainer.line() for _ in range(3)) / trainer.every
    outcome.parts = _parts(found, critic, generator, line)
    if runtime.world_size == 1:
        del outcome.parts[REDUCTION]
    if not trainer.penalised:
        del outcome.parts[PENALTY]
    outcome.facts["steps"] = steps
    outcome.peak = peak_of(runtime)


def _warm_up(trainer: TimedTrainer) -> tuple[float, float]:
    """The seconds of a step and of a round of updates, once everything is compiled and has its memory."""
    for _ in range(3 if trainer.runtime.compiles else 2):
        step = _seconds(trainer.clock, trainer.step)
    trainer.clock.running = True
    for _ in range(2):
        rounds = _seconds(trainer.clock, lambda: (trainer.critic_update(), trainer.generator_update()))
    trainer.line()
    trainer.clock.running = False
    return step, rounds


def _seconds(clock: Clock, take: Callable[[], object]) -> float:
    began = clock.now()
    take()
    return clock.now() - began


def _often(runtime: Runtime, seconds: float, bounds: tuple[int, int], budget: float) -> int:
    """How often what takes so many seconds is repeated, the same on all processes."""
    values = torch.tensor([seconds], device=runtime.device, dtype=torch.float64)
    slowest = runtime.reduce(values, torch.ones_like(values, dtype=torch.bool)).item()
    return int(min(max(budget / slowest, bounds[0]), bounds[1]))


def _timed_steps(trainer: TimedTrainer, steps: int) -> dict[str, float]:
    """Seconds of a step by what the clock calls its parts; what it has not seen is the rest."""
    clock, reader = trainer.clock, trainer.reader
    for _ in range(2):  # the stream has read ahead meanwhile
        trainer.step()
    clock.seconds.clear()
    clock.running, waited = True, reader.wait_seconds
    whole = _seconds(clock, lambda: [trainer.step() for _ in range(steps)])
    clock.running = False
    found = {name: seconds / steps for name, seconds in clock.seconds.items()}
    found[REST] = whole / steps - sum(found.values())
    found[WAITING] = (reader.wait_seconds - waited) / steps
    found[MOVING] = found.pop(_READING) - found[WAITING]
    return found


def _on_the_device(trainer: TimedTrainer, steps: int) -> dict[str, float]:
    """Of steps as training takes them, without a clock: seconds of one, of them waiting for pictures, the share of the
    time in which the device computes, and kernels a step; the last two only where the device can be traced."""
    waited = trainer.reader.wait_seconds
    facts = {PLAIN: _seconds(trainer.clock, lambda: [trainer.step() for _ in range(steps)]) / steps}
    facts[PLAIN_WAITING] = (trainer.reader.wait_seconds - waited) / steps
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as traced:
        began = time.perf_counter()
        for _ in range(TRACED):
            trainer.step()
        seconds = trainer.clock.now() - began
    kernels = [
        (event.time_range.start, event.time_range.end)
        for event in traced.events()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    if kernels:
        facts |= {BUSY: covered(kernels) / 1e6 / seconds, LAUNCHES: len(kernels) / TRACED}
    return facts


def _shares(trainer: TimedTrainer, rounds: int) -> tuple[Seconds, Seconds]:
    """An update of each network in parts of its whole; medians, as others may use the machine."""
    trainer.clock.running = True
    found = [(trainer.critic_update(), trainer.generator_update()) for _ in range(rounds)]
    trainer.clock.running = False
    critic, generator = (
        Seconds(1.0, *(median(getattr(one, part) / one.whole for one in updates) for part in Seconds._fields[1:]))
        for updates in zip(*found, strict=True)
    )
    often = trainer.penalised
    lazy = often * critic.unreduced + (1 - often) * critic.plain
    return Seconds(lazy + max(1 - critic.unreduced, 0), lazy, critic.plain), generator


def _parts(found: dict[str, float], critic: Seconds, generator: Seconds, line: float) -> dict[str, float]:
    """Seconds of every part of a step, in their order; `critic` and `generator`: mean updates in any unit."""
    updates, made = found.pop(_CRITIC), found[GENERATOR]
    found[SCORES] = updates * min(critic.plain, critic.unreduced) / critic.whole
    found[PENALTY] = updates * max(critic.unreduced - critic.plain, 0) / critic.whole
    found[GENERATOR] = made * min(generator.unreduced, 1)
    found[REDUCTION] = updates + made - found[SCORES] - found[PENALTY] - found[GENERATOR]
    found[LOGGING] = found.get(LOGGING, 0.0) + line
    parts = {name: found[name] for name in PARTS if name in found}
    return {**parts, STEP: sum(parts.values())}


def _without_penalty(arguments: Callable) -> Callable:
    return lambda part, update: {**arguments(part, update), "penalise": False}


def _endless(config: Config) -> Config:
    """The config without an end and lines, which are timed apart; what is not finite stops nothing here."""
    train = config.train.model_copy(update={"length": _FOR_EVER, "bad_numbers": "skip"})
    tracking = config.tracking.model_copy(update={"every": _FOR_EVER})
    return config.model_copy(update={"train": train, "tracking": tracking})
