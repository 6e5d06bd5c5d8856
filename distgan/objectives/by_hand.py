"""Gradients of parameters that autograd does not make, and how it, and so DDP, comes by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from distgan.networks.chain import Chain, Link, Rows

Parts = dict[str, Tensor]
Loss = Callable[[Tensor], tuple[Tensor, Parts]]
"""A part of the loss as a function of scores [2N] or of input gradients [M, C, H, W], and what is told of it."""


class Passed(NamedTuple):
    """A chain after its forward and backward pass."""

    chain: Chain
    rows: Rows
    tangent: Tensor | None
    """The gradient of the penalty by each point's gradient, [M, C, H, W]; None without a penalty."""

    def gradients(self) -> list[Tensor]:
        """Those of the chain's parameters, in their order."""
        if self.tangent is not None:
            self.chain.tangent(self.tangent, self.rows)
        return _cast(self.chain, self.rows)


def pass_both_ways(
    chain: Chain, pictures: Tensor, points: Tensor | slice | None, score_loss: Loss, gradient_loss: Loss
) -> tuple[Tensor, Parts, Passed]:
    """The loss, what is told of it, and what the gradients of the parameters are to be made of.

    `pictures` [2N, C, H, W] are scored. The critic's gradient is taken at `points`: others [M, C, H, W], some of the
    pictures, or nowhere. The work is done in the dtype of the pictures.
    """
    count = len(pictures)
    scores = chain.forward(torch.cat([pictures, points]) if isinstance(points, Tensor) else pictures)
    by_score, (loss, parts) = torch.func.grad(_twice(score_loss), has_aux=True)(scores[:count])
    if points is None:
        rows = Rows(count, slice(0, 0), None)
        chain.backward(by_score, rows.points)
        return loss, parts, Passed(chain, rows, None)
    if isinstance(points, Tensor):
        rows = Rows(count, slice(count, len(scores)), None)
        starting = torch.cat([by_score, torch.ones_like(scores[count:])])
    else:
        ones = torch.ones_like(by_score)
        rows = Rows(count, points, torch.slice_scatter(ones, by_score[points], 0, points.start, points.stop))
        starting = torch.slice_scatter(by_score, ones[points], 0, points.start, points.stop)
    gradient = chain.backward(starting, rows.points)
    tangent, (penalty, more) = torch.func.grad(_twice(gradient_loss), has_aux=True)(gradient)
    loss = loss + penalty
    return loss, {**parts, **more, "critic/loss": loss}, Passed(chain, rows, tangent)


def _twice(part: Loss) -> Callable[[Tensor], tuple[Tensor, tuple[Tensor, Parts]]]:
    def both(x: Tensor) -> tuple[Tensor, tuple[Tensor, Parts]]:
        loss, parts = part(x)
        return loss, (loss.detach(), parts)

    return both


def _cast(link: Link, rows: Rows) -> list[Tensor]:
    pairs = zip(link.gradients(rows), link.parameters(), strict=True)
    return [gradient.to(parameter.dtype) for gradient, parameter in pairs]


class _Tangent:
    """On its way through the chain."""

    def __init__(self, value: Tensor | None) -> None:
        self.value = value

    def through(self, link: Link, rows: Rows) -> None:
        if self.value is not None:
            self.value = link.tangent(self.value, rows)


class _Stage(torch.autograd.Function):
    """The loss as it is; its backward brings the tangent through links and makes the gradients of their parameters."""

    @staticmethod
    def forward(ctx, loss: Tensor, tangent: _Tangent, links: list[Link], rows: Rows, *parameters: Tensor) -> Tensor:
        ctx.work = tangent, links, rows
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, by_loss: Tensor) -> tuple[Tensor | None, ...]:
        tangent, links, rows = ctx.work
        del ctx.work
        gradients: list[Tensor] = []
        with torch.no_grad(), torch.autocast(by_loss.device.type, enabled=False):
            for link in links:
                tangent.through(link, rows)
                gradients += _cast(link, rows)
            scaled = torch._foreach_mul(gradients, by_loss) if gradients else []
        return by_loss, None, None, None, *scaled


def attach_stages(loss: Tensor, passed: Passed, apart: bool) -> Tensor:
    """The loss, whose backward makes the gradients link after link from the pictures on.

    `apart`: autograd is given those of one link at a time, so that while DDP reduces them those of the next are made;
    else all together."""
    tangent, links = _Tangent(passed.tangent), list(passed.chain.links)
    for part in reversed(_parted(links) if apart else [links]):
        parameters = [parameter for link in part for parameter in link.parameters()]
        loss = _Stage.apply(loss, tangent, part, passed.rows, *parameters)
    return loss


def _parted(links: list[Link]) -> list[list[Link]]:
    """Each link that has parameters, after those before it that have none."""
    parts: list[list[Link]] = [[]]
    for link in links:
        parts[-1].append(link)
        if link.parameters():
            parts.append([])
    return [part for part in parts if part]


class _Made(torch.autograd.Function):
    """The loss as it is; its backward hands over gradients that are there already."""

    @staticmethod
    def forward(ctx, loss: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.gradients = tensors[count:]
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, by_loss: Tensor) -> tuple[Tensor | None, ...]:
        scaled = torch._foreach_mul(ctx.gradients, by_loss)
        return None, None, *scaled, *[None] * len(scaled)


def attach(loss: Tensor, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> Tensor:
    """The loss, whose backward leaves these gradients in the parameters."""
    return _Made.apply(loss, len(parameters), *parameters, *gradients)


class Whole(nn.Module):
    """A loss and the gradients of its parameters as one pure function, for the compiler to make one graph of."""

    def __init__(self, compute: Callable, network: nn.Module) -> None:
        """`compute` uses the parameters of `network` and returns the loss and what is told of it."""
        super().__init__()
        self.network = network
        self._compute = compute

    def forward(self, *args: object, **kwargs: object) -> tuple[Tensor, Parts]:
        return self._compute(*args, **kwargs)

    def gradients(self, *args: object, **kwargs: object) -> tuple[Tensor, Parts, list[Tensor]]:
        """Loss, what is told of it, and the gradient of each parameter, in their order."""
        parameters = {name: parameter.detach() for name, parameter in self.named_parameters()}

        def loss_of(values: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, Parts]]:
            loss, parts = functional_call(self, values, args, kwargs)
            return loss, (loss.detach(), parts)

        found, (loss, parts) = torch.func.grad(loss_of, has_aux=True)(parameters)
        return loss, parts, list(found.values())
