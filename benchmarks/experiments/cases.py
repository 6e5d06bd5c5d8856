"""Every experiment: its config, what is changed of it for two CPU cores and an hour, and how it is judged."""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """Pictures for `distgan prepare`."""

    kind: str
    archive: str
    """Pattern of the file or folder; the first that fits is taken."""
    options: tuple[str, ...] = ()


class Experiment(NamedTuple):
    """A run. `metrics`: for `distgan evaluate`."""

    config: str
    source: str
    overrides: tuple[str, ...]
    metrics: tuple[str, ...]


SOURCES = {
    "mnist": Source("mnist", "mnist*"),
    "cifar10": Source("cifar10", "cifar*"),
    "celeba64": Source("celeba", "*celeba*", ("--resolution", "64")),
    "quickdraw": Source("quickdraw", "quickdraw*"),
}

_LABELLED = ("swd", "fd_own", "modes")
_PLAIN = ("swd", "ms_ssim")

_MNIST = ("train.length=192 kimg", "generator.latent=10", "checkpoint.every=48 kimg", "tracking.every=10 steps")
"""All on as many pictures, with the same generator."""
_FAST = ("generator.optimizer.lr=5e-4", "critic.optimizer.lr=5e-4")
"""For so short a training."""
_CELEBA = (
    *("train.length=500 steps", "train.batch_size=32", "train.ema_kimg=5", *_FAST),
    *("generator.width=16", "critic.width=16"),
    *("checkpoint.every=100 steps", "samples.every=50 steps", "tracking.every=10 steps"),
)
_CIFAR10 = (
    *("train.length=2400 steps", "generator.width=16", "critic.width=16"),
    *("checkpoint.every=400 steps", "samples.every=100 steps", "tracking.every=10 steps"),
)
_QUICKDRAW = ("train.length=3750 steps", "checkpoint.every=750 steps", "tracking.every=10 steps")

EXPERIMENTS = {
    "mnist_wgan_gp": Experiment("mnist_wgan_gp", "mnist", (*_MNIST, *_FAST), _LABELLED),
    "mnist_dcgan": Experiment("mnist_dcgan", "mnist", _MNIST, _LABELLED),
    "mnist_wgan": Experiment("mnist_wgan", "mnist", _MNIST, _LABELLED),
    "mnist_wgan_clip_0.005": Experiment("mnist_wgan", "mnist", (*_MNIST, "objective.clip=0.005"), _LABELLED),
    "celeba64": Experiment("celeba64", "celeba64", _CELEBA, _PLAIN),
    "celeba64_batch_norm": Experiment("bad/celeba64_batch_norm", "celeba64", _CELEBA, _PLAIN),
    "mnist_by_label": Experiment("mnist_wgan_gp", "mnist", (*_MNIST, *_FAST, "data.classes=10"), _LABELLED),
    "quickdraw_gan": Experiment("quickdraw_gan", "quickdraw", _QUICKDRAW, _LABELLED),
    "cifar10_wgan": Experiment("cifar10_wgan", "cifar10", _CIFAR10, _LABELLED),
    "celeba64_nearest": Experiment("celeba64", "celeba64", (*_CELEBA, "generator.upsample=nearest"), _PLAIN),
}
"""In the order in which they are run."""

CHECKERED = ("celeba64", "celeba64_nearest")
"""Those whose pictures' spectra are looked at."""

COMMON = ("checkpoint.keep=100", "train.precision=bf16")
