"""What a line of metrics says beside the sums of the meter: measured at the step of the line, and at no other."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from distgan import randomness
from distgan.config import Config
from distgan.config.growing import Stage
from distgan.data.memory import taken_memory
from distgan.inputs import Inputs
from distgan.networks.growth import in_use
from distgan.phases import Phase, Phases
from distgan.reading import Reader
from distgan.runtime import Runtime
from distgan.tracking.names import DEVICE_MEMORY, EMA_DISTANCE, GAP, HELD_OUT, HOST_MEMORY, REDUCED
from distgan.weights import buffers_kept


class Measurements:
    """The norms of gradients and updates, the critic on held-out pictures, the distance of the average, memory."""

    def __init__(self, config: Config, runtime: Runtime, phases: Phases, reader: Reader, average: nn.Module) -> None:
        self._config, self._runtime, self._phases = config, runtime, phases
        self._reader, self._average = reader, average
        self._course, self._norms = config.course, dict[str, Tensor]()

    def is_line(self, step: int) -> bool:
        """Whether there is a line after `step` steps, unless the run is ended before."""
        is_due = self._course.is_due(self._config.tracking.every, step)
        return is_due or self.is_evaluation_due(step) or step == self._course.steps

    def is_evaluation(self, step: int) -> bool:
        """Whether the pictures are judged after `step` steps, unless the run is ended before."""
        is_last = self._config.evaluate.every is not None and step == self._course.steps
        return is_last or self.is_evaluation_due(step)

    def is_evaluation_due(self, step: int) -> bool:
        """As `is_evaluation`, but for one that only the end of the run brings about."""
        every = self._config.evaluate.every
        return every is not None and self._course.is_due(every, step)

    def held_out_before(self, step: int) -> int:
        """Of the pictures that are held out how many the lines of the first `step` steps have shown; not counted is a
        line that only the end of the run brought about."""
        return sum(stage.batch_size * self._lines(stage, steps) for stage, steps in self._course.until(step))

    def _lines(self, stage: Stage, steps: int) -> int:
        """Of the first `steps` steps of a stage."""
        line, evaluation = self._config.tracking.every.steps(stage.images_per_step), self._config.evaluate.every
        if evaluation is None:
            return steps // line
        judged = evaluation.steps(stage.images_per_step)
        return steps // line + steps // judged - steps // math.lcm(line, judged)

    @contextlib.contextmanager
    def watching(self, phase: Phase) -> Iterator[None]:
        """Around an update whose gradient and change are to be told. Waits for nothing."""
        weights = phase.parameters
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        self._norms[f"{phase.name}/gradient_norm"] = get_total_norm(gradients)
        before = [weight.detach().clone() for weight in weights]
        yield
        self._norms[f"{phase.name}/update_norm"] = _distance(weights, before)

    def take(self, step: int) -> tuple[dict[str, float], float]:
        """What is measured after `step` steps, the same on all processes, and the mean of the seconds that they have
        waited for data. Collective, and waits for the device; no number in it ends a run."""
        waited = self._reader.wait_seconds
        critic = self._critic_sums(step)
        held = torch.tensor(self._memory(), dtype=torch.float64, device=self._runtime.device)
        sums = torch.cat([critic, critic.new_tensor([waited])])
        is_maximum = torch.arange(len(sums) + len(held), device=held.device) >= len(sums)
        *means, waited, host, device = self._runtime.reduce(torch.cat([sums, held]), is_maximum).tolist()
        found = {name: norm.item() for name, norm in self._norms.items()} | self._apart() | self._reduced()
        found[HOST_MEMORY] = host
        if self._runtime.device.type == "cuda":
            found[DEVICE_MEMORY] = device
        if means:
            train, held_out, fake = (total / self._phases.stage.batch_size for total in means)
            found |= {HELD_OUT: held_out - fake, GAP: train - held_out}
        self._norms = {}
        return {k: v for k, v in found.items() if math.isfinite(v)}, waited / self._runtime.world_size

    @torch.no_grad()
    def _apart(self) -> dict[str, float]:
        """How far the averaged weights are from the generator's."""
        weights = self._phases.generator_phase.parameters
        return {EMA_DISTANCE: (_distance(weights, in_use(self._average)) / get_total_norm(weights)).item()}

    def _reduced(self) -> dict[str, float]:
        """What a step of now gives to the reduction of gradients."""
        sent = sum(phase.repeats * self._runtime.reduced_bytes(phase.parameters) for phase in self._phases)
        return {REDUCED: sent / 1e6}

    @torch.no_grad()
    def _critic_sums(self, step: int) -> Tensor:
        """The sums of the critic's scores of this process's newest training pictures, as many held-out ones, and fakes:
        float64 [3], or [0] where none are held out."""
        seen, unseen = self._reader.newest, self._reader.held_out(step)
        if seen is None or unseen is None:
            return torch.zeros(0, dtype=torch.float64, device=self._runtime.device)
        with buffers_kept(self._phases.generator, self._phases.critic_phase.network):
            fakes = [
                self._phases.generate(part, as_in_updates=False) for part in unseen.split(self._phases.micro_batch)
            ]
            made = unseen._replace(real=torch.cat(fakes))
            shown = ((seen, "real"), (unseen, "real"), (made, "fake"))
            return torch.stack([self._score(inputs, role) for inputs, role in shown])

    def _score(self, inputs: Inputs, role: str) -> Tensor:
        critic, total = self._phases.critic_phase.network, torch.zeros((), dtype=torch.float64)
        total = total.to(self._runtime.device)
        for part in inputs.split(self._phases.micro_batch):
            with self._runtime.autocast():
                total += critic(part.real, part.labels, randomness.subkeys(part.keys, role)).double().sum()
        return total

    def _memory(self) -> list[float]:
        """GB of this process, and of its device since this was last asked."""
        host = taken_memory()[1] / 1e9
        if self._runtime.device.type != "cuda":
            return [host, 0.0]
        device = torch.cuda.max_memory_allocated(self._runtime.device) / 1e9
        torch.cuda.reset_peak_memory_stats(self._runtime.device)
        return [host, device]


@torch.no_grad()
def _distance(here: list[Tensor], there: list[Tensor]) -> Tensor:
    return get_total_norm(torch._foreach_sub(here, there))
