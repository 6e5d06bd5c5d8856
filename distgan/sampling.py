"""Pictures from a generator: a run's fixed latents, or any others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distgan import checkpoint, randomness
from distgan.assembly import make_generator
from distgan.config import Config, read_config
from distgan.errors import ConfigError, UserError
from distgan.run_folder import RunFolder
from distgan.tracking import pictures
from distgan.trouble import tell


@torch.no_grad()
def generate(generator: nn.Module, keys: Tensor, labels: Tensor | None, batch: int = 64) -> Tensor:
    """Pictures [N, C, H, W] in [-1, 1] on the host, one for each image key [N] and label [N]."""
    parameter = next(generator.parameters())
    latent = randomness.normal(keys, "latent", (generator.latent,), parameter.dtype).to(parameter.device)
    labels = None if labels is None else labels.to(parameter.device)
    parts = [
        generator(latent[i : i + batch], None if labels is None else labels[i : i + batch]).cpu()
        for i in range(0, len(keys), batch)
    ]
    return torch.cat(parts)


def fixed_grid(generator: nn.Module, config: Config) -> np.ndarray:
    """The grid of a run's fixed latents, which are a function of its seed; with classes one row each."""
    classes, count = config.data.classes, config.samples.count
    per_row = pictures.columns(count, classes)
    labels = torch.arange(classes).repeat_interleave(per_row) if classes else None
    total = len(labels) if classes else count
    keys = randomness.image_keys(randomness.key(config.seed, "samples"), torch.arange(total))
    return pictures.grid(generate(generator, keys, labels), per_row)


def sample_run(
    run: Path, out: Path | None, *, count: int = 64, seed: int = 0, label: int | None = None, raw: bool = False
) -> Path:
    """Writes a grid from the newest checkpoint of a run folder; returns its path.

    `label` None gives a conditional run's classes a row each, `count` pictures in all or a few less; `raw` takes the
    last weights instead of their average. Raises ConfigError for what cannot be drawn, UserError where there is no
    checkpoint.
    """
    folder = RunFolder(run)
    if not folder.config.exists():
        raise ConfigError(f"{run}: no run folder (it has no config.yaml); give one that training wrote")
    config = read_config(folder.config)
    newest = checkpoint.newest_complete(folder.checkpoints, tell)
    if newest is None:
        raise UserError(f"{run}: no checkpoint yet; train on")
    if count < 1:
        raise ConfigError(f"--count {count}: must be at least 1")
    generator = make_generator(config).eval()
    checkpoint.load_network(newest / (checkpoint.GENERATOR if raw else checkpoint.GENERATOR_EMA), generator)
    classes = config.data.classes if label is None else 0  # to be shown a row each
    per_row = pictures.columns(count, classes)
    count = per_row * classes or count
    keys = randomness.image_keys(randomness.key(seed, "sample"), torch.arange(count))
    images = generate(generator, keys, _labels(config.data.classes, count, label))
    out = out or run / "sampled.png"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        pictures.save(pictures.grid(images, per_row), out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    return out


def _labels(classes: int, count: int, label: int | None) -> Tensor | None:
    if label is not None and not 0 <= label < classes:
        known = f"0 to {classes - 1}" if classes else "none: the run is unconditional"
        raise ConfigError(f"--label {label}: the run's labels are {known}")
    if not classes:
        return None
    return torch.arange(classes).repeat_interleave(count // classes) if label is None else torch.full((count,), label)
