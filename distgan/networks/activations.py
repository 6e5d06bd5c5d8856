"""ReLU and LeakyReLU written as linear maps of their input, for a cheaper gradient penalty.

A piecewise-linear activation equals slope(x) * x, where slope(x) is constant almost everywhere. Written with
the slope detached, value and first derivative are those of the usual activation, bit for bit, and autograd
knows that there is no second derivative: the double backward of the penalty multiplies nothing by zero and
does not walk the forward graph a second time. The two ATen kernels that serve as the activations' backward do
it in one pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def leaky_relu(x: Tensor, slope: float = 0.2) -> Tensor:
    """x where x > 0, else slope * x (any shape); its second derivative is absent instead of zero."""
    return torch.ops.aten.leaky_relu_backward(x, x.detach(), slope, False)


def relu(x: Tensor) -> Tensor:
    """x where x > 0, else 0 (any shape); its second derivative is absent instead of zero."""
    return torch.ops.aten.threshold_backward(x, x.detach(), 0)


class LeakyReLU(nn.Module):
    """`leaky_relu` with a fixed slope; 0.2 as in DCGAN (Radford et al. 2016)."""

    def __init__(self, slope: float = 0.2) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(x, self.slope)

    def extra_repr(self) -> str:
        return f"slope={self.slope}"


class ReLU(nn.Module):
    """`relu` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return relu(x)
