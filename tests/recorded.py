"""Recorders without a training."""

from __future__ import annotations

from pathlib import Path

import torch
from launching import TINY

from distgan.assembly import make_generator
from distgan.checkpoint import Progress
from distgan.config.loading import load_config
from distgan.recorder import Recorder
from distgan.run_folder import RunFolder


class Pictures:
    """A data set of noise, or of what is given."""

    def __init__(self, pictures: torch.Tensor | None = None) -> None:
        drawn = torch.Generator().manual_seed(0)
        self.pictures = pictures
        if pictures is None:
            self.pictures = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=drawn)

    def first(self, count: int, seed: int) -> torch.Tensor:
        return self.pictures[:count]

    def first_of_classes(self, classes: int, each: int, seed: int) -> torch.Tensor:
        return self.pictures[: classes * each]


def recorder_of(
    run: Path, progress: Progress | None = None, *, is_main: bool = True, overrides: list[str] | None = None
) -> tuple[Recorder, torch.nn.Module]:
    """Of a small run, and the generator whose pictures it shows. A step takes 32 images and a second."""
    config = load_config([TINY], [f"run_dir={run}", *(overrides or [])])
    folder = RunFolder(run)
    folder.create()
    progress = progress or Progress()
    return Recorder(config, folder, progress, 1, is_main), make_generator(config).eval()


def tell(recorder: Recorder, *steps: int, waited: float = 0.0, **metrics: float) -> None:
    """A line at each of `steps`."""
    for step in steps:
        progress = Progress(step=step, images=32 * step, seconds=float(step))
        recorder.line(progress, {"critic/loss": step / 3, "filling": 0.1, **metrics}, waited)
