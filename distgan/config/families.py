"""The networks and their optimisers: each family with its own settings."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from distgan.config.values import Count, Fraction, Positive, Section


def _two(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _group(value: int) -> int:
    if value < 0 or value == 1:
        raise ValueError("0 (none), or a group of 2 images or more: one alone does not vary")
    return value


Group = Annotated[int, AfterValidator(_group)]
Betas = Annotated[tuple[Fraction, Fraction], BeforeValidator(_two)]
Norm = Literal["none", "batch", "layer", "instance", "group"]


class Schedule(Section):
    lr: Positive = 1e-4
    """Learning rate (alpha) at the start."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """How the learning rate falls to zero at train.length."""
    decay_start: Fraction = 0.0
    """Share of train.length after which it begins to fall."""


class Adam(Schedule):
    """Kingma and Ba 2015."""

    name: Literal["adam"] = "adam"
    """The optimiser."""
    betas: Betas = (0.0, 0.9)
    """Decay rates of the two moments (WGAN-GP: 0, 0.9; DCGAN: 0.5, 0.999)."""
    eps: Positive = 1e-8
    """Added to the denominator."""


class RmsProp(Schedule):
    """Hinton's RMSprop, the optimiser of the WGAN paper (there with lr 5e-5)."""

    name: Literal["rmsprop"]
    """The optimiser."""
    alpha: Fraction = 0.99
    """Decay rate of the second moment."""
    eps: Positive = 1e-8
    """Added to the denominator."""


def _adam_unless_named(value: object) -> object:
    return {"name": "adam", **value} if isinstance(value, dict) else value


Optimizer = Annotated[Adam | RmsProp, Field(discriminator="name"), BeforeValidator(_adam_unless_named)]


class Network(Section):
    grows: ClassVar[bool] = False
    """Whether it can begin at a lower resolution (`growing`)."""
    optimizer: Optimizer = Adam()
    """The optimiser of this network."""

    def resolutions(self) -> list[int] | None:
        """The resolutions that the family is defined for, or None for any."""
        return None


class _Dcgan(Network):
    def resolutions(self) -> list[int] | None:
        return sorted(base * 2**k for base in (4, 7) for k in range(1, 7) if 16 <= base * 2**k <= 256)


class _Resnet(Network):
    def resolutions(self) -> list[int] | None:
        return [32, 64, 128, 256]


class _UpTo1024(Network):
    def resolutions(self) -> list[int] | None:
        return [8, 16, 32, 64, 128, 256, 512, 1024]


class _Progressive(_UpTo1024):
    grows: ClassVar[bool] = True


class MlpGenerator(Network):
    """Fully connected generator (WGAN's and WGAN-GP's)."""

    name: Literal["mlp"]
    """The network family."""
    latent: Count = 128
    """Dimension of the standard normal latent z."""
    width: Count = 512
    """Units of a hidden layer."""
    depth: Count = 3
    """Hidden layers."""
    norm: Literal["none", "batch", "layer"] = "none"
    """Normalisation after each hidden layer."""


class MlpCritic(Network):
    """Fully connected critic."""

    name: Literal["mlp"]
    """The network family."""
    width: Count = 512
    """Units of a hidden layer."""
    depth: Count = 3
    """Hidden layers."""
    norm: Literal["none", "batch", "layer"] = "none"
    """Normalisation of hidden layers; batch only without a gradient penalty."""
    dropout: Fraction = 0.0
    """Share of the hidden units set to zero."""


class DcganGenerator(_Dcgan):
    """Convolutional generator (Radford et al. 2016)."""

    name: Literal["dcgan"]
    """The network family."""
    latent: Count = 128
    """Dimension of the standard normal latent z."""
    width: Count = 64
    """Channels before the last layer; they double with each halving of the resolution, to 8 times at most."""
    norm: Norm = "batch"
    """Normalisation; batch uses the statistics of the global batch."""
    upsample: Literal["transposed", "nearest"] = "transposed"
    """Transposed convolutions, or nearest-neighbour upsampling followed by a convolution."""


