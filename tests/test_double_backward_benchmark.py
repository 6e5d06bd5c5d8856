"""The benchmark of the double backward tells times and errors of both."""

from __future__ import annotations

import torch

from benchmarks.double_backward import Case, compare


def test_both_are_timed_and_compared_with_float64():
    row = compare(Case(3, 4, 8, 6, 3), torch.float32, "cpu", rounds=1)
    assert row["case"] == "3 x 4 x 8 x 8 to 6, 3 x 3, stride 1" and row["dtype"] == "float32"
    assert row["ratio"] > 0 and row["milliseconds"] > 0
    assert 0 < row["own_off"] < 1e-5 and 0 < row["ours_off"] < 1e-5
