"""The strength of augmentation as a function of how far the critic overfits (ADA: Karras et al. 2020)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from distgan import randomness
from distgan.config import Config
from distgan.data.dataset import Dataset
from distgan.data.stream import BatchStream
from distgan.inputs import Inputs
from distgan.phases import Phases
from distgan.reading import Reader, place_of
from distgan.runtime import Runtime
from distgan.tracking.names import OVERFITTING, STRENGTH
from distgan.weights import buffers_kept

_KEPT = "augmentation"
"""Name of the strength and the newest overfitting in a checkpoint."""


class Adaptation:
    """Looks every `augment.every` steps, and moves the strength up or down by a fixed amount; does nothing where the
    config gives a fixed strength, or none.

    Strength and overfitting stay on the device. Both are functions of the scores of the global batch, added up in its
    own order, whichever processes hold it.
    """

    def __init__(self, config: Config, runtime: Runtime, phases: Phases, reader: Reader, dataset: Dataset) -> None:
        self._config, self._runtime, self._phases = config, runtime, phases
        self._reader, self._dataset = reader, dataset
        self._settings = config.augment
        self._is_on = config.augment is not None and config.augment.strength == "adaptive"
        self._overfitting = torch.full((), torch.nan, device=runtime.device)
        self._unseen: BatchStream | None = None

    @contextlib.contextmanager
    def at(self, step: int) -> Iterator[None]:
        """Reads held-out pictures, where there are any, from where a run of `step` steps has come."""
        config = self._config
        if not self._is_on or config.data.holdout is None:
            yield
            return
        place = place_of(self._runtime)
        unseen = self._dataset.held_out(self._phases.stage.batch_size, config.seed, self._shown(step), place)
        with contextlib.closing(unseen) as self._unseen:
            yield

    def _shown(self, step: int) -> int:
        """How many held-out pictures the looks of the first `step` steps have taken."""
        every = self._settings.every
        looks = (
            (stage, (stage.first + steps) // every - stage.first // every)
            for stage, steps in self._config.course.until(step)
        )
        return sum(stage.batch_size * count for stage, count in looks)

    def after(self, step: int) -> None:
        """Hears that `step` steps are done. Collective; waits for nothing."""
        if not self._is_on or step % self._settings.every:
            return
        settings, strength = self._settings, self._phases.augmentation.strength
        images = settings.every * self._config.course.stage(step - 1).images_per_step
        self._overfitting.copy_(self._look(step))
        direction = (self._overfitting - settings.target).sign().nan_to_num()
        strength.add_(direction * (images / (1000 * settings.speed))).clamp_(0, 1)

    def metrics(self) -> dict[str, float]:
        """For a line; waits for the device."""
        if not self._is_on:
            return {}
        strength, overfitting = self._values().tolist()
        return {STRENGTH: strength} | ({OVERFITTING: overfitting} if overfitting == overfitting else {})

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {_KEPT: self._values().cpu()} if self._is_on else {}

    def load(self, kept: dict[str, Tensor]) -> None:
        """Goes on from what `state` gave; from the beginning where a run had no adaptive strength before."""
        if self._is_on:
            strength, overfitting = kept.get(_KEPT, torch.tensor([0.0, torch.nan]))
            self._phases.augmentation.strength.copy_(strength)
            self._overfitting.copy_(overfitting)

    def _values(self) -> Tensor:
        return torch.stack([self._phases.augmentation.strength, self._overfitting])

    @torch.no_grad()
    def _look(self, step: int) -> Tensor:
        """How far the critic overfits now, a scalar: r_v with held-out pictures, r_t without (ADA eq. 1)."""
        phases, seen = self._phases, self._reader.newest
        with buffers_kept(phases.generator, phases.critic_phase.network):
            if self._unseen is None:
                return self._scores([(seen, "real")])[:, 0].sign().mean()
            key = randomness.key(self._config.seed, "overfitting", step)
            unseen = self._reader.prepare(next(self._unseen), randomness.image_keys(key, phases.positions))
            fakes = [phases.generate(part, as_in_updates=False) for part in unseen.split(phases.micro_batch)]
            made = unseen._replace(real=torch.cat(fakes))
            train, held_out, fake = self._scores([(seen, "real"), (unseen, "real"), (made, "fake")]).mean(0)
        apart = train - fake
        return torch.where(apart > 0, (train - held_out) / apart, 0.0)

    def _scores(self, shown: list[tuple[Inputs, str]]) -> Tensor:
        """Those of the global batch, augmented as in training, float64 [N, len(shown)]."""
        return self._runtime.gather(torch.stack([self._score(inputs, role) for inputs, role in shown], 1))

    def _score(self, inputs: Inputs, role: str) -> Tensor:
        critic, augmentation = self._phases.critic_phase.network, self._phases.augmentation
        found = []
        for part in inputs.split(self._phases.micro_batch):
            pictures = augmentation(part.real, part.keys, role)
            with self._runtime.autocast():
                found.append(critic(pictures, part.labels, randomness.subkeys(part.keys, role)).double())
        return torch.cat(found)
