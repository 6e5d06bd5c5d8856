"""The critic's whole loss, penalty included, as one module: one forward that meets one backward under DDP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distgan import randomness
from distgan.networks.norms import batch_norms
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
    ) -> None:
        super().__init__()
        self.critic = critic
        self.loss = LOSSES[loss].critic
        self.penalty = PENALTIES.get(penalty)
        self._apart = bool(batch_norms(critic))
        self.weight, self.target, self.drift = weight * every, target, drift

    def forward(self, *args, **kwargs) -> tuple[Tensor, dict[str, Tensor]]:
        """See `compute`, in whose place a compiled version of itself may stand."""
        return self.compute(*args, **kwargs)

    def compute(
        self, real: Tensor, fake: Tensor, labels: Tensor | None, keys: Tensor, penalise: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar, the mean over the N images given) and its parts, detached.

        `real`, `fake`: pictures [N, C, H, W] in [-1, 1], of which no gradient is wanted; `labels`: [N] or None, of the
        reals and taken for the fakes and interpolates too; `keys`: image keys [N] that decide epsilon and dropout;
        `penalise`: False for the updates that a lazy penalty leaves out.
        """
        scores = self._scores(torch.cat([real, fake]), labels, keys, ("real", "fake"))
        real_scores, fake_scores = scores.chunk(2)
        loss = self.loss(real_scores, fake_scores).mean()
        parts = {"critic/wasserstein": (real_scores - fake_scores).mean().detach()}
        if self.drift:
            loss = loss + self.drift * real_scores.square().mean()
        if self.penalty is not None and penalise:
            norms = image_norms(self._input_gradient(real, fake, labels, keys))
            penalty = self.penalty.copies * self.penalty.term(norms, self.target).mean()
            loss = loss + self.weight * penalty
            detached = norms.detach()
            parts["critic/penalty"] = penalty.detach()
            parts["critic/grad_norm_mean"], parts["critic/grad_norm_max"] = detached.mean(), detached.max()
            parts["critic/grad_norm_histogram"] = norm_counts(detached)
        return loss, {"critic/loss": loss.detach(), **parts}

    def _scores(self, images: Tensor, labels: Tensor | None, keys: Tensor, roles: tuple[str, ...]) -> Tensor:
        """Scores of several groups of N pictures in one forward; each role has its own dropout.

        A critic with batch norm sees each group alone, as DCGAN and WGAN have it: together, it would be trained as
        one function and used by the generator, whose pictures come alone, as another.
        """
        if self._apart and len(roles) > 1:
            groups = zip(images.chunk(len(roles)), roles, strict=True)
            return torch.cat([self._scores(group, labels, keys, (role,)) for group, role in groups])
        repeated = None if labels is None else labels.repeat(len(roles))
        scores = self.critic(images, repeated, torch.cat([randomness.subkeys(keys, role) for role in roles]))
        return scores if scores.dtype == torch.float64 else scores.float()

    def _input_gradient(self, real: Tensor, fake: Tensor, labels: Tensor | None, keys: Tensor) -> Tensor:
        """The gradient of each score with respect to its own picture, itself differentiable: [M, C, H, W].

        The gradient of the SUM of scores is that of each score, as no norm of the critic looks at other pictures (a
        minibatch statistic does, within its group: see `MinibatchStd`).
        `torch.func.grad` is equal to `autograd.grad(create_graph=True)` to the bit, and it alone can be compiled.
        """
        epsilon = randomness.uniform(keys, "epsilon", dtype=real.dtype)
        points = self.penalty.points(real, fake, epsilon).detach()
        roles = tuple(f"penalty {i}" for i in range(self.penalty.copies))
        return torch.func.grad(lambda x: INNER_SCALE * self._scores(x, labels, keys, roles).sum())(points) / INNER_SCALE
