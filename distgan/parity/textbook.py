"""Networks computed as the papers write them: what is folded, fused or synchronised elsewhere is done in full here."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distgan.networks.activations import LeakyReLU, ReLU
from distgan.networks.blurring import TAPS, Blur, BlurredUpConv2d
from distgan.networks.equalised import EqualisedConv2d, EqualisedPooledConv2d, EqualisedUpsampledConv2d
from distgan.networks.minibatch import group_size
from distgan.networks.norms import GlobalBatchNorm
from distgan.networks.resampling import PooledConv2d, UpsampledConv2d


class _ReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


class _LeakyReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope)


class _ConvolveThenPool(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(super().forward(x), 2)


class _UpsampleThenConvolve(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return super().forward(repeated)


class _EqualisedConvolveThenPool(EqualisedConv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(super().forward(x), 2)


class _EqualisedUpsampleThenConvolve(EqualisedConv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


def _low_pass(x: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """Each map of [N, C, H, W] convolved with the filter, all pixels kept."""
    taps = torch.tensor(TAPS, dtype=x.dtype, device=x.device) / sum(TAPS)
    found = F.conv2d(x.flatten(0, 1)[:, None], gain * torch.outer(taps, taps)[None, None], padding=padding)
    return found.unflatten(0, x.shape[:2])[:, :, 0]


class _Blur(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _low_pass(x, padding=3 - self.stride)[:, :, :: self.stride, :: self.stride]


class _BlurredUp(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        between = x.new_zeros(*x.shape[:2], 2 * x.shape[2] - 1, 2 * x.shape[3] - 1)
        between[:, :, ::2, ::2] = x
        weight = self.weight.flip(2, 3) * self.scale
        found = F.conv2d(between, weight, padding=2)
        return _low_pass(found, padding=1, gain=4.0) + self.bias[:, None, None]


class _BatchNorm(nn.Module):
    """Over the whole batch, which is on this one process."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


_PLAIN = {
    ReLU: _ReLU,
    LeakyReLU: _LeakyReLU,
    PooledConv2d: _ConvolveThenPool,
    UpsampledConv2d: _UpsampleThenConvolve,
    EqualisedPooledConv2d: _EqualisedConvolveThenPool,
    EqualisedUpsampledConv2d: _EqualisedUpsampleThenConvolve,
    Blur: _Blur,
    BlurredUpConv2d: _BlurredUp,
    GlobalBatchNorm: _BatchNorm,
}


def textbook(network: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A copy with the same parameters and contiguous memory, without any of our ways of saving work."""
    twin = copy.deepcopy(network).to(dtype).to(memory_format=torch.contiguous_format).requires_grad_()
    for part in twin.modules():
        if type(part) in _PLAIN:
            part.__class__ = _PLAIN[type(part)]
    return twin


def unit(critic: nn.Module, count: int) -> int:
    """How many images of a batch of `count` one score depends on: 1, a minibatch group, or with batch norm all."""
    has_batch_norm = any(isinstance(part, (GlobalBatchNorm, _BatchNorm)) for part in critic.modules())
    return count if has_batch_norm else group_size(critic)
