"""A piecewise-linear critic as a chain of links, for a gradient penalty in the fewest convolutions.

Let the layers of a critic D be affine in their input, or activations with a constant slope on each side of zero, and x^
the pictures at which a penalty takes the gradient g = dD/dx. With the slopes held, D is affine around x^, so

    d/dw  sum_i penalty(|g_i|)  =  d/dw  sum_i <u_i, g_i>,  u_i = d penalty / d g_i  held
                                =  sum over layers of (u as it arrives at the layer, linearly) x (g as it left it)

This is the usual weight gradient of a layer, an outer product of what came in and what came back, with the tangent u in
the place of the activations. So pictures that are scored and pictures of the penalty share every pass:

    forward     all pictures           activations come in
    backward    all pictures           gradients come back, those of x^ down to the picture: g
    tangent     pictures of x^ alone   u comes in, where their activations were
    weights     all pictures           one outer product a layer

For N reals, N fakes and N interpolates that is 3 + 3 + 1 + 3 = 10 times F, the multiplications of one forward of N
pictures, in four convolutions a layer; autograd needs as many in seven, and the textbook 12 F. Where a penalty is taken
at pictures that are scored anyway, what comes back is the same but for a factor a picture, and one pass does for both:
8 F at the reals, 10 F at reals and fakes, where autograd needs 10 and 14.
A bias has no part in the tangent, so the penalty gives it no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from distgan.networks.activations import LeakyReLU
from distgan.networks.blurring import Blur, filtered, spread
from distgan.networks.conditioning import Score, check_labels
from distgan.networks.resampling import PooledConv2d, fold_mean_pool, unfold_mean_pool


class Rows(NamedTuple):
    """Which pictures, the rows of all tensors here, are what."""

    scored: int
    """The scores of the first so many are in the loss."""
    points: slice
    """Those at which a penalty takes the gradient; they may be scored too. Empty without a penalty."""
    weights: Tensor | None
    """[scored], where points are scored too: the gradients that came back to each count so much in the loss."""


class Link(Protocol):
    """A layer during one update, called in the order of the methods."""

    def forward(self, x: Tensor) -> Tensor:
        """What the layer makes of all rows."""

    def backward(self, gradient: Tensor, wanted: slice) -> Tensor:
        """The gradient by the input, from that by the output; of the rows that are wanted."""

    def tangent(self, u: Tensor, rows: Rows) -> Tensor:
        """What becomes of `u` in the place of the input at the points, without bias, with the slopes of `forward`."""

    def parameters(self) -> list[nn.Parameter]:
        """Those of the layer."""

    def gradients(self, rows: Rows) -> Iterator[Tensor]:
        """The gradient of each of `parameters`, in their order, once; what was kept for them is let go."""


def _scaled(layer: nn.Module, weight: Tensor) -> Tensor:
    """What a layer with an equalised learning rate makes of its weight, and of a gradient by what it makes."""
    scale = getattr(layer, "scale", None)
    return weight if scale is None else weight.to(layer.weight.dtype) * scale


class Convolution:
    """A convolution, also one with a mean pool folded into it, or with an equalised learning rate; in the dtype of the
    input."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self.layer, self.pooled = layer, isinstance(layer, PooledConv2d)
        self.stride = [2, 2] if self.pooled else list(layer.stride)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        weight = fold_mean_pool(layer.weight) if self.pooled else _scaled(layer, layer.weight)
        self.weight, bias = weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype)
        self.input, self.arriving = x, None
        return F.conv2d(x, self.weight, bias, self.stride, layer.padding, groups=layer.groups)

    def _differentiated(self, gradient: Tensor, x: Tensor, by: tuple[bool, bool]) -> tuple[Tensor, ...]:
        none = [0, 0]
        geometry = (self.stride, list(self.layer.padding), [1, 1], False, none, self.layer.groups)
        return torch.ops.aten.convolution_backward(gradient, x, self.weight, None, *geometry, [*by, False])

    def backward(self, gradient: Tensor, wanted: slice) -> Tensor:
        self.gradient = gradient
        return self._differentiated(gradient[wanted], self.input[wanted], (True, False))[0]

    def tangent(self, u: Tensor, rows: Rows) -> Tensor:
        self.arriving = u
        return F.conv2d(u, self.weight, None, self.stride, self.layer.padding, groups=self.layer.groups)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.layer.parameters())

    def gradients(self, rows: Rows) -> Iterator[Tensor]:
        came_in, came_back = _met(self, rows)
        by_weight = self._differentiated(came_back, came_in, (False, True))[1]
        yield unfold_mean_pool(by_weight) if self.pooled else _scaled(self.layer, by_weight)
        if self.layer.bias is not None:
            yield came_back[: rows.scored].sum((0, 2, 3), dtype=self.layer.bias.dtype)
        _let_go(self)


