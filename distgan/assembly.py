"""From a config to live objects: networks, objectives, optimisers."""

from __future__ import annotations

import torch
from torch import nn

from distgan import randomness
from distgan.augmentation.pipeline import Augmentation
from distgan.config import Config
from distgan.config.families import Adam, Network, RmsProp
from distgan.networks import build_critic, build_generator, recompute
from distgan.objectives.critic import CriticObjective
from distgan.objectives.generator import GeneratorObjective


def make_generator(config: Config) -> nn.Module:
    """The generator with its initial weights, a function of the seed."""
    torch.manual_seed(randomness.key(config.seed, "generator weights"))
    return _set_up(build_generator(**generator_settings(config)), config)


def generator_settings(config: Config) -> dict[str, object]:
    """All that `build_generator` needs."""
    return _settings(config, config.generator)


def make_critic(config: Config) -> nn.Module:
    """The critic with its initial weights, a function of the seed."""
    torch.manual_seed(randomness.key(config.seed, "critic weights"))
    return _set_up(build_critic(**_settings(config, config.critic)), config)


def _set_up(network: nn.Module, config: Config) -> nn.Module:
    if config.train.checkpoint_activations:
        recompute(network)
    return network


def _settings(config: Config, network: Network) -> dict:
    own = network.model_dump(exclude={"optimizer"})
    data = config.data
    return {"resolution": data.resolution, "channels": data.channels, "classes": data.classes, **own}


def make_augmentation(config: Config) -> Augmentation | None:
    """What the critic sees pictures through; with the strength that a run begins with. None: nothing."""
    augment = config.augment
    if augment is None:
        return None
    return Augmentation(augment.classes, 0.0 if augment.strength == "adaptive" else augment.strength)


def make_critic_objective(
    config: Config, critic: nn.Module, augmentation: Augmentation | None = None
) -> CriticObjective:
    objective = config.objective.model_dump(exclude={"clip", "allow_batch_norm"})
    return CriticObjective(critic, **objective, augmentation=augmentation)


def make_generator_objective(
    config: Config, generator: nn.Module, critic: nn.Module, augmentation: Augmentation | None = None
) -> GeneratorObjective:
    return GeneratorObjective(generator, critic, loss=config.objective.loss, augmentation=augmentation)


def make_optimizer(settings: Adam | RmsProp, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of a network; fused into one kernel where the device has it."""
    parameters = list(network.parameters())
    if isinstance(settings, Adam):
        on_cuda = parameters[0].is_cuda
        return torch.optim.Adam(parameters, settings.lr, betas=settings.betas, eps=settings.eps, fused=on_cuda or None)
    return torch.optim.RMSprop(parameters, settings.lr, alpha=settings.alpha, eps=settings.eps)
