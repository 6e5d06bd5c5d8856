"""Growing: at which steps a run works at which resolution, with what batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from distgan.config.duration import Duration, Progress
from distgan.config.values import Count, Section

POWERS = tuple(4 * 2**k for k in range(12))
"""Resolutions at which a run that grows may begin or end."""


def _power_of_two(value: int) -> int:
    if value < 4 or value & (value - 1):
        raise ValueError("a power of two, 4 or more")
    return value


def _number(value: object) -> object:
    """Of a key that went through JSON, which knows names alone."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Side = Annotated[int, BeforeValidator(_number), AfterValidator(_power_of_two)]


class Growing(Section):
    """Progressive growing (Karras et al. 2018): the resolution doubles from `start` to data.resolution."""

    start: Side = 4
    """Resolution of the beginning, pixels a side."""
    fade: Progress = Duration(600, "kimg")
    """How long the layers of a new resolution take to come in."""
    stable: Progress = Duration(600, "kimg")
    """How long a resolution is trained on once they have; the last one to train.length."""
    stables: dict[Side, Progress] = {}
    """By resolution, how long it is trained on, where not `stable`."""
    batch_sizes: dict[Side, Count] = {}
    """By resolution, images of one update over all processes; others have train.batch_size."""


@dataclass(frozen=True)
class Stage:
    """The steps at one resolution; a run that does not grow has one."""

    resolution: int
    """Pixels a side."""
    batch_size: int
    """Images of one update over all processes."""
    images_per_step: int
    first: int
    """Step with which it begins."""
    last: int
    """Step before which it ends."""
    fade: int
    """Steps, from its first on, over which its layers come in."""
    images: int
    """Real images shown to the critic before it."""

    def share(self, step: int) -> float:
        """How far its layers have come in at `step`: 0 (excluded) to 1."""
        return min(1.0, (step - self.first + 1) / self.fade) if self.fade else 1.0

    def images_at(self, step: int) -> int:
        """Real images shown to the critic before `step`, which is of this stage or its end."""
        return self.images + (step - self.first) * self.images_per_step


@dataclass(frozen=True)
class Course:
    """The stages of a run, one after the other."""

    stages: tuple[Stage, ...]

    @classmethod
    def of(
        cls, length: Duration, batch_size: int, critic_steps: int, growing: Growing | None, resolution: int
    ) -> Course:
        """Of a run at `resolution` pixels in the end. Stages that its `length` leaves no step are not there."""
        stages: list[Stage] = []
        found, images = sides(growing, resolution), 0
        for number, side in enumerate(found):
            batch = growing.batch_sizes.get(side, batch_size) if growing else batch_size
            shown, first = batch * critic_steps, stages[-1].last if stages else 0
            left = _left(length, shown, first, images)
            fade = growing.fade.steps(shown) if number else 0
            planned = (
                left if side == found[-1] else min(left, fade + growing.stables.get(side, growing.stable).steps(shown))
            )
            if planned > 0:
                stages.append(Stage(side, batch, shown, first, first + planned, fade, images))
                images += planned * shown
        return cls(tuple(stages))

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.stages[-1].last

    @property
    def images(self) -> int:
        """Real images shown to the critic in the whole run."""
        return self.stages[-1].images_at(self.steps)

    @property
    def grows(self) -> bool:
        return len(self.stages) > 1

    def stage(self, step: int) -> Stage:
        """That of `step`; at the end of the run, and after it, the last one."""
        return next((stage for stage in self.stages if step < stage.last), self.stages[-1])

    def is_due(self, every: Duration, step: int) -> bool:
        """Whether what is done every so much of training, counted anew in each stage, is to be done after `step`
        steps; at the end of a stage it belongs to the one that ends."""
        stage = self.stage(step - 1)
        return step > 0 and (step - stage.first) % every.steps(stage.images_per_step) == 0

    def until(self, step: int) -> Iterator[tuple[Stage, int]]:
        """The stages that a run of `step` steps has seen, each with how many of its steps."""
        for stage in self.stages:
            if stage.first < step:
                yield stage, (step if stage is self.stages[-1] else min(step, stage.last)) - stage.first

    def count(self, every: Duration, step: int) -> int:
        """How often it has been done after `step` steps."""
        return sum(steps // every.steps(stage.images_per_step) for stage, steps in self.until(step))


def sides(growing: Growing | None, resolution: int) -> list[int]:
    """The resolutions of a run, from its first on; none where it would begin above `resolution`."""
    if growing is None:
        return [resolution]
    return [side for side in POWERS if growing.start <= side <= resolution]


def _left(length: Duration, images_per_step: int, steps: int, images: int) -> int:
    """Steps of `images_per_step` that a run of this length still has after `steps` steps and `images` images."""
    if length.unit == "steps":
        return length.steps(images_per_step) - steps
    return math.ceil((length.images - images) / images_per_step)