class DcganCritic(_Dcgan):
    """Convolutional critic (Radford et al. 2016)."""

    name: Literal["dcgan"]
    """The network family."""
    width: Count = 64
    """Channels after the first layer; they double with each halving of the resolution, to 8 times at most."""
    norm: Norm = "none"
    """Normalisation; batch only without a gradient penalty."""
    dropout: Fraction = 0.0
    """Share of the activations set to zero."""
    minibatch_std: Group = 0
    """Images of a group whose standard deviation is a last map (Progressive GAN sec. 3, code: 4); 0: none."""


class ResnetGenerator(_Resnet):
    """Residual generator of WGAN-GP's appendix."""

    name: Literal["resnet"]
    """The network family."""
    latent: Count = 128
    """Dimension of the standard normal latent z."""
    width: Count = 128
    """Channels: of all blocks at 32 px; the base width that larger resolutions multiply."""
    norm: Norm = "batch"
    """Normalisation; batch uses the statistics of the global batch."""


class ResnetCritic(_Resnet):
    """Residual critic of WGAN-GP's appendix, its mean pools folded into the convolutions."""

    name: Literal["resnet"]
    """The network family."""
    width: Count = 128
    """Channels: of all blocks at 32 px; the base width that larger resolutions multiply."""
    norm: Norm = "none"
    """Normalisation; batch only without a gradient penalty."""


class ProgressiveGenerator(_Progressive):
    """Progressive GAN's generator (Karras et al. 2018; there Adam with lr 1e-3, betas 0, 0.99 and eps 1e-8)."""

    name: Literal["progressive"]
    """The network family."""
    latent: Count = 512
    """Dimension of the standard normal latent z."""
    width: Count = 512
    """Channels up to 32 px; they halve with each doubling of the resolution from there on."""


class ProgressiveCritic(_Progressive):
    """Progressive GAN's critic (Karras et al. 2018; there Adam with lr 1e-3, betas 0, 0.99 and eps 1e-8)."""

    name: Literal["progressive"]
    """The network family."""
    width: Count = 512
    """Channels up to 32 px; they halve with each doubling of the resolution from there on."""
    minibatch_std: Group = 4
    """Images of a group whose standard deviation is a last map (Progressive GAN sec. 3); 0: none."""


class SkipGenerator(_UpTo1024):
    """Generator with output skips: StyleGAN2's without style (Karras et al. 2020; Adam there with lr 2e-3)."""

    name: Literal["skip"]
    """The network family."""
    latent: Count = 512
    """Dimension of the standard normal latent z."""
    width: Count = 512
    """Channels up to 32 px; they halve with each doubling of the resolution from there on."""


class ResidualCritic(_UpTo1024):
    """Residual critic of StyleGAN2 (Karras et al. 2020; Adam there with lr 2e-3)."""

    name: Literal["residual"]
    """The network family."""
    width: Count = 512
    """Channels up to 32 px; they halve with each doubling of the resolution from there on."""
    minibatch_std: Group = 4
    """Images of a group whose standard deviation is a last map (Progressive GAN sec. 3); 0: none, which lets the
    gradient penalty be computed in fewer multiplications."""


class ModernGenerator(_UpTo1024):
    """R3GAN's generator: grouped convolutions, no norm (Huang et al. 2024)."""

    name: Literal["modern"]
    """The network family."""
    latent: Count = 64
    """Dimension of the standard normal latent z."""
    width: Count = 768
    """Channels up to 32 px; they halve with each doubling of the resolution from there on."""
    blocks: Count = 2
    """Residual blocks at each resolution."""


class ModernCritic(_UpTo1024):
    """R3GAN's critic, for objective.loss relativistic and penalty r1r2 (Huang et al. 2024)."""

    name: Literal["modern"]
    """The network family."""
    width: Count = 768
    """Channels up to 32 px; they halve with each doubling of the resolution from there on."""
    blocks: Count = 2
    """Residual blocks at each resolution."""


Generator = Annotated[
    MlpGenerator | DcganGenerator | ResnetGenerator | ProgressiveGenerator | SkipGenerator | ModernGenerator,
    Field(discriminator="name"),
]
Critic = Annotated[
    MlpCritic | DcganCritic | ResnetCritic | ProgressiveCritic | ResidualCritic | ModernCritic,
    Field(discriminator="name"),
]
