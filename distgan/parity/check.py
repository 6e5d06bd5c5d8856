"""One update of each kind on the processes there are, against the reference: equal gradients, reduced once?"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from distgan import randomness
from distgan.assembly import make_critic, make_generator
from distgan.config import Config
from distgan.inputs import Inputs
from distgan.parity.measure import error, gradients_of
from distgan.parity.reference import (
    PENALTIES,
    Augmented,
    Batch,
    Gradients,
    critic_terms,
    generator_gradients,
    mean,
)
from distgan.parity.textbook import textbook, unit
from distgan.parity.transforms import augmented
from distgan.phases import Phase, Phases
from distgan.runtime import Runtime

BOUNDS = {"fp64": 1e-12, "fp32": 5e-2, "fp16": 1e-1, "bf16": 5e-1}
"""The largest `measure.error` against the reference that passes, by `train.precision`. Rounding puts activations near
their kink on the other side of it: in float32 a few of the millions of a ResNet (5e-3 of its gradient), in half
precision many. float64 alone is sharp for every network; small ones are held to 1e-5 in float32 by the tests."""

REDUCTION_BOUNDS = {"fp64": 1e-12, "fp32": 1e-5, "fp16": 1e-5, "bf16": 1e-5}
"""The same of the reduced gradient against the mean of what each process has alone; the reduction is in float32."""

BF16_REDUCTION_BOUND = 1e-2
"""The same with `train.reduce: bf16`, which rounds each gradient and each of their sums to 8 bits (2e-3 each)."""

Result = TypeVar("Result")

ADAPTIVE_STRENGTH = 0.5
"""Of augmentation, where it is adaptive and so begins at none."""

_FADE = 2
"""Steps over which layers come in, of which this is the first: half of them are in, where networks grow."""

REPETITIONS = 2
"""What DDP misses can go unnoticed in the first update and end the second."""


class Row(NamedTuple):
    """One comparison: what was compared, by how much it is off, by how much it may be."""

    what: str
    found: float
    bound: float
    note: str = ""

    @property
    def equal(self) -> bool:
        return self.found <= self.bound  # and not where it is NaN


class Update(NamedTuple):
    """An update to compare: `number` decides whether a lazy penalty is in it."""

    what: str
    phase: Phase
    number: int


class Measured(NamedTuple):
    """What the processes found of an update."""

    update: Update
    fakes: Tensor
    """Of the whole batch, [N, C, H, W]."""
    found: list[Gradients]
    """Reduced, of each repetition."""
    means: Gradients
    """Of what each process has alone."""
    spread: float
    reduced: list[int]
    """Bytes of each bucket."""


class Check:
    """The comparisons of one config on the processes there are.

    Pictures are drawn, not read: their size is the config's, and so are networks, objective, precision, batch,
    micro-batches and compilation. The gradients are taken by the line of code that training takes them by; the
    optimiser's step is not a part of this. A run that grows is checked at its full resolution, half faded in.
    """

    def __init__(self, config: Config, runtime: Runtime, tell: Callable[[str], None] = lambda text: None) -> None:
        """`tell` receives what is being done, as it can take minutes."""
        self.config, self.runtime, self.tell = config.grown, runtime, tell
        self.generator = runtime.place(make_generator(config)).train()
        self.critic = runtime.place(make_critic(config)).train()
        stir(self.generator, self.critic, config)
        self.phases = Phases(config, runtime, self.generator, self.critic)
        if config.growing is not None:
            self.phases.enter(dataclasses.replace(config.grown.course.stage(0), fade=_FADE))
        if config.augment is not None and config.augment.strength == "adaptive":
            self.phases.augmentation.strength.fill_(ADAPTIVE_STRENGTH)
        self._buffers = [(b, b.clone()) for network in (self.generator, self.critic) for b in network.buffers()]
        self._measured: list[Measured] = []

    def measure(self) -> None:
        """Runs all updates. Collective; what is left to do is the main process's alone."""
        self._measured = [self._measure(update) for update in self._updates()]

    def rows(self) -> list[Row]:
        """All comparisons, once measured."""
        return [row for measured in self._measured for row in self._judge(measured)]

    def _updates(self) -> Iterator[Update]:
        objective, phases = self.config.objective, self.phases
        has_penalty = bool(PENALTIES[objective.penalty][0])
        yield Update("critic with penalty" if has_penalty else "critic", phases.critic_phase, 0)
        if objective.every > 1:
            yield Update("critic without penalty", phases.critic_phase, 1)
        yield Update("generator", phases.generator_phase, 0)

    def _measure(self, update: Update) -> Measured:
        phases, runtime = self.phases, self.runtime
        self.tell(f"{update.what}: {REPETITIONS} updates on each process")
        phases.begin(update.phase, 0.0)
        inputs = self._inputs(update.phase)
        fakes = self._fresh(lambda: torch.cat([phases.generate(part) for part in inputs.split(phases.micro_batch)]))
        found = [self._gradients(update, inputs) for _ in range(REPETITIONS)]
        spread = runtime.spread(torch.cat([part.flatten() for gradients in found for part in gradients.values()]))
        means = self._fresh(
            lambda: local_means(
                runtime, update.phase, lambda: phases.gradients(update.phase, inputs, update.number, reduced=False)
            )
        )
        return Measured(update, runtime.gather(fakes), found, means, spread, self._bytes_reduced(update, inputs))

    def _fresh(self, take: Callable[[], Result]) -> Result:
        """What `take` returns, from the same buffers each time: a batch norm's are changed by every forward."""
        for buffer, first in self._buffers:
            buffer.copy_(first)
        return take()

    def _judge(self, measured: Measured) -> Iterator[Row]:
        update, precision = measured.update, self.config.train.precision
        self.tell(f"{update.what}: the reference, {self.config.train.batch_size} images one by one in float64")
        wanted, pictures = self._reference(update, measured.fakes)
        bound = BOUNDS[precision]
        if update.phase is self.phases.critic_phase and update.number == 0:
            off, _ = error({"": measured.fakes.double()}, {"": pictures})
            yield Row("pictures of the generator", off, bound)
        for number, gradients in enumerate(measured.found, start=1):
            worst, name = error(gradients, wanted)
            yield Row(f"{update.what}: gradients, update {number}", worst, bound, f"most of it in {name}")
        if self.runtime.world_size > 1:
            worst, _ = error(measured.found[-1], measured.means)
            what = f"{update.what}: gradients minus the mean of the processes' own"
            halves = self.config.train.reduce == "bf16"
            yield Row(what, worst, BF16_REDUCTION_BOUND if halves else REDUCTION_BOUNDS[precision])
            yield Row(f"{update.what}: gradients of one process minus another's", measured.spread, 0.0)
            yield _reduced_once(update, measured.reduced, self.runtime.reduced_bytes(update.phase.parameters))

    def _gradients(self, update: Update, inputs: Inputs) -> Gradients:
        return settled(
            update.phase, lambda: self._fresh(lambda: self.phases.gradients(update.phase, inputs, update.number))
        )

    def _bytes_reduced(self, update: Update, inputs: Inputs) -> list[int]:
        """The bytes of each bucket in one more update."""
        sizes = self.runtime.count_reductions(update.phase.objective)
        sizes.clear()
        self._gradients(update, inputs)
        return list(sizes)

    def _inputs(self, phase: Phase) -> Inputs:
        keys = self.phases.keys(phase, 0, 0)
        real, labels = draw(self.config, keys, self.runtime.dtype)
        return Inputs(real.to(memory_format=torch.channels_last), labels, keys)

    def _reference(self, update: Update, fakes: Tensor) -> tuple[Gradients, Tensor]:
        """The gradients of the global batch, and the pictures that the textbook generator makes of its latents."""
        config, dtype = self.config, self.runtime.dtype
        positions = torch.arange(config.train.batch_size, device=self.runtime.device)
        keys = randomness.image_keys(randomness.key(config.seed, update.phase.name, 0, 0), positions)
        real, labels = draw(config, keys, dtype)
        batch = Batch(real.double(), fakes.double(), labels, keys)
        latent = randomness.normal(keys, "latent", (self.generator.latent,), dtype).double()
        generator, critic = textbook(self.generator), textbook(self.critic)
        if update.phase is self.phases.generator_phase:
            loss = config.objective.loss
            gradients = generator_gradients(generator, critic, latent, batch, loss=loss, augmented=self._augmented())
        else:
            settings = config.objective.model_dump(exclude={"clip", "allow_batch_norm"})
            penalise = update.number % config.objective.every == 0
            terms = critic_terms(critic, batch, **settings, penalise=penalise, augmented=self._augmented())
            count = len(keys) // unit(critic, len(keys))
            gradients = mean(tqdm(terms, total=count, unit="image", leave=False, disable=None))  # on a terminal only
        with torch.no_grad():
            return gradients, generator(latent, labels)

    def _augmented(self) -> Augmented | None:
        if self.config.augment is None:
            return None
        strength = self.phases.augmentation.strength.item()
        return functools.partial(augmented, classes=self.config.augment.classes, strength=strength)


