"""Brings a run from one stage to the next: its phases, its state and the average of its generator."""

from __future__ import annotations

from torch import nn

from distgan.checkpoint import TrainState
from distgan.config import Config
from distgan.config.growing import Stage
from distgan.phases import Phases


class Stages:
    """Of a run that does not grow there is one, and nothing is to be done."""

    def __init__(self, config: Config, phases: Phases, state: TrainState, average: nn.Module) -> None:
        self._course = config.course
        self._phases, self._state, self._average = phases, state, average

    def enter(self) -> None:
        """All are now of the stage that the progress says, and as far in it as its newest step. Collective where that
        is another one than before."""
        step = self._state.progress.step
        stage = self._course.stage(step)
        has_grown = step == stage.first > 0
        if has_grown or stage != self._phases.stage:
            self._renew(stage, has_grown)
        self._phases.grow(max(step - 1, stage.first))
        self._phases.grow_too(self._average)

    def _renew(self, stage: Stage, has_grown: bool) -> None:
        """Phases of this stage: at its beginning with optimisers that have no past, as in Progressive GAN's code, else
        with what the ones before have, as a checkpoint may have filled them."""
        phases, state = self._phases, self._state
        kept = {phase.name: (phase.optimizer.state_dict()["state"], phase.scaler.state_dict()) for phase in phases}
        phases.enter(stage)
        for phase in phases:
            state.optimizers[phase.name], state.scalers[phase.name] = phase.optimizer, phase.scaler
            if not has_grown:
                phase.keep(*kept[phase.name])
        if has_grown:
            state.progress.tried, state.progress.skipped_in_a_row = dict.fromkeys(state.progress.tried, 0), {}
        phases.settle()
