"""Whether all weights are finite, buffers included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distgan.networks import GlobalBatchNorm
from distgan.weights import is_finite


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.running_mean", "1.running_var"])
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_a_single_value_that_is_not_finite_is_found_in_parameters_and_statistics(name, value):
    network = nn.Sequential(nn.Linear(3, 4), GlobalBatchNorm(4))
    assert is_finite(network.state_dict().values())
    with torch.no_grad():
        network.state_dict()[name].view(-1)[2] = value
    assert not is_finite(network.state_dict().values())
