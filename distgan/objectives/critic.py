"""The critic's whole loss, penalty included, as one module: one forward that meets one backward under DDP."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from distgan import double_backward, randomness
from distgan.networks.norms import batch_norms
from distgan.networks.recomputing import recomputes
from distgan.objectives.by_hand import Passed, Whole, attach, attach_stages, pass_both_ways
from distgan.objectives.losses import LOSSES
from distgan.objectives.norm_counts import norm_counts
from distgan.objectives.penalties import PENALTIES, image_norms

INNER_SCALE = 16.0
"""The scores are multiplied by this before the inner gradient is taken, and the gradient divided by it. A power of two
changes no bit of it in float32 and bfloat16, far from the ends of their range; in float16 it keeps entries from
vanishing where the critic is flat, and has room to grow where it is steep (benchmarks/inner_gradient.py,
docs/penalty.md)."""


class CriticObjective(nn.Module):
    """L = E[loss(D(x), D(x~))] + weight * every * E[penalty] + drift * E[D(x)^2].

    DDP wraps this module and never the critic: a penalty whose own backward goes past the wrapper is silently not
    reduced over the processes.
    """

    def __init__(
        self,
        critic: nn.Module,
        *,
        loss: str = "wasserstein",
        penalty: str = "gp",
        weight: float = 10.0,
        target: float = 1.0,
        every: int = 1,
        drift: float = 0.0,
        augmentation: nn.Module | None = None,
    ) -> None:
        """`augmentation` (pictures, keys, role) changes reals and fakes before anything else: D and its penalty see
        T(x) and T(x~) in their place."""
        super().__init__()
        double_backward.install()
        self.critic = critic
        self.augmentation = augmentation
        self.loss = LOSSES[loss].critic
        self.penalty = PENALTIES.get(penalty)
        self._apart = bool(batch_norms(critic))
        self.weight, self.target, self.drift = weight * every, target, drift
        self._is_chained = critic.piecewise_linear and not recomputes(critic)
        """Whether gradients are made by hand; not where activations are to be let go, as a chain keeps them all."""
        self.in_stages = False
        """Whether a chain's weight gradients, a convolution each, are given to autograd one after the other, also where
        all else is one graph, so that they can be reduced meanwhile."""
        self._compiled: Callable | None = None
        self._whole = (Whole(self._by_autograd, critic),)  # in a tuple: its parameters are registered already

    def forward(self, *args: object, **kwargs: object) -> tuple[Tensor, dict[str, Tensor]]:
        """See `compute`."""
        return self.compute(*args, **kwargs)

    def use_compiler(self, compiler: Callable[[Callable], Callable]) -> None:
        """From now on the loss and the gradients of all parameters come from one compiled function. Without a penalty,
        so without a double backward, and in float16, whose loss is scaled, autograd's two are compiled.

        `compiler` makes of a function one that returns the same, as `torch.compile` does.

        A penalty on batch norm is not compiled: what its processes tell each other is differentiated twice."""
        if self.augmentation is not None:
            self._augmented = compiler(self._augmented)
        if self._apart and self.penalty is not None:
            return
        if self._is_chained and self.in_stages:
            self._pass = compiler(self._pass)
        elif self._is_chained or self.penalty is not None:
            self._compiled = compiler(self.gradients)
        self._by_autograd = compiler(self._by_autograd)

    def compute(
        self, real: Tensor, fake: Tensor, labels: Tensor | None, keys: Tensor, penalise: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar, the mean over the N images given) and its parts, detached.

        `real`, `fake`: pictures [N, C, H, W] in [-1, 1], of which no gradient is wanted; `labels`: [N] or None, of the
        reals and taken for the fakes and interpolates too; `keys`: image keys [N] that decide epsilon and dropout;
        `penalise`: False for the updates that a lazy penalty leaves out.
        """
        if self.augmentation is not None:
            real, fake = self._augmented(real, fake, keys)
        update = (real, fake, labels, keys, penalise)
        scaled = _working_dtype(real) == torch.float16  # which a gradient must be from the loss on
        if scaled or not torch.is_grad_enabled():
            return self._by_autograd(*update)
        if self._compiled is not None:
            loss, parts, gradients = self._compiled(*update)
            return attach(loss, list(self.parameters()), gradients), parts
        if self._is_chained:
            loss, parts, passed = self._pass(*update)
            return attach_stages(loss, passed, self.in_stages), parts
        return self._by_autograd(*update)

    def gradients(
        self, real: Tensor, fake: Tensor, labels: Tensor | None, keys: Tensor, penalise: bool = True
    ) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        """As `compute` of pictures that are augmented already, and the gradient of each parameter, in their order: one
        pure function. Not for float16."""
        if not self._is_chained:
            return self._whole[0].gradients(real, fake, labels, keys, penalise)
        loss, parts, passed = self._pass(real, fake, labels, keys, penalise)
        with torch.no_grad():
            made = dict(zip(map(id, passed.chain.parameters()), passed.gradients(), strict=True))
        return loss, parts, [made[id(parameter)] for parameter in self.parameters()]

    @torch.no_grad()
    def _augmented(self, real: Tensor, fake: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return self.augmentation(real, keys, "real"), self.augmentation(fake, keys, "fake")

    @torch.no_grad()
    def _pass(
        self, real: Tensor, fake: Tensor, labels: Tensor | None, keys: Tensor, penalise: bool
    ) -> tuple[Tensor, dict[str, Tensor], Passed]:
        penalty = self.penalty if penalise else None
        pictures, dtype = torch.cat([real, fake]), _working_dtype(real)
        if penalty is None or penalty.among is None:
            points = None if penalty is None else self._points(real, fake, keys).to(dtype)
        else:
            points = slice(*(len(real) * place for place in penalty.among))
        copies = penalty.copies if isinstance(points, Tensor) else 0
        with torch.autocast(real.device.type, enabled=False):
            chain = self.critic.chain(None if labels is None else labels.repeat(2 + copies))
            return pass_both_ways(chain, pictures.to(dtype), points, self._loss_of_scores, self._loss_of_gradient)

    def _by_autograd(
        self, real: Tensor, fake: Tensor, labels: Tensor | None, keys: Tensor, penalise: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`compute` by autograd alone, which any critic allows."""
        loss, parts = self._loss_of_scores(self._scores(torch.cat([real, fake]), labels, keys, ("real", "fake")))
        if self.penalty is not None and penalise:
            penalty, more = self._loss_of_gradient(self._input_gradient(real, fake, labels, keys))
            loss, parts = loss + penalty, {**parts, **more, "critic/loss": (loss + penalty).detach()}
        return loss, parts

    def _loss_of_scores(self, scores: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """From the scores [2N] of reals and fakes."""
        real_scores, fake_scores = scores.chunk(2)
        loss = self.loss(real_scores, fake_scores).mean()
        if self.drift:
            loss = loss + self.drift * real_scores.square().mean()
        wasserstein = (real_scores - fake_scores).mean()
        return loss, {"critic/loss": loss.detach(), "critic/wasserstein": wasserstein.detach()}

    def _loss_of_gradient(self, gradient: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted penalty, from the gradients [M, C, H, W] of the scores by their pictures."""
        norms = image_norms(gradient)
        penalty = self.penalty.copies * self.penalty.term(norms, self.target).mean()
        detached = norms.detach()
        return self.weight * penalty, {
            "critic/penalty": penalty.detach(),
            "critic/grad_norm_mean": detached.mean(),
            "critic/grad_norm_max": detached.max(),
            "critic/grad_norm_histogram": norm_counts(detached),
        }

    def _scores(self, images: Tensor, labels: Tensor | None, keys: Tensor, roles: tuple[str, ...]) -> Tensor:
        """Scores of several groups of N pictures in one forward; each role has its own dropout.

        A critic with batch norm sees each group alone, as DCGAN and WGAN have it: together, it would be trained as
        one function and used by the generator, whose pictures come alone, as another.
        """
        if self._apart and len(roles) > 1:
            groups = zip(images.chunk(len(roles)), roles, strict=True)
            return torch.cat([self._scores(group, labels, keys, (role,)) for group, role in groups])
        repeated = None if labels is None else labels.repeat(len(roles))
        subkeys = torch.cat([randomness.subkeys(keys, role) for role in roles])
        scores = self.critic(images, repeated, subkeys)
        return scores if scores.dtype == torch.float64 else scores.float()

    def _input_gradient(self, real: Tensor, fake: Tensor, labels: Tensor | None, keys: Tensor) -> Tensor:
        """The gradient of each score with respect to its own picture, itself differentiable: [M, C, H, W].

        The gradient of the SUM of scores is that of each score, as no norm of the critic looks at other pictures (a
        minibatch statistic does, within its group: see `MinibatchStd`).
        `torch.func.grad` is equal to `autograd.grad(create_graph=True)` to the bit; the one alone can be compiled, the
        other alone lets a critic recompute, and its batch norms hear of other processes. With batch norm the gradient
        of the sum is no longer that of each score (`objective.allow_batch_norm`).
        """
        points = self._points(real, fake, keys)
        roles = tuple(f"penalty {i}" for i in range(self.penalty.copies))

        def scaled_sum(x: Tensor) -> Tensor:
            return INNER_SCALE * self._scores(x, labels, keys, roles).sum()

        if (recomputes(self.critic) or self._apart) and torch.is_grad_enabled():
            points.requires_grad_()
            return torch.autograd.grad(scaled_sum(points), points, create_graph=True)[0] / INNER_SCALE
        return torch.func.grad(scaled_sum)(points) / INNER_SCALE

    def _points(self, real: Tensor, fake: Tensor, keys: Tensor) -> Tensor:
        """The pictures at which the penalty takes the gradient, [M, C, H, W]."""
        epsilon = randomness.uniform(keys, "epsilon", dtype=real.dtype)
        return self.penalty.points(real, fake, epsilon).detach()


def _working_dtype(like: Tensor) -> torch.dtype:
    """In which convolutions of float32 pictures work now."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
