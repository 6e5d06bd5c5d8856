"""What the tests of the networks share: small networks and the WGAN-GP critic loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distgan.networks import build_critic, build_generator
from distgan.networks.growth import in_use

FAMILIES = (
    *(("mlp", 8), ("dcgan", 16), ("dcgan", 28), ("resnet", 32), ("resnet", 64)),
    *(("progressive", 16), ("skip", 16), ("modern", 16)),
)
"""Names and resolutions that cover every code path at little cost; a pair goes by its generator's name."""

_PARTNERS = {("critic", "skip"): "residual", ("generator", "residual"): "skip"}

NORMS = {name: ("none", "batch", "layer", "instance", "group") for name in ("dcgan", "resnet")}
NORMS["mlp"] = ("none", "batch", "layer")
NORMS |= {name: (None,) for name in ("progressive", "skip", "residual", "modern")}
"""Of a family without the setting: None."""

UNBOUNDED = ("progressive", "skip", "modern")
"""Families whose generators have no tanh at their end."""

_OWN = {("generator", name): {"latent": 128} for name in ("progressive", "skip", "modern")}
_OWN |= {("critic", name): {"minibatch_std": 0} for name in ("progressive", "residual")}


def small(role: str, name: str, resolution: int, *, classes: int = 0, seed: int = 0, **settings: object) -> nn.Module:
    """A narrow float64 generator or critic for RGB images, the critic without groups unless `settings` say so."""
    torch.manual_seed(seed)
    name = _PARTNERS.get((role, name), name)
    build = build_generator if role == "generator" else build_critic
    settings = {"width": 16 if name == "mlp" else 4, **_OWN.get((role, name), {}), **settings}
    given = {key: value for key, value in settings.items() if (key, value) != ("norm", None)}
    network = build(name, resolution=resolution, channels=3, classes=classes, **given).double()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 4 and not parameter.any():  # a block's last layer, which would hide those before it
                parameter.normal_(std=0.3)
    return network


def in_use_by_name(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters in use now."""
    used = set(in_use(network))
    return {name: parameter for name, parameter in network.named_parameters() if parameter in used}


def images(count: int, resolution: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, resolution, resolution, generator=generator, dtype=torch.float64) * 2 - 1


def inner_gradient(critic: nn.Module, interpolates: Tensor, **inputs: Tensor) -> Tensor:
    """The gradient [N, C, H, W] of the scores by the images, differentiable."""
    leaf = interpolates.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(leaf, **inputs).sum(), leaf, create_graph=True)
    return gradient


def penalty(critic: nn.Module, interpolates: Tensor, **inputs: Tensor) -> Tensor:
    """WGAN-GP eq. 3, without its weight."""
    norms = torch.linalg.vector_norm(inner_gradient(critic, interpolates, **inputs).flatten(1), dim=1)
    return (norms - 1).square().mean()


def critic_loss(critic: nn.Module, real: Tensor, fake: Tensor, **inputs: Tensor) -> Tensor:
    wasserstein = critic(fake, **inputs).mean() - critic(real, **inputs).mean()
    return wasserstein + 10 * penalty(critic, 0.3 * real + 0.7 * fake, **inputs)


def gradients(loss: Tensor, network: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter by name; zero where the loss does not depend on it."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)
