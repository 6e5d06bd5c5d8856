"""This project's ways to compute a step, each through the objects that training goes through."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.step.cases import Case
from distgan.doctor.steps import Steps
from distgan.inputs import Inputs
from distgan.phases import Phase
from distgan.runtime import Runtime

TEXTBOOK = "textbook"


class Mode(NamedTuple):
    """A setting of the switches."""

    precision: str = "fp32"
    compiled: bool = False
    channels_last: bool = True
    tf32: bool = False
    graphs: bool = False

    @property
    def arithmetic(self) -> str:
        """What convolutions multiply in."""
        return "tf32" if self.tf32 else self.precision


EXACT = "exact work-saving"
MODES = {
    EXACT: Mode(channels_last=False),
    "+ channels_last": Mode(),
    "+ tf32": Mode(tf32=True),
    "+ bf16": Mode(precision="bf16"),
    "+ compiled": Mode(compiled=True),
    "bf16, compiled": Mode(precision="bf16", compiled=True),
    "bf16, compiled, graphs": Mode(precision="bf16", compiled=True, graphs=True),
}
"""The third to the fifth each have one thing more than the second, the last ones several.

The textbook has torch's own settings, by which fp32 convolutions are in TF32 on CUDA: what to hold beside it there is
"+ tf32"."""

FOR_CUDA = [name for name, mode in MODES.items() if mode.tf32 or mode.graphs]


class _Contiguous(Runtime):
    """As training would be without channels_last."""

    def place(self, module: nn.Module) -> nn.Module:
        return super().place(module).to(memory_format=torch.contiguous_format)

    def images(self, pixels: Tensor) -> Tensor:
        return super().images(pixels).contiguous()


class Ours:
    """Networks, objectives and optimisers of a training, and its updates."""

    def __init__(self, case: Case, mode: Mode, device: str) -> None:
        config = case.config(
            precision=mode.precision, tf32=mode.tf32, compiled=mode.compiled, graphs=mode.graphs, device=device
        )
        self.runtime = (Runtime if mode.channels_last else _Contiguous)(config)
        self._steps, self._taken = Steps(config, self.runtime), 0
        self.generator, self.critic = self._steps.generator, self._steps.critic
        self._phases = self._steps.phases
        self._fake = self._steps.inputs.real.flip(0)

    def take_over(self, generator: nn.Module, critic: nn.Module, real: Tensor, fake: Tensor) -> None:
        """Their weights, and what updates work on: [N, C, H, W] each."""
        self.generator.load_state_dict(generator.state_dict())
        self.critic.load_state_dict(critic.state_dict())
        self._steps.inputs.real.copy_(real)
        self._fake.copy_(fake)

    @property
    def keys(self) -> Tensor:
        """Image keys [N] of `critic_update`, which decide epsilon."""
        return self._phases.keys(self._phases.critic_phase, 0, 0)

    @property
    def latent(self) -> Tensor:
        """Latents [N, latent] of `generator_update`."""
        return self._phases.latent(self._phases.keys(self._phases.generator_phase, 0, 0))

    def critic_update(self) -> None:
        """Leaves the gradients of the critic's loss in `.grad`, from given fakes."""
        phase = self._phases.critic_phase
        inputs = self._steps.inputs._replace(keys=self.keys)
        self._differentiate(phase, {"fake": self._fake, **inputs.seen(), "penalise": True})

    def generator_update(self) -> None:
        """Leaves the gradients of the generator's loss in `.grad`."""
        phase = self._phases.generator_phase
        inputs: Inputs = self._steps.inputs._replace(keys=self._phases.keys(phase, 0, 0))
        self._differentiate(phase, phase.arguments(inputs, 0))

    def step(self) -> None:
        """A step of training: all updates, fakes, optimisers, and the average of the weights."""
        self._steps.take(self._taken)
        self._taken += 1

    def _differentiate(self, phase: Phase, arguments: dict) -> None:
        self._phases.begin(phase, 0.0)
        phase.optimizer.zero_grad()
        with self.runtime.autocast():
            loss, _ = phase.objective(**arguments)
        loss.backward()
