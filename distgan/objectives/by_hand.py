"""Gradients of parameters that autograd does not make, and how it, and so DDP, comes by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from distgan.networks.chain import Chain, Link

Parts = dict[str, Tensor]
Loss = Callable[[Tensor], tuple[Tensor, Parts]]
"""A part of the loss as a function of scores [2N] or of input gradients [M, C, H, W], and what is told of it."""


class Passed(NamedTuple):
    """A chain after its forward and backward pass."""

    chain: Chain
    scored: int
    """Rows whose scores are in the loss."""
    tangent: Tensor | None
    """The gradient of the penalty by each picture's gradient, [M, C, H, W]; None without a penalty."""

    def gradients(self) -> list[Tensor]:
        """Those of the chain's parameters, in their order."""
        if self.tangent is not None:
            self.chain.tangent(self.tangent)
        return _cast(self.chain, self.scored)


def pass_both_ways(
    chain: Chain, pictures: Tensor, points: Tensor | None, score_loss: Loss, gradient_loss: Loss
) -> tuple[Tensor, Parts, Passed]:
    """The loss, what is told of it, and what the gradients of the parameters are to be made of.

    `pictures` [2N, C, H, W] are scored; at `points` [M, C, H, W], unless None, the critic's gradient is taken. The
    work is done in their dtype.
    """
    scored = len(pictures)
    scores = chain.forward(pictures if points is None else torch.cat([pictures, points]))
    by_score, (loss, parts) = torch.func.grad(_twice(score_loss), has_aux=True)(scores[:scored])
    if points is None:
        chain.backward(by_score, scored)
        return loss, parts, Passed(chain, scored, None)
    gradient = chain.backward(torch.cat([by_score, torch.ones_like(scores[scored:])]), scored)
    tangent, (penalty, more) = torch.func.grad(_twice(gradient_loss), has_aux=True)(gradient)
    loss = loss + penalty
    return loss, {**parts, **more, "critic/loss": loss}, Passed(chain, scored, tangent)


def _twice(part: Loss) -> Callable[[Tensor], tuple[Tensor, tuple[Tensor, Parts]]]:
    def both(x: Tensor) -> tuple[Tensor, tuple[Tensor, Parts]]:
        loss, parts = part(x)
        return loss, (loss.detach(), parts)

    return both


def _cast(link: Link, scored: int) -> list[Tensor]:
    pairs = zip(link.gradients(scored), link.parameters(), strict=True)
    return [gradient.to(parameter.dtype) for gradient, parameter in pairs]


class _Tangent:
    """On its way through the chain."""

    def __init__(self, value: Tensor | None) -> None:
        self.value = value

    def through(self, link: Link) -> None:
        if self.value is not None:
            self.value = link.tangent(self.value)


class _Stage(torch.autograd.Function):
    """The loss as it is; its backward brings the tangent through a link and makes the gradients of its parameters."""

    @staticmethod
    def forward(ctx, loss: Tensor, tangent: _Tangent, link: Link, scored: int, *parameters: Tensor) -> Tensor:
        ctx.work = tangent, link, scored
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, by_loss: Tensor) -> tuple[Tensor | None, ...]:
        tangent, link, scored = ctx.work
        del ctx.work
        with torch.no_grad(), torch.autocast(by_loss.device.type, enabled=False):
            tangent.through(link)
            gradients = _cast(link, scored)
            scaled = torch._foreach_mul(gradients, by_loss) if gradients else []
        return by_loss, None, None, None, *scaled


def attach_stages(loss: Tensor, passed: Passed) -> Tensor:
    """The loss, whose backward makes the gradients link after link from the pictures on.

    While DDP reduces those of one link, those of the next are made."""
    tangent = _Tangent(passed.tangent)
    for link in reversed(passed.chain.links):
        loss = _Stage.apply(loss, tangent, link, passed.scored, *link.parameters())
    return loss


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