class Linear:
    """A linear layer, also with an equalised learning rate; in the dtype of the input."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        self.weight = _scaled(self.layer, self.layer.weight).to(x.dtype)
        self.input, self.arriving = x, None
        return F.linear(x, self.weight, self.layer.bias.to(x.dtype))

    def backward(self, gradient: Tensor, wanted: slice) -> Tensor:
        self.gradient = gradient
        return gradient[wanted] @ self.weight

    def tangent(self, u: Tensor, rows: Rows) -> Tensor:
        self.arriving = u
        return F.linear(u, self.weight)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.layer.parameters())

    def gradients(self, rows: Rows) -> Iterator[Tensor]:
        came_in, came_back = _met(self, rows)
        yield _scaled(self.layer, came_back.T @ came_in)
        yield came_back[: rows.scored].sum(0, dtype=self.layer.bias.dtype)
        _let_go(self)


class Activation:
    """ReLU (slope 0) or LeakyReLU."""

    def __init__(self, layer: nn.Module) -> None:
        self.slope = layer.slope if isinstance(layer, LeakyReLU) else None

    def _sloped(self, x: Tensor, at: Tensor) -> Tensor:
        if self.slope is None:
            return torch.ops.aten.threshold_backward(x, at, 0)
        return torch.ops.aten.leaky_relu_backward(x, at, self.slope, False)

    def forward(self, x: Tensor) -> Tensor:
        self.output = self._sloped(x, x)  # it has the signs of its input, and the next layer keeps it anyway
        return self.output

    def backward(self, gradient: Tensor, wanted: slice) -> Tensor:
        return self._sloped(gradient[wanted], self.output[wanted])

    def tangent(self, u: Tensor, rows: Rows) -> Tensor:
        return self._sloped(u, self.output[rows.points])

    def parameters(self) -> list[nn.Parameter]:
        return []

    def gradients(self, rows: Rows) -> Iterator[Tensor]:
        del self.output
        return iter(())


class Blurring:
    """A low-pass filter of each map."""

    def __init__(self, layer: Blur) -> None:
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return filtered(x, self.layer.filter, self.layer.stride)

    def backward(self, gradient: Tensor, wanted: slice) -> Tensor:
        return spread(gradient[wanted], self.layer.filter, self.layer.stride)

    def tangent(self, u: Tensor, rows: Rows) -> Tensor:
        return self.forward(u)

    def parameters(self) -> list[nn.Parameter]:
        return []

    def gradients(self, rows: Rows) -> Iterator[Tensor]:
        return iter(())


class Flattening:
    """[N, C, H, W] to [N, C * H * W]."""

    def forward(self, x: Tensor) -> Tensor:
        self.shape = x.shape[1:]
        return rearrange(x, "n c h w -> n (c h w)")

    def backward(self, gradient: Tensor, wanted: slice) -> Tensor:
        return gradient[wanted].reshape(-1, *self.shape).contiguous(memory_format=torch.channels_last)

    def tangent(self, u: Tensor, rows: Rows) -> Tensor:
        return rearrange(u, "n c h w -> n (c h w)")

    def parameters(self) -> list[nn.Parameter]:
        return []

    def gradients(self, rows: Rows) -> Iterator[Tensor]:
        return iter(())


class Pooling:
    """The mean over the pixels: [N, C, H, W] to [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        self.side = x.shape[2:]
        return reduce(x, "n c h w -> n c", "mean")

    def backward(self, gradient: Tensor, wanted: slice) -> Tensor:
        spread = gradient[wanted, :, None, None] / math.prod(self.side)
        return spread.expand(-1, -1, *self.side).contiguous(memory_format=torch.channels_last)

    def tangent(self, u: Tensor, rows: Rows) -> Tensor:
        return reduce(u, "n c h w -> n c", "mean")

    def parameters(self) -> list[nn.Parameter]:
        return []

    def gradients(self, rows: Rows) -> Iterator[Tensor]:
        return iter(())


class Scoring:
    """The scores [N] of features [N, F], whose classes are `labels` [N] or None; in the precision of the parameters."""

    def __init__(self, layer: Score, labels: Tensor | None) -> None:
        check_labels(labels, layer.classes)
        self.layer, self.labels = layer, labels
        self.direction = layer.direction(labels)

    def forward(self, x: Tensor) -> Tensor:
        self.input, self.arriving = x, None
        return (x * self.direction).sum(dim=1) + self.layer.linear.bias

    def backward(self, gradient: Tensor, wanted: slice) -> Tensor:
        self.gradient = gradient
        return (gradient[wanted, None] * self.direction).to(self.input.dtype)

    def tangent(self, u: Tensor, rows: Rows) -> Tensor:
        self.arriving = u
        return u

    def parameters(self) -> list[nn.Parameter]:
        return list(self.layer.parameters())

    def gradients(self, rows: Rows) -> Iterator[Tensor]:
        embedding = self.layer.embedding
        came_in, came_back = _met(self, rows)
        products = came_back[:, None] * came_in * self.layer.scale
        yield products.sum(0, keepdim=True)
        yield came_back[: rows.scored].sum()[None]
        if embedding is not None:
            labels = self.labels if rows.weights is None else torch.cat([self.labels, self.labels[rows.points]])
            yield torch.zeros_like(embedding.weight).index_add(0, labels, products)
        _let_go(self)


def _met(link: Convolution | Linear | Scoring, rows: Rows) -> tuple[Tensor, Tensor]:
    """What came in, in the loss and as a tangent, and beside it what came back."""
    came_back = link.gradient
    if link.arriving is None:
        return link.input, came_back
    if rows.weights is not None:
        weights = rows.weights.reshape(-1, *[1] * (came_back.ndim - 1))
        came_back = torch.cat([(came_back * weights).to(came_back.dtype), came_back[rows.points]])
    return torch.cat([link.input[: rows.scored], link.arriving]), came_back


def _let_go(link: Convolution | Linear | Scoring) -> None:
    del link.input, link.gradient, link.arriving


class Chain:
    """Links one after the other; without any, what comes in goes out."""

    def __init__(self, links: Sequence[Link]) -> None:
        self.links = links

    def forward(self, x: Tensor) -> Tensor:
        for link in self.links:
            x = link.forward(x)
        return x

    def backward(self, gradient: Tensor, wanted: slice) -> Tensor:
        for number in reversed(range(len(self.links))):
            gradient = self.links[number].backward(gradient, slice(None) if number else wanted)
        return gradient if self.links else gradient[wanted]

    def tangent(self, u: Tensor, rows: Rows) -> Tensor:
        for link in self.links:
            u = link.tangent(u, rows)
        return u

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for link in self.links for parameter in link.parameters()]

    def gradients(self, rows: Rows) -> Iterator[Tensor]:
        for link in self.links:
            yield from link.gradients(rows)


class Residual:
    """The sum of two chains with the same input."""

    def __init__(self, one: Sequence[Link], other: Sequence[Link]) -> None:
        self.one, self.other = Chain(one), Chain(other)

    def forward(self, x: Tensor) -> Tensor:
        return self.one.forward(x) + self.other.forward(x)

    def backward(self, gradient: Tensor, wanted: slice) -> Tensor:
        return self.one.backward(gradient, wanted) + self.other.backward(gradient, wanted)

    def tangent(self, u: Tensor, rows: Rows) -> Tensor:
        return self.one.tangent(u, rows) + self.other.tangent(u, rows)

    def parameters(self) -> list[nn.Parameter]:
        return [*self.one.parameters(), *self.other.parameters()]

    def gradients(self, rows: Rows) -> Iterator[Tensor]:
        yield from self.one.gradients(rows)
        yield from self.other.gradients(rows)
