"""The updates of a step as data, and the gradients of a global batch, for training and `distgan doctor` alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from distgan import randomness
from distgan.assembly import make_augmentation, make_critic_objective, make_generator_objective, make_optimizer
from distgan.bad_numbers import Guard, Update
from distgan.config import Config
from distgan.config.families import Schedule
from distgan.config.growing import Stage
from distgan.inputs import Inputs, Noise
from distgan.networks.growth import growth_of, in_use
from distgan.runtime import Runtime
from distgan.schedules import learning_rate
from distgan.weights import clamp

LEAST_SCALE = 2.0**-10
"""The loss scale of fp16 goes no lower: gradients would vanish, and what still overflows is not in the backward."""

JUDGED = 20
"""Updates over which it is judged whether a network can be trained in fp16 at all."""


@dataclass
class Phase:
    """An update as data: whose parameters, by what objective, how often in a step."""

    name: str
    network: nn.Module
    parameters: list[nn.Parameter]
    """Those of the network that are in use."""
    objective: nn.Module
    """The whole loss as one module, under DDP."""
    arguments: Callable[[Inputs, int], dict]
    """What the objective is called with, from a micro-batch and the number of the update."""
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    """Of the whole loss, with fp16; otherwise it does nothing."""
    schedule: Schedule
    repeats: int = 1
    fresh_reals: bool = True
    """Whether each update reads the next batch of the stream, or works on the one before."""
    clip: float | None = None
    """Parameters are clamped to [-clip, clip] after an update (WGAN algorithm 1, line 7)."""

    def keep(self, moments: dict, scaling: dict) -> None:
        """Goes on with what another optimiser of the network and its scaler have as their state."""
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(scaling)


def gradients(
    runtime: Runtime, phase: Phase, inputs: Inputs, update: int, micro_batch: int, *, reduced: bool = True
) -> list[tuple[dict[str, Tensor], float]]:
    """Leaves in `.grad` the gradient of the mean loss over the global batch, the same on all processes; returns the
    metrics of each micro-batch with its share of this process's images.

    A micro-batch counts by that share; only the last one's backward is reduced over the processes. `reduced` False
    leaves the gradient of this process's images alone. A loss that is not finite has a gradient that is not, on all
    processes.
    """
    phase.optimizer.zero_grad()
    parts, found = list(inputs.split(micro_batch)), []
    for number, part in enumerate(parts, start=1):
        share = len(part.keys) / len(inputs.keys)
        arguments = phase.arguments(part, update)
        with runtime.without_reduction(phase.objective, number < len(parts) or not reduced):
            with runtime.autocast():
                loss, metrics = phase.objective(**arguments)
            phase.scaler.scale(loss * _if_finite(share, loss)).backward()
        found.append((metrics, share))
    phase.scaler.unscale_(phase.optimizer)  # an overflow on one process is reduced to all, so that all skip alike
    return found


class Phases:
    """The phases of a step, in their order, over networks that `runtime` has placed; of one stage of the run."""

    def __init__(self, config: Config, runtime: Runtime, generator: nn.Module, critic: nn.Module) -> None:
        self.config, self.runtime, self.generator = config, runtime, generator
        self.critic, self.stage = critic, None
        augmentation = make_augmentation(config)
        self.augmentation = None if augmentation is None else augmentation.to(runtime.device)
        """Of both objectives; its strength may be changed between two updates."""
        self.guard = Guard(config.train.bad_numbers, runtime.device)
        self.enter(config.course.stage(0))

    def enter(self, stage: Stage) -> None:
        """From now on the updates are those of this stage of the run, by new optimisers: at the resolution of the
        stage, of the parameters that are in use there, with its batch."""
        runtime = self.runtime
        if self.stage is not None:
            self.critic_phase = self.generator_phase = self._draw = None
            runtime.unwrap()
        self.stage = stage
        self.grow(stage.first)
        self.local = stage.batch_size // runtime.world_size
        self.micro_batch = min(self.config.train.micro_batch or self.local, self.local)
        self.positions = runtime.rank * self.local + torch.arange(self.local, device=runtime.device)
        self._hashed = randomness.hashed(self.positions)
        for network in (self.generator, self.critic):
            network.requires_grad_(False)
            for parameter in in_use(network):
                parameter.requires_grad = True
        self._draw = runtime.compiled(self.generator.forward)
        self.critic_phase = self._critic_phase(self.critic)
        self.generator_phase = self._generator_phase(self.critic)
        self.reset()

    def grow(self, step: int) -> None:
        """The newest layers have now come in as far as they are to at `step` of this stage."""
        self.share = self.stage.share(step)
        self.grow_too(self.generator)
        self.grow_too(self.critic)

    def grow_too(self, network: nn.Module) -> None:
        """The network is now as far as this stage is, whatever a checkpoint made of it; nothing to do for one that
        cannot grow."""
        if (growth := growth_of(network)) is not None:
            growth.set_to(self.stage.resolution, self.share, grows=self.config.growing is not None)

    def reset(self) -> None:
        """Forgets all updates so far: the networks are now those of another step."""
        self._judged: dict[str, tuple[int, int, bool]] = {}
        self.guard.reset()

    def settle(self) -> None:
        """One update of each network that is thrown away, at the beginning of a start.

        DDP lays its buckets out anew after its first backward, by the order in which gradients came, and over more than
        two processes the place in a bucket decides in which order a gradient is added up. Without this the first
        update of a start that resumes would differ in its last bits from that of a run that never stopped.
        """
        if self.runtime.world_size == 1:
            return
        buffers = [buffer for phase in self for buffer in phase.network.buffers()]
        kept = [buffer.clone() for buffer in buffers]
        for phase in self:
            self.begin(phase, 0.0)
            with self.runtime.autocast():
                loss, _ = phase.objective(**phase.arguments(self._blank(phase), 0))
            loss.backward()
            phase.optimizer.zero_grad()
        for buffer, value in zip(buffers, kept, strict=True):
            buffer.copy_(value)

    def _blank(self, phase: Phase) -> Inputs:
        """A micro-batch of grey pictures."""
        data, keys = self.config.data, self.keys(phase, 0, 0)[: self.micro_batch]
        shape = (len(keys), data.channels, self.stage.resolution, self.stage.resolution)
        real = torch.zeros(shape, dtype=self.runtime.dtype, device=self.runtime.device)
        labels = torch.zeros_like(keys) if data.classes else None
        return Inputs(real.contiguous(memory_format=torch.channels_last), labels, keys)

    def __iter__(self) -> Iterator[Phase]:
        return iter((self.critic_phase, self.generator_phase))

    def keys(self, phase: Phase, step: int, repeat: int, rollbacks: int = 0) -> Tensor:
        """Image keys [n] of this process's images in one update; other ones after each rollback."""
        return randomness.image_keys(self.batch_key(phase, step, repeat, rollbacks), self.positions)

    def batch_key(self, phase: Phase, step: int, repeat: int, rollbacks: int = 0) -> int:
        """From which, with its position in the global batch, the key of each image follows."""
        again = ("rollback", rollbacks) if rollbacks else ()
        return randomness.key(self.config.seed, phase.name, step, repeat, *again)

    def noise(self, step: int, rollbacks: int = 0) -> dict[str, list[Noise]]:
        """Of all updates of each phase in one step, drawn at once: a device takes as long to be told of one draw for
        all as of one for each."""
        updates = [(phase, repeat) for phase in self for repeat in range(phase.repeats)]
        bases = [self.batch_key(phase, step, repeat, rollbacks) for phase, repeat in updates]
        parts = iter(self.noise_of(randomness.keys_of_batches(bases, self._hashed)).split(self.local))
        return {phase.name: [next(parts) for _ in range(phase.repeats)] for phase in self}

    def noise_of(self, keys: Tensor) -> Noise:
        """What follows from image keys [n]."""
        latent = self.latent(keys) if self.micro_batch == self.local else None
        return Noise(keys, latent, randomness.uniform(keys, "flip") < 0.5 if self.config.data.flip else None)

    def begin(self, phase: Phase, done: float) -> None:
        """Only the parameters of the phase's network get gradients, at the learning rate of now (`done`: share of
        the run)."""
        for other in self:
            for parameter in other.parameters:
                parameter.requires_grad = other is phase
        schedule = phase.schedule
        for group in phase.optimizer.param_groups:
            group["lr"] = learning_rate(schedule.lr, schedule.decay, schedule.decay_start, done)

    def gradients(
        self, phase: Phase, inputs: Inputs, update: int, *, reduced: bool = True
    ) -> list[tuple[dict[str, Tensor], float]]:
        """`gradients` with the micro-batches of the config."""
        return gradients(self.runtime, phase, inputs, update, self.micro_batch, reduced=reduced)

    def apply(self, phase: Phase, update: Update | None = None) -> Tensor | None:
        """The optimiser's step with these gradients; none when they are not finite.

        With fp16 the scaler sees to that. In other precisions it is for the guard, which wants to know what `update`
        this is, and may raise; with train.bad_numbers skip, returns whether it was left out, a bool scalar.
        """
        left_out = None
        if phase.scaler.is_enabled():
            self._apply_scaled(phase)
        else:
            left_out = self.guard.step(phase.optimizer, update)
        if phase.clip is not None:
            clamp(phase.network, phase.clip)
        return left_out

    def _apply_scaled(self, phase: Phase) -> None:
        scaler = phase.scaler
        scaler.step(phase.optimizer)
        scaler.update()
        scaler.update(scaler.scale(torch.ones((), device=self.runtime.device)).clamp(min=LEAST_SCALE))

    def scaling(self, tried: dict[str, int]) -> dict[str, float]:
        """For each phase how many of the `tried` updates were skipped, where any could be, and with fp16 its loss
        scale. Waits for the device."""
        found = {}
        for phase in self:
            is_scaled = phase.scaler.is_enabled()
            if is_scaled or self.guard.policy == "skip":
                found[f"{phase.name}/skipped_updates"] = _skipped(phase, tried)
            if is_scaled:
                found[f"{phase.name}/loss_scale"] = phase.scaler.get_scale()
        return found

    def hopeless(self, tried: dict[str, int]) -> list[str]:
        """The phases that skip nearly all updates with the least loss scale there is.

        Judged are the updates since this was last answered, once they are JUDGED. Waits for the device."""
        found = []
        for phase in self:
            tried_before, skipped_before, was_least = self._judged.get(phase.name, (0, 0, False))
            since = tried[phase.name] - tried_before
            if phase.scaler.is_enabled() and since >= JUDGED:
                skipped, is_least = _skipped(phase, tried), phase.scaler.get_scale() <= LEAST_SCALE
                self._judged[phase.name] = tried[phase.name], skipped, is_least
                if was_least and is_least and skipped - skipped_before >= 0.9 * since:
                    found.append(phase.name)
        return found

    def latent(self, keys: Tensor) -> Tensor:
        """Standard normal latents [n, latent] of images of these keys."""
        return randomness.normal(keys, "latent", (self.generator.latent,), self.runtime.dtype)

    @torch.no_grad()
    def generate(self, part: Inputs, *, as_in_updates: bool = True) -> Tensor:
        """Fakes for the critic, [n, C, H, W]; without `as_in_updates` never by compiled code, which another mode of the
        generator would have compiled anew."""
        draw = self._draw if as_in_updates else self.generator
        with self.runtime.autocast():
            return draw(self._latent(part), part.labels).to(self.runtime.dtype)

    def _latent(self, part: Inputs) -> Tensor:
        return self.latent(part.keys) if part.latent is None else part.latent

    def _critic_phase(self, critic: nn.Module) -> Phase:
        config, every = self.config, self.config.objective.every

        def arguments(part: Inputs, update: int) -> dict:
            return {"fake": self.generate(part), **part.seen(), "penalise": update % every == 0}

        return Phase(
            name="critic",
            network=critic,
            parameters=in_use(critic),
            objective=self.runtime.wrap(make_critic_objective(config, critic, self.augmentation)),
            arguments=arguments,
            optimizer=make_optimizer(config.critic.optimizer, critic),
            scaler=self.runtime.make_scaler(),
            schedule=config.critic.optimizer,
            repeats=config.train.critic_steps,
            clip=config.objective.clip if config.objective.penalty == "clip" else None,
        )

    def _generator_phase(self, critic: nn.Module) -> Phase:
        config = self.config

        def arguments(part: Inputs, update: int) -> dict:
            return {"latent": self._latent(part), **part.seen()}

        return Phase(
            name="generator",
            network=self.generator,
            parameters=in_use(self.generator),
            objective=self.runtime.wrap(make_generator_objective(config, self.generator, critic, self.augmentation)),
            arguments=arguments,
            optimizer=make_optimizer(config.generator.optimizer, self.generator),
            scaler=self.runtime.make_scaler(),
            schedule=config.generator.optimizer,
            fresh_reals=False,
        )


def _if_finite(share: float, loss: Tensor) -> Tensor:
    """The share, or NaN where the loss is not finite."""
    return share + 0 * loss.detach()


def _skipped(phase: Phase, tried: dict[str, int]) -> int:
    done = next((int(fields["step"]) for fields in phase.optimizer.state.values()), 0)
    return tried[phase.name] - done
