"""What the main process leaves in the run folder while it trains. On other processes it does nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from functools import wraps

from torch import nn

from distgan.checkpoint import Progress
from distgan.config import Config, dump_config
from distgan.data.dataset import Dataset
from distgan.data.urls import shown
from distgan.environment import record_start
from distgan.errors import UserError
from distgan.run_folder import RunFolder, cannot_write, write_atomically
from distgan.sampling import fixed_grid
from distgan.tracking import pictures
from distgan.tracking.curves import save_curves
from distgan.tracking.meter import DATA_WAIT, THROUGHPUT
from distgan.tracking.terminal import Terminal
from distgan.tracking.tracker import JsonLines, Tracker


def _main_only(method):
    """The method, on the main process; a full disk is one clear line."""

    @wraps(method)
    def call(self: Recorder, *args):
        if not self.is_main:
            return
        try:
            method(self, *args)
        except OSError as error:
            raise cannot_write(error.filename or self.folder.path, error) from None

    return call


class Recorder:
    """Lines, sample grids, curves and the status of a run."""

    def __init__(self, config: Config, folder: RunFolder, progress: Progress, world_size: int, is_main: bool) -> None:
        self.config, self.folder, self.is_main = config, folder, is_main
        self._progress, self._world_size = progress, world_size
        self._tracker: Tracker | None = None
        self._last = (0, 0.0, 0.0)

    @_main_only
    def start(self, generator: nn.Module, dataset: Dataset, summary: str) -> None:
        """Tells `summary`, writes config, environment and first pictures, and opens what receives metrics."""
        print(summary, file=sys.stderr, flush=True)
        self._last = (self._progress.images, self._progress.seconds, 0.0)
        write_atomically(self.folder.config, dump_config(self.config))
        record_start(self.folder.environment, self._progress.step, self._world_size)
        self.folder.write_status("running")
        step, total = self._progress.step, self.config.total_steps
        off_beat = step % self.config.tracking.every.steps(self.config.images_per_step) != 0
        self._record = JsonLines(self.folder, step, partial=off_beat and step < total)
        sinks = [self._record, Terminal(step, total)]
        if self.config.tracking.wandb.mode != "off":
            from distgan.tracking.weights_and_biases import WandbSink, new_run_id

            self._progress.wandb_id = self._progress.wandb_id or self._kept_id() or new_run_id()
            write_atomically(self.folder.wandb_id, self._progress.wandb_id + "\n")
            sinks.append(WandbSink(_without_secrets(self.config), self.folder, self._progress.wandb_id, step))
        self._tracker = Tracker(sinks)
        self._drop_samples(step)
        if step == 0:
            self._save_reals(dataset)
            self.sample(0, generator)

    @_main_only
    def rewind(self) -> None:
        """The run has gone back to where its progress now stands: what is of later steps is dropped."""
        self._last = (self._progress.images, self._progress.seconds, 0.0)
        self._record.rewind(self._progress.step)
        self._drop_samples(self._progress.step)

    @_main_only
    def line(self, progress: Progress, metrics: dict[str, float], waited: float) -> None:
        """One line of metrics; `waited`: seconds that this start has waited for data."""
        if progress.step <= self._record.last_step:
            return
        images, seconds, waited_before = self._last
        self._last = (progress.images, progress.seconds, waited)
        elapsed = max(progress.seconds - seconds, 1e-9)
        self._tracker.metrics(
            {
                "step": progress.step,
                "kimg": progress.images / 1000,
                "seconds": round(progress.seconds, 3),
                **metrics,
                THROUGHPUT: (progress.images - images) / elapsed,
                DATA_WAIT: (waited - waited_before) / elapsed,
            }
        )

    @_main_only
    def sample(self, step: int, generator: nn.Module) -> None:
        """The grid of the fixed latents."""
        path = self.folder.sample(step)
        pictures.save(fixed_grid(generator, self.config), path)
        self._tracker.picture("samples", path, step)

    @_main_only
    def close(self, status: str) -> None:
        """Status, curves and animation; `status`: finished, preempted or failed."""
        with contextlib.ExitStack() as views:
            views.callback(_warn_if_fails, pictures.save_evolution, self.folder.samples, self.folder.evolution)
            views.callback(_warn_if_fails, save_curves, self.folder.metrics, self.folder.curves)
            if self._tracker is not None:
                views.callback(self._tracker.close, status)
            # After a failure, one of the disk's here must not take the place of what is to be told.
            with contextlib.suppress(*((OSError, UserError) if status == "failed" else ())):
                self.folder.write_status(status)

    def _drop_samples(self, step: int) -> None:
        """Removes the sample grids of later steps."""
        for later in self.folder.samples.glob("[0-9]*.png"):
            if int(later.stem) > step:
                later.unlink()

    def _kept_id(self) -> str | None:
        """The W&B id of a start that ended before its first checkpoint."""
        return self.folder.wandb_id.read_text().strip() if self.folder.wandb_id.exists() else None

    def _save_reals(self, dataset: Dataset) -> None:
        images = dataset.first(self.config.samples.count, self.config.seed)
        pictures.save(pictures.grid(images / 127.5 - 1, pictures.columns(len(images), 0)), self.folder.reals)


def _without_secrets(config: Config) -> Config:
    """The config as others may see it: URLs of shards without query, user and password."""
    shards = config.data.shards
    masked = shown(shards) if isinstance(shards, str) else [shown(shard) for shard in shards]
    return config.model_copy(update={"data": config.data.model_copy(update={"shards": masked})})


def _warn_if_fails(view: Callable, *args) -> None:
    """A view of the run that cannot be drawn takes nothing from the run."""
    try:
        view(*args)
    except (OSError, UserError) as error:
        print(f"distgan: {error}", file=sys.stderr)
