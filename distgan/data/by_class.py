"""Which pictures are the first of each class."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from distgan.data.stream import Batch


def first_places(labels: np.ndarray, classes: int, each: int) -> np.ndarray:
    """Where in `labels` the first `each` of every class stand, class after class: int64 [classes * each]; -1 where a
    class has fewer."""
    by_label = np.argsort(labels, kind="stable")
    starts, stops = (np.searchsorted(labels[by_label], np.arange(classes), side) for side in ("left", "right"))
    places = starts[:, None] + np.arange(each)
    there = places < stops[:, None]
    return np.where(there, by_label[np.where(there, places, 0)], -1).reshape(-1)


def first_pictures(batches: Iterable[Batch], classes: int, each: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The first `each` pictures of every class in these batches, which are read as far as need be: uint8
    [classes * each, *shape], black ones where a class has fewer."""
    found, shown = [0] * classes, torch.zeros(classes * each, *shape, dtype=torch.uint8)
    for pixels, labels in batches:
        for picture, label in zip(pixels, labels.tolist(), strict=True):
            if 0 <= label < classes and found[label] < each:
                shown[label * each + found[label]] = picture
                found[label] += 1
        if min(found) == each:
            break
    return shown
