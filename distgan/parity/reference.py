"""What the gradients of an update must be: the papers' equations, image after image, in float64, on one process.

It shares nothing with `distgan.objectives` but the draws (epsilon, latents, dropout), which are part of what a run is.
Its networks are those of `textbook`, its inner gradient is `autograd.grad(create_graph=True)`, its double backward of
convolutions torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from distgan import randomness
from distgan.double_backward import torchs_own
from distgan.parity.textbook import unit

Gradients = dict[str, Tensor]
Augmented = Callable[[Tensor, Tensor, str], Tensor]
"""Of pictures [n, C, H, W], their keys [n] and their role what the critic sees."""


class Batch(NamedTuple):
    """A global batch: `real` and `fake` [N, C, H, W], `labels` [N] or None, image keys [N]."""

    real: Tensor
    fake: Tensor
    labels: Tensor | None
    keys: Tensor

    def rows(self, start: int, stop: int) -> Batch:
        return Batch(*(None if part is None else part[start:stop] for part in self))


class Term(NamedTuple):
    """The part of a few images in a batch's loss: sums over them."""

    images: int
    loss: Tensor
    wasserstein: Tensor
    norms: Tensor
    """Gradient norms [M] where the penalty is taken; none without one."""
    gradients: Gradients


CRITIC_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    # WGAN-GP eq. 3; GAN eq. 1; Miyato et al. 2018 eq. 16; Jolicoeur-Martineau 2019
    "wasserstein": lambda real, fake: fake - real,
    "nonsaturating": lambda real, fake: -logsigmoid(real) - logsigmoid(-fake),
    "minimax": lambda real, fake: -logsigmoid(real) - logsigmoid(-fake),
    "hinge": lambda real, fake: (1 - real).clamp(min=0) + (1 + fake).clamp(min=0),
    "relativistic": lambda real, fake: -logsigmoid(real - fake),
}
GENERATOR_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "wasserstein": lambda real, fake: -fake,
    "nonsaturating": lambda real, fake: -logsigmoid(fake),
    "minimax": lambda real, fake: logsigmoid(-fake),
    "hinge": lambda real, fake: -fake,
    "relativistic": lambda real, fake: -logsigmoid(fake - real),
}
PENALTIES: dict[str, tuple[tuple[str, ...], Callable[[Tensor, float], Tensor]]] = {
    # where the gradient is taken, and the term of its norm: WGAN-GP eq. 3; WGAN-LP eq. 7; Mescheder et al. eq. 9, 10
    "gp": (("between",), lambda norm, target: (norm - target) ** 2),
    "lp": (("between",), lambda norm, target: (norm - target).clamp(min=0) ** 2),
    "r1": (("real",), lambda norm, target: norm**2 / 2),
    "r2": (("fake",), lambda norm, target: norm**2 / 2),
    "r1r2": (("real", "fake"), lambda norm, target: norm**2 / 2),
    "clip": ((), lambda norm, target: norm),
    "none": ((), lambda norm, target: norm),
}


def critic_terms(
    critic: nn.Module,
    batch: Batch,
    *,
    loss: str = "wasserstein",
    penalty: str = "gp",
    weight: float = 10.0,
    target: float = 1.0,
    every: int = 1,
    drift: float = 0.0,
    penalise: bool = True,
    scores: bool = True,
    augmented: Augmented | None = None,
) -> Iterator[Term]:
    """The loss of each image (of each group, where scores depend on one) and its gradients, in order.

    `critic`: a `textbook` network; `penalise`: whether this update of a lazy penalty has it; `scores` False leaves
    nothing but the penalty.
    """
    where, term = PENALTIES[penalty]
    size = unit(critic, len(batch.keys))
    for start in range(0, len(batch.keys), size):
        some = _seen(batch.rows(start, start + size), augmented)
        real = critic(some.real, some.labels, randomness.subkeys(some.keys, "real"))
        fake = critic(some.fake, some.labels, randomness.subkeys(some.keys, "fake"))
        total = (CRITIC_LOSSES[loss](real, fake) + drift * real**2).sum() * scores
        norms = [_norms(critic, some, point, i) for i, point in enumerate(where)] if penalise else []
        for found in norms:
            total = total + weight * every * term(found, target).sum()
        gradients = _gradients(total, critic)
        flat = torch.cat([found.detach() for found in norms]) if norms else real.new_zeros(0)
        yield Term(len(some.keys), total.detach(), (real - fake).sum().detach(), flat, gradients)


def _seen(some: Batch, augmented: Augmented | None) -> Batch:
    """T(x) and T(x~) for x and x~; the penalty is of these (ADA, section 2.2)."""
    if augmented is None:
        return some
    pictures = {role: augmented(getattr(some, role), some.keys, role) for role in ("real", "fake")}
    return some._replace(**pictures)


def _norms(critic: nn.Module, some: Batch, point: str, role: int) -> Tensor:
    """|grad_x D(x)| of each image at reals, fakes, or x^ = epsilon x + (1 - epsilon) x~ (WGAN-GP algorithm 1)."""
    epsilon = randomness.uniform(some.keys, "epsilon", dtype=torch.float64)[:, None, None, None]
    points = {"real": some.real, "fake": some.fake, "between": epsilon * some.real + (1 - epsilon) * some.fake}
    x = points[point].detach().requires_grad_()
    scores = critic(x, some.labels, randomness.subkeys(some.keys, f"penalty {role}"))
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return torch.linalg.vector_norm(gradient.flatten(1), dim=1)


def critic_gradients(critic: nn.Module, batch: Batch, **settings) -> Gradients:
    """The gradient of the mean loss over the batch; settings as of `critic_terms`."""
    return mean(critic_terms(critic, batch, **settings))


def mean(terms: Iterable[Term]) -> Gradients:
    """The mean over the images of all terms."""
    images, total = 0, None
    for term in terms:
        images += term.images
        total = term.gradients if total is None else {name: total[name] + term.gradients[name] for name in total}
    return {name: gradient / images for name, gradient in total.items()}


def generator_gradients(
    generator: nn.Module,
    critic: nn.Module,
    latent: Tensor,
    batch: Batch,
    *,
    loss: str = "wasserstein",
    augmented: Augmented | None = None,
) -> Gradients:
    """The gradient of the generator's mean loss over the batch; the fakes are made anew from latents [N, latent]."""
    fakes = generator(latent, batch.labels)
    size, total = unit(critic, len(latent)), torch.zeros((), dtype=torch.float64, device=latent.device)
    for start in range(0, len(latent), size):
        some = batch.rows(start, start + size)._replace(fake=fakes[start : start + size])
        some = _seen(some, augmented)
        fake = critic(some.fake, some.labels, randomness.subkeys(some.keys, "fake"))
        real = critic(some.real, some.labels, randomness.subkeys(some.keys, "real"))
        total = total + GENERATOR_LOSSES[loss](real, fake).sum()
    return _gradients(total / len(latent), generator)


def _gradients(loss: Tensor, network: nn.Module) -> Gradients:
    names, parameters = zip(*network.named_parameters(), strict=True)
    with torchs_own():
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))
