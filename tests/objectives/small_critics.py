"""Small critics in float64, and what the papers' equations say of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distgan import randomness
from distgan.networks import build_critic
from distgan.parity.reference import Batch, Gradients, critic_terms, mean
from distgan.parity.textbook import textbook

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


def reference(critic: nn.Module, inputs: dict, **settings) -> tuple[float, Gradients]:
    """The mean loss over the images and its gradients."""
    terms = list(critic_terms(textbook(critic), Batch(**inputs), **settings))
    return sum(term.loss.item() for term in terms) / len(inputs["keys"]), mean(terms)


def gradients(loss: Tensor, critic: nn.Module) -> Gradients:
    names, parameters = zip(*critic.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))
