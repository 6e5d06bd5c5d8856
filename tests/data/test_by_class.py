from __future__ import annotations

import numpy as np
import torch

from distgan.config.schema import Data
from distgan.data.by_class import first_pictures, first_places
from distgan.data.dataset import open_dataset
from distgan.data.stream import Batch


def test_places_come_class_after_class_in_their_order():
    labels = np.array([2, 0, 2, 4, 0, 2, 0, -1])
    assert first_places(labels, 5, 2).tolist() == [1, 4, -1, -1, 0, 2, -1, -1, 3, -1]
    assert first_places(labels, 1, 4).tolist() == [1, 4, 6, -1]


def test_batches_are_read_until_every_class_is_full():
    def batches():
        for start in range(0, 6, 2):
            pixels = torch.arange(start, start + 2, dtype=torch.uint8)[:, None] + 1
            yield Batch(pixels, torch.tensor([start % 4 // 2, 1]))
        raise AssertionError("read on")

    assert first_pictures(batches(), 2, 2, (1,)).flatten().tolist() == [1, 5, 2, 3]
    few = first_pictures([Batch(torch.tensor([[7]], dtype=torch.uint8), torch.tensor([3]))], 4, 2, (1,))
    assert few.flatten().tolist() == [0, 0, 0, 0, 0, 0, 7, 0]


def test_without_an_index_they_are_found_in_the_stream(shapes_shards):
    """Whose shards are drawn anew: so it is their classes that are compared."""
    plain = open_dataset(Data(shards=str(shapes_shards), resolution=32, classes=4))
    labels = dict(
        zip(
            map(bytes, plain.read(np.arange(256)).contiguous().flatten(1).numpy()),
            plain.shards.samples["label"],
            strict=True,
        )
    )
    found = open_dataset(plain.data.model_copy(update={"order": "resampled", "threads": 1})).first_of_classes(4, 3, 0)
    assert [labels[bytes(picture)] for picture in found.contiguous().flatten(1).numpy()] == [0] * 3 + [1] * 3 + [
        2
    ] * 3 + [3] * 3
