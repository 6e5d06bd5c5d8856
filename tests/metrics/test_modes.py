from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import entropy

from distgan.metrics.modes import coverage


def test_a_mode_is_found_where_one_picture_is_of_it():
    assert coverage(torch.tensor([1, 0, 998, 1]), torch.tensor([5, 5, 5, 5]))[0] == 3


def test_the_divergence_is_scipys_in_nats():
    found, real = torch.tensor([10, 0, 37, 5, 48]), torch.tensor([30, 10, 30, 10, 20])
    assert coverage(found, real) == (4, pytest.approx(entropy(found.numpy(), real.numpy()), rel=1e-14))


def test_all_modes_in_equal_shares_are_at_0_and_one_of_a_thousand_at_its_logarithm():
    real = torch.full((1000,), 6)
    assert coverage(real * 7, real) == (1000, pytest.approx(0, abs=1e-15))
    assert coverage(torch.eye(1000)[3] * 25, real) == (1, pytest.approx(math.log(1000), rel=1e-14))


def test_a_class_that_no_real_has_is_no_mode_and_makes_the_divergence_infinite():
    assert coverage(torch.tensor([4, 4]), torch.tensor([9, 0])) == (1, math.inf)
    assert coverage(torch.tensor([4, 0]), torch.tensor([9, 0])) == (1, 0)


def test_other_classes_and_empty_sets_are_refused():
    with pytest.raises(ValueError, match=r"same K classes are compared, not \[2\], \[3\]"):
        coverage(torch.ones(2), torch.ones(3))
    with pytest.raises(ValueError, match="one picture or more"):
        coverage(torch.zeros(3), torch.ones(3))
