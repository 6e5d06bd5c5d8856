"""What the parity suite compares: every way in which a critic's update can be computed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import nn

from distgan import randomness
from distgan.networks import build_critic
from distgan.parity.reference import Batch, Gradients, Term, critic_terms, mean
from distgan.parity.textbook import textbook

WORLD_SIZES = (1, 2, 4)

NETWORKS: dict[str, dict] = {
    "mlp": {"name": "mlp", "resolution": 8, "width": 12},
    "dcgan": {"name": "dcgan", "resolution": 16, "width": 4},
    "dcgan layer": {"name": "dcgan", "resolution": 16, "width": 4, "norm": "layer"},
    "dcgan instance": {"name": "dcgan", "resolution": 16, "width": 4, "norm": "instance"},
    "dcgan group": {"name": "dcgan", "resolution": 16, "width": 4, "norm": "group"},
    "dcgan minibatch, dropout": {"name": "dcgan", "resolution": 16, "width": 4, "minibatch_std": 2, "dropout": 0.2},
    "resnet": {"name": "resnet", "resolution": 32, "width": 4},
    "progressive": {"name": "progressive", "resolution": 8, "width": 8, "minibatch_std": 2},
    "residual": {"name": "residual", "resolution": 8, "width": 4, "minibatch_std": 0},
    "residual minibatch": {"name": "residual", "resolution": 8, "width": 4, "minibatch_std": 2},
    "progressive fading": {"name": "progressive", "resolution": 8, "width": 8, "minibatch_std": 2, "share": 0.4},
    "modern": {"name": "modern", "resolution": 8, "width": 8, "blocks": 1},
}

PENALTIES: dict[str, dict] = {
    "gp": {},
    "lp": {"penalty": "lp", "target": 0.7},
    "r1": {"penalty": "r1", "loss": "nonsaturating"},
    "r2": {"penalty": "r2", "loss": "hinge"},
    "r1r2": {"penalty": "r1r2", "loss": "relativistic"},
    "gp drift": {"drift": 0.1},
    "gp lazy": {"every": 3},
}

PRECISIONS = ("fp64", "fp32", "bf16", "fp16")
"""fp16 on a CPU is emulated by slow kernels, and its compiled form is left to machines with CUDA."""

AT_ONCE = 4
ACCUMULATIONS = {"1": 4, "2 equal": 8, "2 unequal": 6, "3 equal": 12, "3 unequal": 10}
"""Images of one process, of which AT_ONCE fit into a micro-batch: 4+4, 4+2, 4+4+4, 4+4+2."""

MOST = max(WORLD_SIZES) * max(ACCUMULATIONS.values())
CLASSES = 3


class Subject(NamedTuple):
    """One compiled or eager objective; it is tried on all world sizes and with all accumulations."""

    network: str
    penalty: str
    precision: str
    conditional: bool
    compiled: bool

    @property
    def numbers(self) -> tuple[int, ...]:
        """Updates that differ: a lazy penalty is in the first one only."""
        return (0, 1) if PENALTIES[self.penalty].get("every", 1) > 1 else (0,)


def subjects() -> Iterator[Subject]:
    """All of them; neighbours share what can be shared."""
    yield from (
        Subject(network, penalty, precision, conditional, compiled)
        for network, conditional, penalty, precision, compiled in product(
            NETWORKS, (False, True), PENALTIES, PRECISIONS, (False, True)
        )
        if not (compiled and precision == "fp16")
    )


def critic_of(network: str, conditional: bool) -> nn.Module:
    """A small float32 critic whose gradients have norms around one, so that one-sided penalties are not zero; with a
    `share`, one whose newest layers have come in so far."""
    torch.manual_seed(3)
    settings = dict(NETWORKS[network])
    share = settings.pop("share", None)
    critic = build_critic(channels=3, classes=CLASSES if conditional else 0, **settings).train()
    if share is not None:
        critic.growth.set_to(settings["resolution"], share)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    terms = critic_terms(textbook(critic), batch_of(network, conditional, 8), penalty="r1")
    norm = torch.cat([term.norms for term in terms]).mean().item()
    with torch.no_grad():
        for parameter in critic.score.parameters():
            parameter.mul_(1.5 / norm)
    return critic


@cache
def batch_of(network: str, conditional: bool, count: int = MOST) -> Batch:
    """The first images of a global batch, in float64 but exact in float32."""
    keys = randomness.image_keys(11, torch.arange(count))
    side = NETWORKS[network]["resolution"]
    real, fake = (randomness.normal(keys, role, (3, side, side), torch.float32).tanh() for role in ("real", "fake"))
    labels = torch.arange(count) % CLASSES if conditional else None
    return Batch(real.double(), fake.double(), labels, keys)


@cache
def _terms(network: str, conditional: bool, penalty: str, penalise: bool) -> tuple[Iterator[Term], list[Term]]:
    """The images' terms to come, and those that were needed so far."""
    plain, batch = textbook(critic_of(network, conditional)), batch_of(network, conditional)
    return critic_terms(plain, batch, **PENALTIES[penalty], penalise=penalise), []


def wanted(subject: Subject, number: int, count: int) -> Gradients:
    """The reference's gradients for the first `count` images."""
    penalise = number % PENALTIES[subject.penalty].get("every", 1) == 0
    coming, terms = _terms(subject.network, subject.conditional, subject.penalty, penalise)
    while sum(term.images for term in terms) < count:
        terms.append(next(coming))
    return mean(terms[: count // terms[0].images])
