"""The loop: phases that update a network each, and what is done now and then beside them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from distgan import checkpoint, exit_status
from distgan.adaptation import Adaptation
from distgan.assembly import generator_settings, make_critic, make_generator
from distgan.averaging import WeightAverage
from distgan.bad_numbers import BadUpdate, Update
from distgan.config import Config
from distgan.data.dataset import Dataset
from distgan.errors import Diverged, UserError
from distgan.evidence import Evidence, way_out
from distgan.inputs import Inputs, Noise
from distgan.judging import Judging
from distgan.measurements import Measurements
from distgan.overview import overview
from distgan.periodic import Clock, Periodic, TimeLimit
from distgan.phases import Phase, Phases
from distgan.reading import Reader
from distgan.recorder import Recorder
from distgan.restoring import Restorer
from distgan.run_folder import RunFolder
from distgan.runtime import Runtime, Vote
from distgan.schedules import ema_decay
from distgan.stages import Stages
from distgan.stopping import StopSignals
from distgan.tracking.meter import Meter, Metrics
from distgan.tracking.names import HISTOGRAM, REPLACED
from distgan.trouble import tell

_ADVICE = "the run has diverged. Try a lower learning rate"


class Trainer:
    """A run, from its first step or its newest checkpoint to its end."""

    def __init__(self, config: Config, runtime: Runtime, dataset: Dataset, folder: RunFolder) -> None:
        self.config, self.runtime, self.dataset, self.folder = config, runtime, dataset, folder
        self._course = config.course
        self.generator = runtime.place(make_generator(config)).train()
        self.critic = runtime.place(make_critic(config)).train()
        self.average = WeightAverage(self.generator)
        self.phases = Phases(config, runtime, self.generator, self.critic)
        self.meter = Meter(runtime.device)
        self.reader = Reader(config, runtime, self.phases, dataset)
        self.adaptation = Adaptation(config, runtime, self.phases, self.reader, dataset)
        self.measurements = Measurements(config, runtime, self.phases, self.reader, self.average.network)
        self.state = checkpoint.TrainState(
            networks={
                checkpoint.GENERATOR: self.generator,
                checkpoint.GENERATOR_EMA: self.average.network,
                checkpoint.CRITIC: self.critic,
            },
            optimizers={phase.name: phase.optimizer for phase in self.phases},
            scalers={phase.name: phase.scaler for phase in self.phases},
            progress=checkpoint.Progress(),
            generator_settings=generator_settings(config),
        )
        self.stages = Stages(config, self.phases, self.state, self.average.network)
        self.judging = Judging(config, runtime, dataset, self._mark)
        self._first_step = self._saved_step = 0
        self.steps_taken = 0
        """By this start."""
        self._save_is_late: Callable[[], bool] = lambda: False
        self.writer = checkpoint.Writer(
            folder.checkpoints,
            keep=config.checkpoint.keep,
            stretch=self._stretches(),
            before=self._require_lines,
            after=lambda path: self.recorder.checkpoint(path),  # there is no recorder yet
        )
        self.restorer = Restorer(config, runtime, folder, self.state, self.meter, self.adaptation, self.writer)
        self.recorder = Recorder(config, folder, self.progress, runtime.world_size, runtime.is_main)

    def _stretches(self) -> Callable[[int], int] | None:
        """In which of the stretches of checkpoint.keep_every a step lies."""
        every, course = self.config.checkpoint.keep_every, self._course
        return None if every is None else lambda step: course.count(every, step)

    @property
    def progress(self) -> checkpoint.Progress:
        return self.state.progress

    @property
    def _raw(self) -> nn.Module | None:
        """The generator whose pictures are shown beside its average's; None where the average is the same."""
        return self.generator if self.config.train.ema_kimg else None

    def fit(self, signals: StopSignals, *, allow_other_data: bool = False, init_from: Path | None = None) -> str:
        """Trains to `train.length`, or until a signal or `train.max_time` asks to stop. Returns `finished` or
        `preempted`. A run without a checkpoint begins with the weights of the checkpoint `init_from`.

        Raises UserError for what the user can mend. Once training has begun the run folder's status is then `failed`.
        """
        self._mark("resuming")
        self.restorer.resume(self.dataset.fingerprint, allow_other_data=allow_other_data, init_from=init_from)
        self.stages.enter()
        exit_status.way_on = self.folder.way_on
        self._first_step = self._saved_step = self.progress.step
        self.phases.guard.in_a_row.update(self.progress.skipped_in_a_row)
        self.phases.settle()
        status = "failed"
        self._mark("starting")
        try:
            self.recorder.start(
                self.average.network,
                self.dataset,
                overview(self.phases, self.dataset, self.folder.path, self.progress.step),
                self._raw,
            )
            if self.progress.step < self.config.total_steps:
                self.judging.prepare(lambda: signals.asked)
            status = self._train(signals)
        finally:
            self._mark("closing the record")
            self.writer.close()
            self.recorder.close(status)
        return status

    def _mark(self, doing: str, phase: str = "", update: int = 0) -> None:
        """Tells the watchdog where this process is: `phase` and `update` inside the step that is under way."""
        self.runtime.watchdog.mark(self.progress.step + bool(phase), doing, phase, update)

    def _train(self, signals: StopSignals) -> str:
        max_time = self.config.train.max_time
        limit = TimeLimit(max_time and max_time.seconds, signals.began)
        vote = Vote(
            self.runtime.world_size,
            lambda: (self._is_to_stop(signals, limit), self._save_is_late()),
            self.runtime.timeout,
        )
        while True:
            try:
                status = self._train_on(vote, limit)
                self._mark("waiting for the last checkpoint")
                self.writer.finish()
                return status
            except BadUpdate as bad:
                self._answer(bad.with_traceback(None))  # whose frames hold what other stages have to let go of
            except Diverged as error:
                with contextlib.suppress(UserError):
                    self.writer.finish()
                raise Diverged(f"{error}; {self.folder.newest_told()}") from None

    def _is_to_stop(self, signals: StopSignals, limit: TimeLimit) -> bool:
        """Notes train.max_time as the reason where it is the first."""
        if signals.asked:
            return True
        if is_up := limit.is_up(self.writer.slowest):
            signals.reason = "train.max_time"
        return is_up

    def _train_on(self, vote: Vote, limit: TimeLimit) -> str:
        """From where the progress stands. Raises BadUpdate, on all processes alike."""
        clock, stop = Clock(self.progress.seconds), False
        while not stop:
            if self._course.stage(self.progress.step) != self.phases.stage:
                self._mark("growing")
                self.phases.guard.look()  # what it does not know yet would be forgotten
                self.stages.enter()
            stop = self._train_stage(vote, limit, clock) or self.progress.step == self._course.steps
        return "finished" if self.progress.step == self._course.steps else "preempted"

    def _train_stage(self, vote: Vote, limit: TimeLimit, clock: Clock) -> bool:
        """To the end of the stage, or until it is to stop, which is returned."""
        stop = False
        held_out = self.measurements.held_out_before(self.progress.step)
        with self.reader.at(self.progress.images, held_out), self.adaptation.at(self.progress.step):
            line, sample, save = self._jobs(clock)
            self._save_is_late = lambda: save.is_late(clock.since_save()) or self._must_measure(limit)
            while self.progress.step < self.phases.stage.last and not stop:
                self._step(vote)
                limit.stepped()
                self._mark("agreeing with the others to go on")
                stop, late = vote.result()
                evaluated = self.measurements.is_evaluation_due(self.progress.step)
                judged = evaluated and self.progress.is_judged_by_evaluations
                for job, also in ((line, evaluated), (sample, False), (save, stop or late or judged)):
                    if also or job.is_due(self.progress.step):
                        job.action()
            if self.progress.step == self._course.steps:
                self._complete(line, sample, save)
        return stop

    def _must_measure(self, limit: TimeLimit) -> bool:
        """Whether to save at once, so that `limit` knows how long that takes on this disk, now."""
        none_yet = self.runtime.is_main and self._saved_step == self._first_step
        return none_yet and limit.is_guessing(self.writer.slowest)

    def _complete(self, line: Periodic, sample: Periodic, save: Periodic) -> None:
        """What the last step has although it was not due, or an earlier start was killed before it.

        The checkpoint comes before the line, whose metrics it so still holds: a run that is made longer later then
        writes the lines of one that always was.
        """
        evaluated = self.measurements.is_evaluation_due(self.progress.step)
        for job in (save, line, sample):
            is_done = job.is_due(self.progress.step) or (job is line and evaluated)
            if not is_done or self.progress.step == self._first_step:
                job.action()

    def _jobs(self, clock: Clock) -> tuple[Periodic, Periodic, Periodic]:
        """What is done now and then, in this order: a checkpoint does not hold the metrics of a line before it."""
        config, stage = self.config, self.phases.stage

        def line() -> None:
            self._mark("writing a line of metrics")
            self.phases.guard.look()
            before = clock.seconds()
            judged = self._evaluations()
            self.progress.seconds = clock.seconds()
            self.meter.fold(self.runtime.reduce)
            metrics = {**self.meter.take(), **self.phases.scaling(self.progress.tried)}
            if (replaced := self.reader.count_replaced()) is not None:
                metrics[REPLACED] = replaced
            measured, waited = self.measurements.take(self.progress.step)
            self.recorder.line(
                self.progress,
                metrics | measured | self.adaptation.metrics() | judged,
                waited,
                self.progress.seconds - before,
            )
            self._check_finite(metrics)

        def sample() -> None:
            self._mark("drawing samples")
            self.recorder.sample(self.progress.step, self.average.network, self._raw)

        def save() -> None:
            self.phases.guard.look()  # a checkpoint after a bad update would be one to go back to
            if self.progress.step == self._saved_step:
                return
            self._mark("saving a checkpoint")
            self.progress.seconds = clock.seconds()
            self.meter.fold(self.runtime.reduce)
            self._check_finite(self.meter.peek())
            if broken := self.state.broken():
                raise Diverged(f"step {self.progress.step}: {', '.join(broken)} are not finite; {_ADVICE}")
            self._save()
            clock.saved()

        return (
            Periodic.of(config.tracking.every, stage.images_per_step, line, stage.first),
            Periodic.of(config.samples.every, stage.images_per_step, sample, stage.first),
            Periodic.of(config.checkpoint.every, stage.images_per_step, save, stage.first, stage.last),
        )

    def _evaluations(self) -> dict[str, float]:
        """How good the pictures of now are, where that is to be measured."""
        step = self.progress.step
        if not self.measurements.is_evaluation(step):
            return {}
        # A run that was finished already has its last line, unless it was killed before it.
        if step == self._first_step and not self.runtime.from_main(lambda: int(self.recorder.wants_line(step))):
            return {}
        return self.judging.of(self.average.network)

    def _check_finite(self, metrics: Metrics) -> None:
        """Raises UserError, on all processes alike, before broken weights replace whole ones.

        With fp16 a single infinity is no failure: the scaler skips that update. One that skips nearly all is.
        """
        broken = [name for name, value in metrics.items() if name != HISTOGRAM and not math.isfinite(value)]
        if broken and self.config.train.precision != "fp16":
            raise Diverged(f"step {self.progress.step}: {', '.join(broken)} is not finite; {_ADVICE}")
        for name in self.phases.hopeless(self.progress.tried):
            raise Diverged(
                f"step {self.progress.step}: nearly every update of the {name} overflows fp16; use train.precision: "
                f"bf16, or where it had trained before: {_ADVICE}"
            )

    def _step(self, vote: Vote) -> None:
        """`critic_steps` updates of the critic and one of the generator, beside which the processes vote."""
        done = self.progress.step / self._course.steps
        self.phases.grow(self.progress.step)
        noise = self.phases.noise(self.progress.step, self.progress.rollbacks)
        for phase in self.phases:
            if not phase.fresh_reals:
                vote.cast()
            self.phases.begin(phase, done)
            for repeat in range(phase.repeats):
                self._mark("reading the batch", phase.name, repeat + 1)
                inputs = self._read(phase, noise[phase.name][repeat])
                self._mark("gradients", phase.name, repeat + 1)
                found = self.phases.gradients(phase, inputs, self.progress.step * phase.repeats + repeat)
                self._mark("applying them", phase.name, repeat + 1)
                told = repeat + 1 == phase.repeats and self.measurements.is_line(self.progress.step + 1)
                with self.measurements.watching(phase) if told else contextlib.nullcontext():
                    left_out = self.phases.apply(phase, self._update(phase, repeat, inputs, found))
                for metrics, share in found:
                    self.meter.add(metrics, share, left_out)
                self.progress.tried[phase.name] += 1
        images, train = self.phases.stage.images_per_step, self.config.train
        self.progress.step += 1
        self.steps_taken += 1
        self.progress.images += images
        decay = ema_decay(train.ema_kimg, train.ema_rampup, images, self.progress.images)
        self.average.update(self.generator, decay)
        self.adaptation.after(self.progress.step)
        self.phases.guard.end_step()

    def _update(
        self, phase: Phase, repeat: int, inputs: Inputs, found: list[tuple[dict[str, Tensor], float]]
    ) -> Update:
        """What is to be known of an update if it is bad."""
        batch = repeat if phase.fresh_reals else self.phases.critic_phase.repeats - 1
        augmentation = self.phases.augmentation
        return Update(
            phase=phase.name,
            step=self.progress.step,
            number=repeat + 1,
            position=self.progress.images + batch * self.phases.stage.batch_size,
            learning_rate=phase.optimizer.param_groups[0]["lr"],
            labels=inputs.labels,
            losses=[(metrics[f"{phase.name}/loss"], share) for metrics, share in found],
            strength=None if augmentation is None else augmentation.strength.clone(),
        )

    def _read(self, phase: Phase, noise: Noise) -> Inputs:
        if not phase.fresh_reals:
            return self.reader.newest._replace(keys=noise.keys, latent=noise.latent)
        return self.reader.read(noise)

    def _answer(self, bad: BadUpdate) -> None:
        """Goes back to the newest checkpoint where the config says so. Else keeps what is needed to study the update,
        and raises Diverged. The same on all processes."""
        self._mark("answering bad numbers")
        evidence, train = Evidence(bad, self.runtime), self.config.train
        newest = refusal = None
        try:
            newest = self.restorer.newest()
        except UserError as error:  # the same on all; the evidence is to be kept all the same
            refusal = error
        made = max(self.progress.rollbacks, self.runtime.from_main(self.folder.rollbacks_made))  # by killed starts too
        if train.bad_numbers == "rollback" and newest is not None and made < train.rollbacks:
            self.recorder.rolls_back(made + 1)
            self.restorer.go_back(newest)
            self.phases.reset()
            self.stages.enter()
            self.reader.forget()
            self._first_step = self._saved_step = self.progress.step
            self.recorder.rewind(self.progress.step)
            if self.runtime.is_main:
                tell(f"{evidence}; rollback {made + 1} of {train.rollbacks}, to step {self.progress.step}")
            return
        kept = evidence.keep(self.folder, self.phases, self.dataset, self.progress)
        advice = refusal or way_out(train, -1 if newest is None else int(newest.name))
        raise Diverged(f"{evidence}; {kept}. {advice}")

    def _save(self) -> None:
        self.progress.note_checkpoint()
        self.progress.skipped_in_a_row = dict(self.phases.guard.in_a_row)
        if self.runtime.is_main:
            self.writer.save(self.state, {"meter": self.meter.state(), **self.adaptation.state()})
        self._saved_step = self.progress.step

    def _require_lines(self, step: int) -> None:
        """Raises UserError while lines up to `step` are not on the disk: a run going on from there would lack them."""
        if not self.recorder.sync_lines(step):
            raise UserError(f"checkpoint {self.folder.checkpoint(step)}: waits for the lines of {self.folder.metrics}")
