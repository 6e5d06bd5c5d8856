"""The critic's loss as the papers write it: one image after the other, by plain autograd."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from distgan import randomness
from distgan.networks import build_critic

CRITICS = {"mlp": 8, "dcgan": 16, "resnet": 32}
"""The smallest resolution of each family that covers its layers."""


def small_critic(name: str, classes: int = 0, norm: str = "none") -> nn.Module:
    torch.manual_seed(3)
    width = {"mlp": 12, "dcgan": 4, "resnet": 4}[name]
    settings = {"resolution": CRITICS[name], "channels": 3, "classes": classes, "width": width, "norm": norm}
    critic = build_critic(name, **settings).double()
    with torch.no_grad():  # gradients of the order of one, so that one-sided penalties are not zero
        for parameter in critic.parameters():
            parameter.mul_(3 if parameter.ndim > 1 and name != "resnet" else 1.5)
    return critic


def batch(name: str, count: int, classes: int = 0) -> dict[str, Tensor | None]:
    """What the objective is called with: `count` images of a global batch."""
    keys = randomness.image_keys(11, torch.arange(count))
    shape = (3, CRITICS[name], CRITICS[name])
    draw = {role: randomness.normal(keys, role, shape, torch.float64).tanh() for role in ("real", "fake")}
    labels = torch.arange(count) % classes if classes else None
    return {**draw, "labels": labels, "keys": keys}


def rows(inputs: dict, start: int, stop: int) -> dict:
    return {name: None if value is None else value[start:stop] for name, value in inputs.items()}


def log1m_sigmoid(score: Tensor) -> Tensor:
    return logsigmoid(-score)


CRITIC_LOSSES = {
    "wasserstein": lambda real, fake: fake - real,
    "nonsaturating": lambda real, fake: -logsigmoid(real) - log1m_sigmoid(fake),
    "minimax": lambda real, fake: -logsigmoid(real) - log1m_sigmoid(fake),
    "hinge": lambda real, fake: max(0 * real, 1 - real) + max(0 * fake, 1 + fake),
    "relativistic": lambda real, fake: -logsigmoid(real - fake),
}
PENALTIES = {
    "gp": (("mix",), lambda norm, target: (norm - target) ** 2),
    "lp": (("mix",), lambda norm, target: max(0 * norm, norm - target) ** 2),
    "r1": (("real",), lambda norm, target: norm**2 / 2),
    "r2": (("fake",), lambda norm, target: norm**2 / 2),
    "r1r2": (("real", "fake"), lambda norm, target: norm**2 / 2),
    "clip": ((), None),
    "none": ((), None),
}


def reference_loss(
    critic: nn.Module,
    inputs: dict,
    *,
    loss: str = "wasserstein",
    penalty: str = "gp",
    weight: float = 10.0,
    target: float = 1.0,
    every: int = 1,
    drift: float = 0.0,
    penalise: bool = True,
) -> Tensor:
    """The mean over the images of loss + weight * every * penalty + drift * D(x)^2."""
    count = len(inputs["keys"])
    epsilons = randomness.uniform(inputs["keys"], "epsilon", dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    where, term = PENALTIES[penalty]
    for i in range(count):
        one = rows(inputs, i, i + 1)
        real, fake, label = one["real"], one["fake"], one["labels"]
        points = {"real": real, "fake": fake, "mix": epsilons[i] * real + (1 - epsilons[i]) * fake}
        real_score, fake_score = critic(real, label)[0], critic(fake, label)[0]
        total = total + CRITIC_LOSSES[loss](real_score, fake_score) + drift * real_score**2
        for name in where if penalise else ():
            point = points[name].detach().requires_grad_()
            (gradient,) = torch.autograd.grad(critic(point, label)[0], point, create_graph=True)
            total = total + weight * every * term((gradient**2).sum().sqrt(), target)
    return total / count


def gradients(loss: Tensor, critic: nn.Module) -> dict[str, Tensor]:
    names, parameters = zip(*critic.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of any parameter's gradient, relative to the largest gradient there is."""
    assert one.keys() == other.keys()
    scale = max(gradient.abs().max().item() for gradient in other.values())
    return max((one[name] - other[name]).abs().max().item() for name in one) / scale
