"""The loop: phases that update a network each, and what is done now and then beside them."""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path

import torch

from distgan import checkpoint, randomness
from distgan.assembly import make_critic, make_generator
from distgan.averaging import WeightAverage
from distgan.config import Config
from distgan.data.dataset import Dataset
from distgan.data.place import Place
from distgan.data.stream import BatchStream
from distgan.errors import ConfigError, DataError, Diverged, RunFolderError, UserError
from distgan.periodic import Clock, Periodic, TimeLimit
from distgan.phases import Inputs, Phase, Phases
from distgan.recorder import Recorder
from distgan.run_folder import RunFolder
from distgan.runtime import Runtime, Vote, parameters
from distgan.schedules import ema_decay
from distgan.stopping import StopSignals
from distgan.tracking.meter import REPLACED, Meter
from distgan.weights import checksum, is_finite

_ADVICE = "the run has diverged. Try a lower learning rate; the newest checkpoint is from before"


_NONE, _NONE_WHOLE = -1, -2
"""Instead of the step of a checkpoint: there is none, or all are damaged."""


class Trainer:
    """A run, from its first step or its newest checkpoint to its end."""

    def __init__(self, config: Config, runtime: Runtime, dataset: Dataset, folder: RunFolder) -> None:
        self.config, self.runtime, self.dataset, self.folder = config, runtime, dataset, folder
        self.generator = runtime.place(make_generator(config)).train()
        self.critic = runtime.place(make_critic(config)).train()
        self.average = WeightAverage(self.generator)
        self.phases = Phases(config, runtime, self.generator, self.critic)
        self.meter = Meter(runtime.device)
        self.state = checkpoint.TrainState(
            networks={
                checkpoint.GENERATOR: self.generator,
                checkpoint.GENERATOR_EMA: self.average.network,
                checkpoint.CRITIC: self.critic,
            },
            optimizers={phase.name: phase.optimizer for phase in self.phases},
            scalers={phase.name: phase.scaler for phase in self.phases},
            progress=checkpoint.Progress(),
        )
        self._inputs: Inputs | None = None
        self._first_step = self._saved_step = 0
        every = config.checkpoint.keep_every
        self.writer = checkpoint.Writer(
            folder.checkpoints,
            keep=config.checkpoint.keep,
            every=None if every is None else every.steps(config.images_per_step),
            before=self._require_lines,
        )
        self.recorder = Recorder(config, folder, self.progress, runtime.world_size, runtime.is_main)

    @property
    def progress(self) -> checkpoint.Progress:
        return self.state.progress

    def fit(self, signals: StopSignals, *, allow_other_data: bool = False, init_from: Path | None = None) -> str:
        """Trains to `train.length`, or until a signal or `train.max_time` asks to stop. Returns `finished` or
        `preempted`. A run without a checkpoint begins with the weights of the checkpoint `init_from`.

        Raises UserError for what the user can mend. Once training has begun the run folder's status is then `failed`.
        """
        self._resume(allow_other_data, init_from)
        status = "failed"
        try:
            self.recorder.start(self.average.network, self.dataset, self._summary())
            status = self._train(signals)
        finally:
            self.writer.close()
            self.recorder.close(status)
        return status

    def _train(self, signals: StopSignals) -> str:
        clock, total, stop = Clock(self.progress.seconds), self.config.total_steps, False
        max_time = self.config.train.max_time
        limit = TimeLimit(max_time and max_time.seconds, signals.began)
        with contextlib.closing(self._stream()) as stream:
            line, sample, save = self._jobs(stream, clock)
            vote = Vote(
                self.runtime.world_size,
                lambda: (signals.asked or limit.is_up(self.writer.slowest), save.is_late(clock.since_save())),
            )
            while self.progress.step < total and not stop:
                self._step(stream, vote)
                limit.stepped()
                stop, late = vote.result()
                for job in (line, sample, save):
                    if job.is_due(self.progress.step) or (job is save and (stop or late)):
                        job.action()
            if self.progress.step == total:
                self._complete(line, sample, save)
        self.writer.finish()
        return "finished" if self.progress.step == total else "preempted"

    def _complete(self, line: Periodic, sample: Periodic, save: Periodic) -> None:
        """What the last step has although it was not due, or an earlier start was killed before it.

        The checkpoint comes before the line, whose metrics it so still holds: a run that is made longer later then
        writes the lines of one that always was.
        """
        for job in (save, line, sample):
            if not job.is_due(self.progress.step) or self.progress.step == self._first_step:
                job.action()

    def _jobs(self, stream: BatchStream, clock: Clock) -> tuple[Periodic, Periodic, Periodic]:
        """What is done now and then, in this order: a checkpoint does not hold the metrics of a line before it."""
        config = self.config

        def line() -> None:
            self.progress.seconds = clock.seconds()
            self.meter.fold(self.runtime.reduce)
            metrics = {**self.meter.take(), **self.phases.scaling(self.progress.tried), **self._replaced(stream)}
            self.recorder.line(self.progress, metrics, stream.wait_seconds)
            self._check_finite(metrics)

        def sample() -> None:
            self.recorder.sample(self.progress.step, self.average.network)

        def save() -> None:
            if self.progress.step == self._saved_step:
                return
            self.progress.seconds = clock.seconds()
            self.meter.fold(self.runtime.reduce)
            self._check_finite(self.meter.peek())
            broken = [file for file, network in self.state.networks.items() if not is_finite(network)]
            if broken:
                raise Diverged(f"step {self.progress.step}: weights of {', '.join(broken)} are not finite; {_ADVICE}")
            self._save()
            clock.saved()

        return (
            Periodic.of(config.tracking.every, config.images_per_step, line),
            Periodic.of(config.samples.every, config.images_per_step, sample),
            Periodic.of(config.checkpoint.every, config.images_per_step, save),
        )

    def _replaced(self, stream: BatchStream) -> dict[str, float]:
        """With data.bad_pictures replace: bad pictures that this start has replaced, of all processes. Raises
        DataError, on all of them, when there are too many."""
        data = self.config.data
        if data.bad_pictures != "replace":
            return {}
        found = len(self.runtime.union(stream.replaced))
        if found > data.bad_limit:
            raise DataError(
                f"{found} bad pictures were replaced, more than data.bad_limit {data.bad_limit}; look at the shards "
                "with `distgan doctor --data`, and make them again"
            )
        return {REPLACED: found}

    def _check_finite(self, metrics: dict[str, float]) -> None:
        """Raises UserError, on all processes alike, before broken weights replace whole ones.

        With fp16 a single infinity is no failure: the scaler skips that update. One that skips nearly all is.
        """
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        if broken and self.config.train.precision != "fp16":
            raise Diverged(f"step {self.progress.step}: {', '.join(broken)} is not finite; {_ADVICE}")
        for name in self.phases.hopeless(self.progress.tried):
            raise Diverged(
                f"step {self.progress.step}: nearly every update of the {name} overflows fp16; use train.precision: "
                f"bf16, or where it had trained before: {_ADVICE}"
            )

    def _step(self, stream: BatchStream, vote: Vote) -> None:
        """`critic_steps` updates of the critic and one of the generator, beside which the processes vote."""
        done = self.progress.step / self.config.total_steps
        for phase in self.phases:
            if not phase.fresh_reals:
                vote.cast()
            self.phases.begin(phase, done)
            for repeat in range(phase.repeats):
                inputs = self._read(phase, repeat, stream)
                for metrics, share in self.phases.gradients(phase, inputs, self.progress.step * phase.repeats + repeat):
                    self.meter.add(metrics, share)
                self.phases.apply(phase)
                self.progress.tried[phase.name] += 1
        self.progress.step += 1
        self.progress.images += self.config.images_per_step
        train = self.config.train
        decay = ema_decay(train.ema_kimg, train.ema_rampup, self.config.images_per_step, self.progress.images)
        self.average.update(self.generator, decay)

    def _read(self, phase: Phase, repeat: int, stream: BatchStream) -> Inputs:
        keys = self.phases.keys(phase, self.progress.step, repeat)
        if not phase.fresh_reals:
            return self._inputs._replace(keys=keys)
        batch = next(stream)
        labels = batch.labels.to(self.runtime.device, non_blocking=True) if self.config.data.classes else None
        real = self.runtime.images(batch.pixels)
        if self.config.data.flip:
            mirrored = randomness.uniform(keys, "flip") < 0.5
            real = torch.where(mirrored[:, None, None, None], real.flip(-1), real)
        self._inputs = Inputs(real, labels, keys)
        return self._inputs

    def _stream(self) -> BatchStream:
        runtime = self.runtime
        place = Place(
            rank=runtime.rank,
            world_size=runtime.world_size,
            device=str(runtime.device),
            local_rank=runtime.local_rank,
            local_size=runtime.local_size,
            cores=runtime.cores,
            share=runtime.share_on_machine,
            union=runtime.union,
        )
        return self.dataset.stream(self.config.train.batch_size, self.config.seed, self.progress.images, place)

    def _resume(self, allow_other_data: bool, init_from: Path | None) -> None:
        """Goes on from the newest whole checkpoint, if there is one. Raises UserError when the processes found
        different ones, ConfigError when it was trained on other pictures."""
        newest, data = self._newest(), self.dataset.fingerprint
        if newest is not None:
            extra = checkpoint.load(newest, self.state)
            self.meter.load(extra.get("meter"))
            if init_from is not None and self.runtime.is_main:
                _tell(f"{self.folder.path} goes on from its own checkpoint; --init-from was for its first start")
            if self.progress.data not in (None, data) and not allow_other_data:
                raise ConfigError(
                    f"{self.folder.path} was trained on other pictures than data.shards names now; use another run_dir"
                    ", or --allow-config-change"
                )
        elif init_from is not None:
            self.progress.init = checkpoint.load_weights(init_from, self.state)
        if self.progress.step > self.config.total_steps:
            raise ConfigError(
                f"train.length: {self.config.train.length} is {self.config.total_steps} steps, and "
                f"{self.folder.path} has {self.progress.step} already; give a longer one, or another run_dir"
            )
        if self.progress.data != data:
            self.progress.real_diversity = None  # of other pictures
        self.progress.data = data
        self.progress.judge_by(self.config.checkpoint.best, self.config.checkpoint.best_is)
        self.progress.tried = {phase.name: self.progress.tried.get(phase.name, 0) for phase in self.phases}
        self._first_step = self._saved_step = self.progress.step
        self._require_one_state()

    def _newest(self) -> Path | None:
        """The newest whole checkpoint as the main process finds it; one reads all of it, and the others take it."""
        refused: list[UserError] = []

        def find() -> int:
            try:
                newest = checkpoint.newest_complete(self.folder.checkpoints, _tell)
            except UserError as error:
                refused.append(error)
                return _NONE_WHOLE
            return _NONE if newest is None else int(newest.name)

        step = self.runtime.from_main(find)
        if step == _NONE_WHOLE:
            raise refused[0] if refused else RunFolderError(f"no checkpoint in {self.folder.checkpoints} is whole")
        return None if step == _NONE else self.folder.checkpoint(step)

    def _require_one_state(self) -> None:
        """Raises UserError unless all processes read the same pictures and the same state."""
        if not self.runtime.agree([int(self.progress.data[:12], 16)]):
            raise DataError(
                "the processes found different pictures in data.shards; they must be the same on all machines"
            )
        weights = [checksum(network) for network in self.state.networks.values()]
        if not self.runtime.agree([self.progress.step, self.progress.images, *weights]):
            raise UserError(
                f"the processes found different states in run_dir {self.folder.path}, this one step "
                f"{self.progress.step}; it must be one folder on a file system that all machines share"
            )

    def _save(self) -> None:
        self.progress.note_checkpoint()
        if self.runtime.is_main:
            self.writer.save(self.state, {"meter": self.meter.state()})
        self._saved_step = self.progress.step

    def _require_lines(self, step: int) -> None:
        """Raises UserError while lines up to `step` are not on the disk: a run going on from there would lack them."""
        if not self.recorder.sync_lines(step):
            raise UserError(f"checkpoint {self.folder.checkpoint(step)}: waits for the lines of {self.folder.metrics}")

    def _summary(self) -> str:
        runtime, config = self.runtime, self.config
        local, at_once = self.phases.local, self.phases.micro_batch
        micro = f", {at_once} at a time" if at_once < local else ""
        return "\n".join(
            [
                f"processes  {runtime.world_size} on {runtime.device.type}, {config.train.precision}"
                + (", compiled" if runtime.compiles else ""),
                f"data       {self.dataset.summary()}",
                f"batch      {config.train.batch_size} over all processes, {local} on each{micro}",
                f"parameters generator {parameters([self.generator]):,}, critic {parameters([self.critic]):,}",
                f"run        {self.folder.path}, step {self.progress.step} to {config.total_steps}",
            ]
        )


def _tell(line: str) -> None:
    print(f"distgan: {line}", file=sys.stderr, flush=True)
