"""TensorBoard as a view of a run: event files in the run folder."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
from datetime import datetime
from pathlib import Path

from distgan.errors import ConfigError
from distgan.histogram import EDGES
from distgan.run_folder import RunFolder, read_lines
from distgan.tracking.backlog import GRIDS, Held, backlog
from distgan.tracking.picture_files import check_size

NAME = "TensorBoard"
LATER = "and the next start of the run writes what is missing"
_MARK = "seconds"
"""Among the scalars of every line."""


def check_installed() -> None:
    """Raises ConfigError where event files cannot be written. Imports nothing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError('tracking.tensorboard: tensorboard is not installed; pip install "distgan[tensorboard]"')


class TensorBoardSink:
    """Each line of metrics.jsonl and each picture once, also after starts that were killed and after rollbacks: an
    event file says from which step on those before it count no more."""

    def __init__(self, folder: RunFolder, step: int) -> None:
        """`step`: from which the run goes on."""
        self._run, self._step, self._folder = folder, step, folder.path / "tensorboard"

    def begin(self) -> None:
        """Goes on after what the files hold."""
        self._began = self._when = _first_start(self._run.environment)
        first = min(_last_line(self._folder), self._step + 1)
        for line in read_lines(self._run.metrics):
            if line["step"] < first:
                self._when = self._began + line["seconds"]
        self._open(first)  # all before it is there, since everything is written in its order
        self._held = Held(first - 1, dict.fromkeys((*GRIDS, *(["reals"] if first else [])), first - 1))
        for item in backlog(self._run, self._held, self._step):
            self.metrics(item) if isinstance(item, dict) else self.picture(*item)

    def _open(self, first: int) -> None:
        """A new file; what others have from the step `first` on counts no more."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=first, flush_secs=10)

    def metrics(self, line: dict) -> None:
        step, when = line["step"], self._began + line["seconds"]
        self._when = when  # also of the pictures that follow
        for name, value in line.items():
            if isinstance(value, list):
                self._add_histogram(name, value, step, when)
            elif isinstance(value, (int, float)) and name != "step" and math.isfinite(value):
                self._writer.add_scalar(name, value, step, walltime=when)
        self._writer.flush()

    def _add_histogram(self, name: str, counts: list[int], step: int, when: float) -> None:
        """Counts of the cells of distgan.histogram. Its limits are those at the right of each cell."""
        limits = [*EDGES, 2 * EDGES[-1]]
        if len(counts) != len(limits) or not sum(counts):
            return
        middles = [(low + high) / 2 for low, high in zip([0.0, *limits], limits, strict=False)]
        self._writer.add_histogram_raw(
            name,
            min=next(low for low, count in zip([0.0, *limits], counts, strict=False) if count),
            max=next(high for high, count in zip(reversed(limits), reversed(counts), strict=True) if count),
            num=sum(counts),
            sum=sum(middle * count for middle, count in zip(middles, counts, strict=True)),
            sum_squares=sum(middle**2 * count for middle, count in zip(middles, counts, strict=True)),
            bucket_limits=limits,
            bucket_counts=counts,
            global_step=step,
            walltime=when,
        )

    def picture(self, name: str, path: Path, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        if not self._held.lacks_picture(name, step):
            return
        with contextlib.suppress(OSError):  # it may be of a past that the run has left, and is gone then
            width, height, channels = check_size(path)
            # as it is: add_image would encode the pixels once more, which takes longer than a step
            image = Summary.Image(
                height=height, width=width, colorspace=channels, encoded_image_string=path.read_bytes()
            )
            summary = Summary(value=[Summary.Value(tag=name, image=image)])
            self._writer.file_writer.add_summary(summary, step, walltime=self._when)
            self._held.pictures[name] = step

    def checkpoint(self, path: Path) -> None:
        pass

    def rewind(self, step: int) -> None:
        self._writer.close()
        self._open(step + 1)
        self._held.pictures = {name: min(number, step) for name, number in self._held.pictures.items()}

    def close(self, status: str) -> None:
        self._writer.close()

    def abandon(self) -> None:
        pass


def _first_start(environment: Path) -> float:
    """When the run began, seconds since 1970: TensorBoard so shows a line at its seconds of training."""
    try:
        return datetime.fromisoformat(json.loads(environment.read_text())["starts"][0]["time"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return 0.0


def _last_line(folder: Path) -> int:
    """The step of the newest line that event files hold, by TensorBoard's own reader; 0 where there is none."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    limit = None
    for path in sorted(folder.glob("events.out.tfevents.*"), reverse=True):
        steps, first = [], None
        for event in EventFileLoader(str(path)).Load():
            if event.HasField("session_log"):
                first = event.step
            elif any(value.tag == _MARK for value in event.summary.value):
                steps.append(event.step)
        if steps:
            return max(steps) if limit is None else min(max(steps), limit)
        if first is not None:
            limit = first - 1 if limit is None else min(limit, first - 1)
    return 0
