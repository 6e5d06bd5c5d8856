from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from distgan.metrics import neighbours
from distgan.metrics.neighbours import precision_recall


def features(count: int, size: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) + shift


def as_written(points: np.ndarray, others: np.ndarray, k: int) -> float:
    """Eq. 1 and 2 of the paper, point by point: the share of `points` in the balls of `others`."""
    inside = 0
    for point in points:
        for other in others:
            radius = sorted(np.linalg.norm(other - another) for another in others)[k]
            if np.linalg.norm(point - other) <= radius:
                inside += 1
                break
    return inside / len(points)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_it_is_the_papers_equation(k):
    real, fake = features(40, 4, 1), features(30, 4, 2, shift=1.0)
    found = precision_recall(real, fake, k)
    a, b = real.double().numpy(), fake.double().numpy()
    assert found == (as_written(b, a, k), as_written(a, b, k))
    assert min(found) < 1 and min(found) > 0


@pytest.mark.parametrize(("size", "shift"), [(8, 0.3), (64, 0.1)])
def test_it_is_what_torch_fidelity_gives(size, shift):
    real, fake = features(700, size, 1), features(500, size, 2, shift)
    theirs = prc_features_to_metric(fake, real, prc_neighborhood=3, prc_batch_size=10000, verbose=False)
    assert precision_recall(real, fake) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def test_blocks_change_nothing(monkeypatch):
    real, fake = features(101, 5, 1), features(57, 5, 2)
    whole = precision_recall(real, fake)
    monkeypatch.setattr(neighbours, "_BLOCK_BYTES", 8 * 101 * 7)
    assert precision_recall(real, fake) == whole


def test_a_collapsed_generator_is_precise_and_recalls_little():
    real = features(400, 6, 1)
    fake = real[:1] + 1e-3 * features(300, 6, 2)
    assert precision_recall(real, fake) == (1, 1 / 400)


def test_sets_that_are_the_same_or_far_apart():
    real = features(100, 6, 1)
    assert precision_recall(real, real.clone()) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)


def test_far_from_the_origin_nothing_is_lost():
    real, fake = features(100, 6, 1).double(), features(100, 6, 2).double()
    assert precision_recall(real + 1e8, fake + 1e8) == precision_recall(real, fake)


def test_the_surface_belongs_to_a_ball():
    """Reals 2 apart reach 2 far: to 10, where two fakes are, but not to 13."""
    real, fake = (torch.tensor(places)[:, None].double() for places in ([0, 2, 4, 6, 8], [10, 10, 13, 30]))
    assert precision_recall(real, fake, k=1) == (0.5, 0)
    assert precision_recall(fake, real, k=1) == (0, 0.5)


def test_too_few_points_and_other_dimensions_are_refused():
    with pytest.raises(ValueError, match="more than 3 points; there are 3 real and 9 fake"):
        precision_recall(torch.zeros(3, 2), torch.zeros(9, 2))
    with pytest.raises(ValueError, match=r"\[9, 2\] and \[9, 3\]"):
        precision_recall(torch.zeros(9, 2), torch.zeros(9, 3))
