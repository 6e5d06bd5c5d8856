"""Losses of the two networks as functions of the critic's scores.

Each takes scores [N] of real and generated pictures and gives one term an image [N]; the objective is their mean.
The pair at position i is (real[i], fake[i]), which matters to the relativistic loss alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import logsigmoid, relu


class Loss(NamedTuple):
    """What critic and generator minimise. `paired`: the generator's term needs the scores of reals too."""

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor | None], Tensor]
    paired: bool = False


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) to the last bits; torch's own is x beyond 20, with a gradient that is 2e-9 off."""
    return -logsigmoid(-x)


def _wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """D(x~) - D(x), WGAN-GP eq. 3 without its penalty (Gulrajani et al. 2017)."""
    return fake - real


def _gan_critic(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(D(x)) - log(1 - s(D(x~))), GAN eq. 1 (Goodfellow et al. 2014); 2 ln 2 when the critic cannot tell."""
    return softplus(-real) + softplus(fake)


def _hinge_critic(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(x~)) (Lim and Ye 2017; Miyato et al. 2018, eq. 16)."""
    return relu(1 - real) + relu(1 + fake)


def _relativistic_critic(real: Tensor, fake: Tensor) -> Tensor:
    """-log s(D(x) - D(x~)), the relativistic pairing loss (Jolicoeur-Martineau 2019; R3GAN, Huang et al. 2024)."""
    return softplus(fake - real)


def _raise_score(fake: Tensor, real: Tensor | None) -> Tensor:
    """-D(x~): the generator of WGAN (Arjovsky et al. 2017) and of the hinge loss."""
    return -fake


def _nonsaturating_generator(fake: Tensor, real: Tensor | None) -> Tensor:
    """-log s(D(x~)), GAN section 3."""
    return softplus(-fake)


def _minimax_generator(fake: Tensor, real: Tensor | None) -> Tensor:
    """log(1 - s(D(x~))), GAN eq. 1."""
    return -softplus(fake)


def _relativistic_generator(fake: Tensor, real: Tensor | None) -> Tensor:
    """-log s(D(x~) - D(x))."""
    return softplus(real - fake)


LOSSES = {
    "wasserstein": Loss(_wasserstein_critic, _raise_score),
    "nonsaturating": Loss(_gan_critic, _nonsaturating_generator),
    "minimax": Loss(_gan_critic, _minimax_generator),
    "hinge": Loss(_hinge_critic, _raise_score),
    "relativistic": Loss(_relativistic_critic, _relativistic_generator, paired=True),
}
