"""A small classifier that is trained on the labelled shards: its features are what `fd_own` compares pictures in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distgan import randomness
from distgan.data.dataset import Indexed
from distgan.evaluation.crew import all_cores, threads
from distgan.trouble import tell

FEATURES = 128
_LARGEST = 64
"""Pixels a side that it looks at: larger pictures are averaged down to that."""
_AREAS = 4
"""A side."""
_BATCH, _PART = 128, 32
"""Pictures of an update, and of one thread at a time."""
_STEPS, _EPOCHS = 1200, 40
"""An end to training, whichever comes first."""
_RATE = 2e-3
_HELD_OUT = 0.1
_MOST_TESTED = 10_000
_MOST_BYTES = 10**9
"""Of decoded pictures; of a larger set so much of it is used."""
_SECONDS_A_LINE = 30.0
"""Between two lines that say how far training is."""


class Classifier(nn.Module):
    """Four convolutions of 3 x 3, of whose result means over 4 x 4 areas are taken, and two linear layers."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (channels, 16, 32, 64, 128)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, width, 3, 1 if i == 0 else 2, 1), nn.GroupNorm(8, width), nn.ReLU())
                for i, (before, width) in enumerate(zip(widths, widths[1:], strict=False))
            )
        )
        self.features = nn.Linear(128 * _AREAS**2, FEATURES)
        self.last = nn.Linear(FEATURES, classes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Of pictures uint8 [n, C, H, W] the features [n, 128] and the logits [n, classes]."""
        images = pixels.to(self.last.weight) / 127.5 - 1
        if images.shape[-1] > _LARGEST:
            images = functional.adaptive_avg_pool2d(images, _LARGEST)
        areas = functional.adaptive_avg_pool2d(self.layers(images), _AREAS)
        features = self.features(areas.flatten(1)).relu()
        return features, self.last(features)


def labelled(dataset: Indexed) -> np.ndarray:
    """The pictures that are trained on and have a label, int64 [n]; none where all labels are the same."""
    train = dataset.split.train.astype(np.int64)
    labels = dataset.shards.samples["label"][train]
    known = train[labels >= 0]
    return known if len(np.unique(labels[labels >= 0])) > 1 else known[:0]


def train(dataset: Indexed, device: torch.device, moved: Callable[[], None]) -> tuple[dict[str, Tensor], float]:
    """The weights on the host, with the labels that its outputs stand for as `classes`, int64 [K], and the accuracy on
    the tenth of the pictures that it was not trained on.

    A function of the pictures on one kind of device: initial weights and order are drawn by hash, and the gradient of
    an update is summed over parts of fixed size, one thread each.
    """
    samples = labelled(dataset)
    most = _MOST_BYTES // (dataset.data.channels * dataset.data.resolution**2)
    samples = samples[randomness.permutation(randomness.key("evaluate", "classifier"), len(samples)).numpy()[:most]]
    classes, targets = np.unique(dataset.shards.samples["label"][samples], return_inverse=True)
    targets = torch.from_numpy(targets).to(device)
    cores = 1 if device.type == "cuda" else all_cores()
    with threads(cores) as spread, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        pictures = _read(dataset, samples, spread, moved)
        torch.manual_seed(randomness.key("evaluate", "classifier weights"))
        network = Classifier(dataset.data.channels, len(classes)).to(device)
        tested = min(_MOST_TESTED, max(1, int(len(samples) * _HELD_OUT)))
        _fit(network, pictures[tested:], targets[tested:], spread, moved)
        accuracy = _accuracy(network, pictures[:tested], targets[:tested], spread)
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    return state | {"classes": torch.from_numpy(classes.astype(np.int64))}, accuracy


def _read(dataset: Indexed, samples: np.ndarray, spread: Callable, moved: Callable[[], None]) -> Tensor:
    parts = []
    for part in spread(dataset.read, np.array_split(samples, -(-len(samples) // 1000))):
        parts.append(part)
        moved()
    return torch.cat(parts)


def _fit(network: nn.Module, pictures: Tensor, targets: Tensor, spread: Callable, moved: Callable[[], None]) -> None:
    """Adam, its rate rising over the first tenth of the updates and falling linearly to none."""
    weights, batches = list(network.parameters()), list(_batches(len(pictures)))
    optimizer = torch.optim.Adam(weights)

    def gradients(part: Tensor) -> tuple[Tensor, ...]:
        _, logits = network(pictures[part].to(targets.device))
        loss = functional.cross_entropy(logits, targets[part], reduction="sum")
        return torch.autograd.grad(loss, weights)

    told = time.monotonic()
    for number, batch in enumerate(batches):
        done = number / len(batches)
        if time.monotonic() - told >= _SECONDS_A_LINE:
            told = time.monotonic()
            tell(f"evaluate: the classifier has had {number} of {len(batches)} updates")
        optimizer.param_groups[0]["lr"] = _RATE * min(1, done / 0.1 + 0.01) * (1 - done)
        found = list(spread(gradients, batch.split(_PART)))
        for weight, parts in zip(weights, zip(*found, strict=True), strict=True):
            weight.grad = torch.stack(parts).sum(0) / len(batch)
        optimizer.step()
        moved()


def _batches(count: int) -> Iterator[Tensor]:
    """Positions among `count` pictures, epoch after epoch."""
    size, steps = min(_BATCH, count), 0
    for epoch in range(_EPOCHS):
        order = randomness.permutation(randomness.key("evaluate", "classifier", epoch), count)
        for batch in order[: count // size * size].split(size):
            if steps == _STEPS:
                return
            steps += 1
            yield batch


@torch.no_grad()
def _accuracy(network: nn.Module, pictures: Tensor, targets: Tensor, spread: Callable) -> float:
    def right(part: Tensor) -> int:
        with torch.no_grad():
            _, logits = network(pictures[part].to(targets.device))
        return int((logits.argmax(1) == targets[part]).sum())

    return sum(spread(right, torch.arange(len(pictures)).split(_PART))) / len(pictures)
