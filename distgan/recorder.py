"""What the main process leaves in the run folder while it trains. On other processes it does nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from distgan.checkpoint import Progress
from distgan.collapse import CollapseWatch
from distgan.config import Config, dump_config
from distgan.data.dataset import Dataset
from distgan.data.urls import masked, shown
from distgan.environment import record_start
from distgan.errors import UserError
from distgan.run_folder import RunFolder, cannot_write, grids_in, write_atomically
from distgan.sampling.fixed import fixed_grid
from distgan.tracking import event_files, pictures, weights_and_biases
from distgan.tracking.background import Background
from distgan.tracking.curves import save_curves
from distgan.tracking.diversity import COUNT, spread
from distgan.tracking.json_lines import JsonLines
from distgan.tracking.names import DATA_WAIT, THROUGHPUT
from distgan.tracking.terminal import Terminal
from distgan.tracking.tracker import Sink, Tracker
from distgan.tracking.trial import trial_id
from distgan.tracking.weights_and_biases import WandbSink
from distgan.trouble import Trouble, tell

_WAITING = 256 * 10**6
"""Most bytes of pictures that wait for a disk; then the oldest one goes."""


class _Unsaved(NamedTuple):
    """A picture that is not on the disk yet: what views call it, its PNG, and the step that it shows."""

    name: str
    data: bytes
    step: int


def _main_only(method):
    """The method, on the main process."""

    @wraps(method)
    def call(self: Recorder, *args):
        return method(self, *args) if self.is_main else None

    return call


class Recorder:
    """Lines, sample grids, curves and the status of a run. Once it has begun, a disk that is full or gone ends nothing:
    that is told, and tried again."""

    def __init__(self, config: Config, folder: RunFolder, progress: Progress, world_size: int, is_main: bool) -> None:
        self.config, self.folder, self.is_main = config, folder, is_main
        self._progress, self._world_size = progress, world_size
        self._record: JsonLines | None = None
        self._views: Tracker | None = None
        self._watch: CollapseWatch | None = None
        self._pictures = Trouble(folder.samples)
        self._unsaved: dict[Path, _Unsaved] = {}
        self._last = (0, 0.0, 0.0)

    @_main_only
    def start(self, generator: nn.Module, dataset: Dataset, summary: str, raw: nn.Module | None = None) -> None:
        """Tells `summary`, writes config, environment and first pictures, and opens what receives metrics. `generator`
        and `raw`: see `sample`. Raises UserError when the disk does not take it: nothing is lost yet."""
        try:
            self._start(generator, dataset, summary, raw)
        except OSError as error:
            raise cannot_write(error.filename or self.folder.path, error) from None

    def _start(self, generator: nn.Module, dataset: Dataset, summary: str, raw: nn.Module | None) -> None:
        with contextlib.suppress(OSError):  # of stderr
            print(summary, file=sys.stderr, flush=True)
        self._last = (self._progress.images, self._progress.seconds, 0.0)
        write_atomically(self.folder.config, dump_config(self.config))
        command = [_without_secret(word, self.config) for word in sys.argv]
        start = record_start(self.folder.environment, self._progress.step, self._world_size, command)
        self.folder.write_status("running")
        self._open(self._progress.step, self.config.total_steps, start)
        self._see_reals(dataset)
        if self.config.tracking.watch:
            self._watch = CollapseWatch(self.config, generator, self._progress.real_diversity, self._record.lines())
        if self._progress.step == 0:
            self.folder.rollbacks.unlink(missing_ok=True)  # of a run whose checkpoints were removed
            self.sample(0, generator, raw)

    def _open(self, step: int, total: int, start: dict) -> None:
        """Cuts what a crash left after `step`, and opens what receives metrics."""
        progress = self._progress
        # A line that the checkpoint does not know of is one that only an early end had.
        last = step if progress.last_line is None or step == total else progress.last_line
        self._record = JsonLines(self.folder, last, (progress.lines, progress.last_line or 0))
        progress.lines, progress.last_line = self._record.count, self._record.last_step
        self._drop_samples(step)
        for part in (*self.folder.path.glob(".*.part"), *self.folder.samples.rglob(".*.part")):  # of a killed start
            part.unlink()
        self._views = Tracker([Terminal(step, total), *self._slow_views(step, start)])

    def _slow_views(self, step: int, start: dict) -> Iterator[Sink]:
        """W&B and TensorBoard, as the config has them. `start`: what environment.json says of this start."""
        config, folder, tracking = self.config, self.folder, self.config.tracking
        if tracking.tensorboard:
            yield Background(event_files.NAME, event_files.TensorBoardSink(folder, step), event_files.LATER)
        if tracking.wandb.mode != "off":
            run_id = trial_id() or self._progress.wandb_id or self._kept_id()
            self._progress.wandb_id = run_id or weights_and_biases.new_run_id()
            write_atomically(folder.wandb_id, self._progress.wandb_id + "\n")
            sink = WandbSink(_without_secrets(config), folder, self._progress.wandb_id, step, start)
            yield Background(weights_and_biases.NAME, sink, weights_and_biases.LATER)

    @_main_only
    def line(self, progress: Progress, metrics: dict[str, float], waited: float, judged: float = 0.0) -> None:
        """One line of metrics; `waited`: seconds that it has waited for data since its start, or since it went back;
        `judged`: seconds that went into evaluations and not into training."""
        if not self.wants_line(progress.step):
            return
        images, seconds, waited_before = self._last
        self._last = (progress.images, progress.seconds, waited)
        elapsed = max(progress.seconds - seconds - judged, 1e-9)
        line = {
            "step": progress.step,
            "kimg": progress.images / 1000,
            "seconds": round(progress.seconds, 3),
            **metrics,
            **(self._watch.diversity() if self._watch else {}),
            THROUGHPUT: (progress.images - images) / elapsed,
            DATA_WAIT: (waited - waited_before) / elapsed,
        }
        self._record.add(line)
        progress.lines, progress.last_line = self._record.count, self._record.last_step
        self._save_waiting()
        progress.note(line)
        self._views.metrics(line)
        if self._watch:
            self._watch.look(line)

    def wants_line(self, step: int) -> bool:
        """Whether there is none of `step` yet. To be asked on the main process."""
        return step > self._record.last_step

    @_main_only
    def sample(self, step: int, generator: nn.Module, raw: nn.Module | None = None) -> None:
        """The grid of the fixed latents, and a second one of `raw`, the generator that is trained, where `generator` is
        its running average."""
        self._save("samples", fixed_grid(generator, self.config), self.folder.sample(step), step)
        if raw is not None:
            self._save("samples/raw", fixed_grid(raw, self.config), self.folder.raw_sample(step), step)

    @_main_only
    def checkpoint(self, path: Path) -> None:
        """A checkpoint is whole. Any thread may call it."""
        if self._views is not None:
            self._views.checkpoint(path)

    @_main_only
    def rolls_back(self, made: int) -> None:
        """Keeps how many rollbacks all starts have made, the one that comes included."""
        _tell_if_fails(write_atomically, self.folder.rollbacks, f"{made}\n")

    def lines_written(self, step: int) -> bool:
        """Whether all lines up to `step` are in metrics.jsonl; tries once more to write those that are not. A
        checkpoint that comes before they are would leave a hole there."""
        return self._record is None or self._record.written(step)

    def sync_lines(self, step: int) -> bool:
        """As `lines_written`, and they are on the disk, to outlast a power cut. Any thread may call it; waits for the
        disk."""
        return self._record is None or self._record.sync(step)

    @_main_only
    def rewind(self, step: int) -> None:
        """The run goes on from an earlier `step`, which its progress says already: what came after it is dropped, but
        for W&B, which is not given it again."""
        self._record.rewind(step)
        self._unsaved = {path: kept for path, kept in self._unsaved.items() if kept.step <= step}
        _tell_if_fails(self._drop_samples, step)
        self._views.rewind(step)
        self._last = (self._progress.images, self._progress.seconds, 0.0)
        if self._watch:
            self._watch.rewind(self._record.lines())

    @_main_only
    def close(self, status: str) -> None:
        """Status, curves and animation; `status`: finished, preempted or failed.

        Raises UserError when lines are lost, or the status cannot be written. After a failure that is told only, so as
        not to take the place of what is to be told."""
        self._save_waiting()
        lost = _attempt(self._record.close) if self._record else None
        unsaid = _attempt(self.folder.write_status, "failed" if lost else status)
        problem = lost or unsaid
        _tell_if_fails(save_curves, self.folder.metrics, self.folder.curves)
        _tell_if_fails(pictures.save_evolution, self.folder.samples, self.folder.evolution)
        if self._views is not None:
            self._views.close("failed" if problem else status)
        if problem and status != "failed":
            raise problem
        if problem:
            tell(str(problem))

    def _kept_id(self) -> str | None:
        """The W&B id of a start that ended before its first checkpoint."""
        return self.folder.wandb_id.read_text().strip() if self.folder.wandb_id.exists() else None

    def _drop_samples(self, step: int) -> None:
        """Those after `step`."""
        for folder in (self.folder.samples, self.folder.raw_samples):
            for number, later in grids_in(folder).items():
                if number > step:
                    later.unlink()

    def _see_reals(self, dataset: Dataset) -> None:
        """Shows pictures of the data set, and measures how different they are, which checkpoints keep."""
        config = self.config
        shown_already = self._progress.step > 0 and self.folder.reals.exists()
        measured = self._progress.real_diversity is not None or not config.tracking.watch
        if shown_already and measured:
            return
        if not measured:
            self._progress.real_diversity = spread(dataset.first(COUNT, config.seed) / 127.5 - 1)
        if not shown_already:
            self._save("reals", self._grid_of_reals(dataset), self.folder.reals, self._progress.step)

    def _grid_of_reals(self, dataset: Dataset) -> np.ndarray:
        """Laid out as the grids of samples are, to be looked at beside them."""
        count, classes, seed = self.config.samples.count, self.config.data.classes, self.config.seed
        per_row = pictures.columns(count, classes)
        reals = dataset.first_of_classes(classes, per_row, seed) if classes else dataset.first(count, seed)
        return pictures.sheet(reals, per_row)

    def _save(self, name: str, picture: np.ndarray, path: Path, step: int) -> None:
        """Writes a picture, and shows it to all views; one that the disk does not take waits in memory."""
        self._unsaved[path] = _Unsaved(name, pictures.encoded(picture), step)
        while sum(len(kept.data) for kept in self._unsaved.values()) > _WAITING and len(self._unsaved) > 1:
            del self._unsaved[next(iter(self._unsaved))]
        self._save_waiting()

    def _save_waiting(self) -> None:
        for path, kept in list(self._unsaved.items()):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                pictures.write(kept.data, path)
            except OSError as error:
                self._pictures.met(error)
                return
            del self._unsaved[path]
            self._views.picture(kept.name, path, kept.step)
        self._pictures.over()


def _without_secrets(config: Config) -> Config:
    """The config as others may see it: URLs of shards without query, user and password."""
    data = config.data
    told = shown(data.shards) if isinstance(data.shards, str) else [shown(shard) for shard in data.shards]
    held = [masked(name) for name in data.holdout] if isinstance(data.holdout, list) else data.holdout
    held = masked(held) if isinstance(held, str) else held
    return config.model_copy(update={"data": data.model_copy(update={"shards": told, "holdout": held})})


def _without_secret(word: str, config: Config) -> str:
    """A word of the command line as others may see it. URLs of the config are known whole, with quotes and blanks."""
    shards = config.data.shards
    for shard in [shards] if isinstance(shards, str) else shards:
        word = word.replace(shard, shown(shard))
    key, pipe, _ = word.partition("pipe:")
    return masked(key) + ("pipe:..." if pipe else "")


def _attempt(call: Callable, *args) -> UserError | None:
    """What was against it, if anything: the disk, as a rule."""
    try:
        call(*args)
    except UserError as error:
        return error
    except OSError as error:
        return UserError(f"{error.filename or args[-1]}: cannot be written: {error.strerror}")
    return None


def _tell_if_fails(call: Callable, *args) -> None:
    problem = _attempt(call, *args)
    if problem:
        tell(str(problem))
