"""The training pictures that are nearest to samples: does the generator repeat what it was shown?

The distance is Euclid's over all pixels and channels in [-1, 1], of pictures of 8 bits as they are trained on (mirrored
ones too with data.flip), to every picture of the training set. It finds copies; it knows nothing of what is shown.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distgan.config import Config
from distgan.data.dataset import Indexed, open_dataset
from distgan.data.progress import Progress
from distgan.errors import ConfigError
from distgan.sampling.drawing import Wanted

_MEASURES = 256
"""Real pictures whose own distance to the training set is the measure of what is near."""
_FEWEST_MEASURES = 16
_BYTES = 10**9
"""Of the pictures that are compared with the set, as float64."""
_BLOCK_BYTES = 256 * 10**6
"""Of the pictures of the set that are compared at once."""


class Nearest(NamedTuple):
    """The nearest pictures of the training set to each of Q pictures, the nearest first."""

    distances: Tensor
    """float64 [Q, N]."""
    numbers: Tensor
    """int64 [Q, N], in the set."""
    mirrored: Tensor
    """bool [Q, N]: whether it is the mirrored picture that is so near."""


def open_set(config: Config, shards: str | None) -> Indexed:
    """The pictures that a run was trained on, which may have moved to `shards`. Raises ConfigError, DataError."""
    data = config.data if shards is None else config.data.model_copy(update={"shards": shards})
    opened = open_dataset(data)
    if not isinstance(opened, Indexed):
        raise ConfigError("--neighbours: data.order resampled has no index, so that no picture is sure to be seen")
    return opened


def nearest(dataset: Indexed, queries: Tensor, count: int, own: np.ndarray) -> Nearest:
    """Of `queries`, uint8 [Q, C, H, W], the `count` nearest pictures that are trained on. `own`, int64 [Q]: numbers of
    pictures that are not to be taken for their own neighbours; -1 for others.

    Exact: products of 8 bits and their sums are whole numbers, which float64 holds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    flip = dataset.data.flip
    points = torch.cat([queries, queries.flip(-1)] if flip else [queries]).flatten(1).to(device, torch.float64)
    lengths = points.square().sum(1, keepdim=True)
    own = torch.from_numpy(own).to(device)[:, None]
    best = _none_yet(len(queries), count, device)
    rows = max(1, min(512, _BLOCK_BYTES // (8 * points.shape[1])))
    threads = dataset.data.threads or len(os.sched_getaffinity(0))
    with Progress("neighbours", len(dataset.split.train)) as progress:
        for numbers, pixels in dataset.each_once(rows, threads):
            block = pixels.flatten(1).to(device, torch.float64)
            squared = lengths + block.square().sum(1) - 2 * points @ block.T
            squared, mirrored = squared.view(-1, len(queries), len(block)).min(0)
            numbers = torch.from_numpy(numbers).to(device).expand(len(queries), -1)
            squared[numbers == own] = torch.inf
            best = _merged(best, Nearest(squared, numbers, mirrored.bool()), count)
            progress.advance(len(block))
    return Nearest((best.distances.sqrt() * (2 / 255)).cpu(), best.numbers.cpu(), best.mirrored.cpu())


def _none_yet(queries: int, count: int, device: str) -> Nearest:
    shape = queries, count
    distances = torch.full(shape, torch.inf, dtype=torch.float64, device=device)
    return Nearest(distances, torch.full(shape, -1, device=device), torch.zeros(shape, dtype=torch.bool, device=device))


def _merged(best: Nearest, found: Nearest, count: int) -> Nearest:
    together = [torch.cat(pair, 1) for pair in zip(best, found, strict=True)]
    places = together[0].argsort(dim=1, stable=True)[:, :count]
    return Nearest(*(part.gather(1, places) for part in together))


class Comparison(NamedTuple):
    """What was found of samples, and of real pictures beside them."""

    samples: Nearest
    measures: Nearest
    held_out: bool
    """Whether the real pictures are held out of training; else they are of the training set, and compared with all
    others of it."""


def compare(dataset: Indexed, samples: Tensor, count: int) -> Comparison:
    """The nearest training pictures of samples, uint8 [Q, C, H, W], and of real pictures. Raises ConfigError where
    there are too few."""
    train, held_out = dataset.split
    if len(train) <= count:
        raise ConfigError(f"--neighbours {count}: only {len(train)} pictures are trained on; ask for fewer")
    bytes_of_one = 8 * (2 if dataset.data.flip else 1) * samples[0].numel()
    most = min(_MEASURES, max(_FEWEST_MEASURES, _BYTES // bytes_of_one - len(samples)))
    among = held_out if len(held_out) else train
    chosen = among[np.unique(np.linspace(0, len(among) - 1, min(most, len(among))).astype(int))].astype(np.int64)
    own = np.concatenate([np.full(len(samples), -1), np.full(len(chosen), -1) if len(held_out) else chosen])
    found = nearest(dataset, torch.cat([samples, dataset.read(chosen)]), count, own)
    return Comparison(
        Nearest(*(part[: len(samples)] for part in found)),
        Nearest(*(part[len(samples) :] for part in found)),
        bool(len(held_out)),
    )


def rows_of(dataset: Indexed, samples: Tensor, found: Nearest) -> Tensor:
    """Each sample and its neighbours as training sees them, side by side: uint8 [Q * (1 + N), C, H, W]."""
    neighbours = dataset.read(found.numbers.flatten().numpy())
    neighbours = torch.where(found.mirrored.flatten()[:, None, None, None], neighbours.flip(-1), neighbours)
    side_by_side = torch.cat([samples[:, None], neighbours.unflatten(0, found.numbers.shape)], 1)
    return side_by_side.flatten(0, 1)


def told(wanted: Sequence[Wanted], found: Comparison) -> str:
    """The distances in words."""
    lines = []
    for one, distances in zip(wanted, found.samples.distances.tolist(), strict=True):
        name = f"seed {one.seed}" + ("" if one.label is None else f", class {one.label}")
        lines.append(f"{name}: {' '.join(f'{distance:.2f}' for distance in distances)}")
    samples, reals = (part.distances[:, 0] for part in (found.samples, found.measures))
    low = reals.quantile(0.05)
    whose = "held-out pictures" if found.held_out else "training pictures, among the others,"
    lines += [
        "distance to the nearest training picture (5 %, median, 95 %):",
        f"  {len(samples)} samples {_spread(samples)}",
        f"  {len(reals)} {whose} {_spread(reals)}",
        f"{int((samples < low).sum())} of {len(samples)} samples are nearer than the nearest 5 % of these reals",
    ]
    return "\n".join(lines)


def _spread(distances: Tensor) -> str:
    return " / ".join(f"{value:.2f}" for value in distances.quantile(torch.tensor([0.05, 0.5, 0.95]).double()).tolist())