def settled(phase: Phase, take: Callable[[], object]) -> Gradients:
    """The gradients that `take` leaves in the phase's network; with fp16, once its loss scale has come down to where
    they do not overflow."""
    while True:
        take()
        found = gradients_of(phase.network)
        phase.scaler.update()
        finite = all(bool(gradient.isfinite().all()) for gradient in found.values())
        if finite or not phase.scaler.is_enabled() or phase.scaler.get_scale() < 2.0**-10:
            return found


def local_means(runtime: Runtime, phase: Phase, take: Callable[[], object]) -> Gradients:
    """The mean over the processes of the gradients that `take` leaves unreduced on each, without DDP."""
    take()
    own = gradients_of(phase.network)
    phase.scaler.update()
    return {name: runtime.mean(gradient) for name, gradient in own.items()}


def _reduced_once(update: Update, reduced: list[int], wanted: int) -> Row:
    """Every parameter of the network once, and nothing else: `wanted` bytes."""
    note = f"{sum(reduced):,} bytes in {len(reduced)} bucket{'s' * (len(reduced) != 1)}, {wanted:,} of parameters"
    return Row(f"{update.what}: bytes sent by DDP beyond once each", abs(sum(reduced) - wanted), 0.0, note)


def draw(config: Config, keys: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Pictures [n, C, H, W] in [-1, 1] and labels [n], or None without classes, that follow from image keys [n]."""
    data = config.data
    shape = (data.channels, data.resolution, data.resolution)
    real = randomness.normal(keys, "real of a check", shape, dtype).tanh()
    if not data.classes:
        return real, None
    return real, (randomness.uniform(keys, "label of a check") * data.classes).long()


def stir(generator: nn.Module, critic: nn.Module, config: Config) -> None:
    """Makes new networks like trained ones: no parameter is zero, all classes differ, and the gradients of the critic
    have norms near twice what the penalty asks for, so that every penalty has something to say."""
    for network in (generator, critic):
        for name, parameter in network.named_parameters():
            _disturb(parameter, randomness.key(config.seed, "stir", name))
    if not PENALTIES[config.objective.penalty][0]:
        return
    norm = _mean_norm(textbook(critic), config)
    if not norm > 0:  # a critic that is flat stays so
        return
    factor = 2.0 ** round(math.log2(2 * max(config.objective.target, 0.5) / norm))  # the same on unlike processes
    with torch.no_grad():
        for parameter in critic.score.parameters():
            parameter.mul_(factor)


@torch.no_grad()
def _disturb(parameter: nn.Parameter, base: int) -> None:
    """Adds a tenth of the parameter's spread, or of 1 where all its values are the same."""
    keys = randomness.image_keys(base, torch.arange(1, device=parameter.device))
    spread = parameter.std().item() if parameter.numel() > 1 else 0.0
    parameter.add_(0.1 * (spread or 1.0) * randomness.normal(keys, "stir", tuple(parameter.shape), parameter.dtype)[0])


def _mean_norm(critic: nn.Module, config: Config) -> float:
    """Of the gradients of a textbook critic's scores at a few drawn pictures."""
    group = unit(critic, 4)
    positions = torch.arange(group * -(-4 // group), device=next(critic.parameters()).device)
    keys = randomness.image_keys(randomness.key(config.seed, "stir"), positions)
    real, labels = draw(config, keys, torch.float64)
    terms = critic_terms(critic, Batch(real, real, labels, keys), penalty="r1")
    return torch.cat([term.norms for term in terms]).mean().item()
