"""Normalisation layers by name, unconditional and class-conditional.

| name     | statistics over                   | affine       | one image depends on the others |
|----------|-----------------------------------|--------------|---------------------------------|
| none     |                                   |              | no                              |
| batch    | the global batch, H, W            | by channel   | yes                             |
| layer    | C, H, W of one image              | by channel   | no                              |
| instance | H, W of one image and channel     | by channel   | no                              |
| group    | H, W and a group of channels      | by channel   | no                              |

The gradient penalty is a statement about single images, so batch norm has no place in a critic that has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

NORMS = ("none", "batch", "layer", "instance", "group")
CANCELLING = ("batch", "instance")
"""The norms that subtract the mean of each channel, so that a bias before them has no effect and no
gradient."""

FLAT_NORMS = ("none", "batch", "layer")
"""The norms that make sense for [N, C] features, which have no pixels."""

GROUPS = 32
"""Most groups of the group norm (Wu and He 2018); fewer where a group would have a single channel."""


@torch.library.custom_op("distgan::snapshot", mutates_args=())
def _snapshot(values: Tensor) -> Tensor:
    """A copy that the compiled backward keeps.

    An operator of its own because of a plain copy the compiler knows how to make another, and does so in the backward
    (torch 2.15, inductor): there the running mean has been changed already, and gradients come out wrong.
    """
    return values.clone()


@_snapshot.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values)


def _identity(statistics: Tensor) -> Tensor:
    return statistics


def _channelwise(values: Tensor, x: Tensor) -> Tensor:
    """[C] or [N, C], shaped to broadcast over `x` of shape [N, C] or [N, C, H, W]."""
    return rearrange(values, "... c -> ... c 1 1") if x.ndim == 4 else values


class GlobalBatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015) whose statistics can be those of all processes together.

    Takes [N, C, H, W] or [N, C]. Statistics are computed in float32 at least; the result has the input's
    dtype. Parameters, buffers and their names are those of `torch.nn.BatchNorm2d`, and so is the result with
    the default `average`.

    average: applied in training mode to a tensor [2, C], the moments of this process's batch; returns their
        mean over the processes and must be differentiable. Every process must hold the same number of images
        and the same running statistics (the moments are taken around the running mean, against cancellation).
    processes: how many processes `average` spans; enters only the unbiased running variance.
    tracks: whether the running statistics take in those of a batch, in training mode.

    Raises ValueError in training mode when there is a single value a channel.
    """

    def __init__(self, features: int, *, affine: bool = True, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.features, self.eps, self.momentum = features, eps, momentum
        self.average: Callable[[Tensor], Tensor] = _identity
        self.processes = 1
        self.tracks = True
        self.register_parameter("weight", nn.Parameter(torch.ones(features)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(features)) if affine else None)
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        count = self.processes * x.numel() // self.features
        if count < 2:
            raise ValueError(f"batch norm needs more than one value a channel, got shape {tuple(x.shape)}")
        return self._alone(x) if self.average is _identity else self._together(x, count)

    def _alone(self, x: Tensor) -> Tensor:
        """By torch's kernels, which pass over memory less often than `_together`."""
        found = self.running_mean.new_zeros(2, self.features)
        normalised = F.batch_norm(x, *found, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
        self._track(found)
        return normalised

    def _together(self, x: Tensor, count: int) -> Tensor:
        """The same over the `count` values a channel of all processes."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centre = _snapshot(self.running_mean).to(wide.dtype)
        over = [axis for axis in range(x.ndim) if axis != 1]
        centred = wide - _channelwise(centre, x)
        moments = self.average(torch.stack([centred.mean(over), centred.square().mean(over)]))
        mean, variance = moments[0] + centre, (moments[1] - moments[0].square()).clamp(min=0)
        self._track(torch.stack([mean, variance * (count / (count - 1))]))
        scale = torch.rsqrt(variance + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        normalised = (wide - _channelwise(mean, x)) * _channelwise(scale, x)
        shifted = normalised if self.bias is None else normalised + _channelwise(self.bias, x)
        return shifted.to(x.dtype)

    @torch.no_grad()
    def _track(self, found: Tensor) -> None:
        """Takes in the mean and the unbiased variance of a batch, [2, C]."""
        if not self.tracks:
            return
        running = [self.running_mean, self.running_var]
        before, found = torch.stack(running), found.detach().to(self.running_mean.dtype)
        # What overflowed, in an update that fp16 skips, must not stay here for good.
        current = torch.where(found.abs() < math.inf, found, before)
        # Lists, because torch.func refuses the single-tensor forms: they would change a captured tensor.
        torch._foreach_lerp_(running, list(current), self.momentum)
        torch._foreach_add_([self.num_batches_tracked], 1)

    def extra_repr(self) -> str:
        return f"{self.features}, affine={self.weight is not None}"


class ConditionalNorm(nn.Module):
    """A norm without affine part, followed by a gain and a bias [C] for each class (Dumoulin et al. 2017),
    which start at 1 and 0."""

    def __init__(self, norm: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.norm = norm
        self.gain = nn.Embedding(classes, features)
        self.bias = nn.Embedding(classes, features)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        gain, bias = _channelwise(self.gain(labels), x), _channelwise(self.bias(labels), x)
        return (self.norm(x) * gain + bias).to(x.dtype)


def build_norm(name: str, features: int, classes: int = 0) -> nn.Module:
    """The norm called `name` (a row of the table above) for [N, features, H, W]; class-conditional when
    `classes` is positive. To be called through `normalise`."""
    affine = classes == 0
    makers: dict[str, Callable[[], nn.Module]] = {
        "none": nn.Identity,
        "batch": lambda: GlobalBatchNorm(features, affine=affine),
        "layer": lambda: nn.GroupNorm(1, features, affine=affine),
        "instance": lambda: nn.GroupNorm(features, features, affine=affine),
        "group": lambda: nn.GroupNorm(math.gcd(GROUPS, features, features // 2), features, affine=affine),
    }
    norm = makers[name]()
    return norm if affine or name == "none" else ConditionalNorm(norm, features, classes)


def normalise(norm: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
    """`norm` applied to `x`, with the labels if it is conditional."""
    return norm(x, labels) if isinstance(norm, ConditionalNorm) else norm(x)


def batch_norms(module: nn.Module) -> list[GlobalBatchNorm]:
    """Every batch norm inside `module`, for the runtime to set `average` and `processes`."""
    return [part for part in module.modules() if isinstance(part, GlobalBatchNorm)]
