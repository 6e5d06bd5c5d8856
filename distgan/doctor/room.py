"""Whether a step of training can fit into memory at all: what it takes at the least, known before it is tried."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from distgan.assembly import make_critic, make_generator
from distgan.config import Config
from distgan.doctor.disk import checkpoint_bytes
from distgan.doctor.steps import room_of
from distgan.doctor.table import NOT_FINE, Finding, amount
from distgan.doctor.way_out import smaller
from distgan.networks.activations import LeakyReLU, ReLU
from distgan.objectives.penalties import PENALTIES
from distgan.runtime import Runtime

_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
_ACTIVATIONS = (LeakyReLU, ReLU)
_BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}


class Least(NamedTuple):
    """Bytes that a step takes on a process, at least."""

    networks: int
    """Weights, their average, gradients, and what the optimisers keep."""
    batch: int
    """The pictures of this process."""
    image: int
    """What is kept for the backward of each picture that is worked on at a time."""

    def of(self, micro_batch: int) -> int:
        """All of it."""
        return self.networks + self.batch + micro_batch * self.image


def least(config: Config, world_size: int, *, eager: bool) -> Least:
    """By the shapes alone. What a layer gets is kept for the gradient of its weights: of the critic for reals and
    fakes, and once more where a penalty is taken. What an activation gets is kept too; a compiler finds another way."""
    data, train = config.data, config.train
    with torch.device("meta"):
        generator, critic = make_generator(config), make_critic(config)
        latent = torch.empty(2, config.generator.latent)
        images = torch.empty(
            2 * (getattr(config.critic, "minibatch_std", 0) or 1), data.channels, *2 * [data.resolution]
        )
    kinds = (*_LAYERS, *(_ACTIVATIONS if eager else ()))
    penalty, full = PENALTIES.get(config.objective.penalty), 8 if train.precision == "fp64" else 4
    passes = 2 + (penalty.copies if penalty is not None else 0)
    image = max(passes * _inputs(critic, kinds, images, data.classes), _inputs(generator, kinds, latent, data.classes))
    weights = sum(parameter.numel() for network in (generator, critic) for parameter in network.parameters())
    pictures = train.batch_size // world_size * data.channels * data.resolution**2
    return Least(checkpoint_bytes(config) + full * weights, (1 + full) * pictures, _BYTES[train.precision] * image)


def check_room(config: Config, runtime: Runtime) -> list[Finding]:
    """A row where a step cannot fit; nothing where it may."""
    needed, room = least(config, runtime.world_size, eager=not runtime.compiles), room_of(runtime)
    train = config.train
    local = train.batch_size // runtime.world_size
    micro = min(train.micro_batch or local, local)
    if needed.of(micro) <= room:
        return []
    where = "on the device" if runtime.device.type == "cuda" else "of memory"
    text = (
        f"a step takes {amount(needed.of(micro))} at least, {amount(needed.networks)} of it for the networks, their "
        f"gradients and optimizers; {amount(room)} {where} are free"
    )
    if needed.of(1) > room:
        what = "narrower networks" if needed.networks > room else "a smaller train.batch_size or more processes"
        return [Finding("memory", NOT_FINE, f"{text}; use {what}")]
    left = room - needed.networks - needed.batch
    way_out = smaller(config, runtime, lambda micro: micro * needed.image <= left / 2)
    return [Finding("memory", NOT_FINE, f"{text}; {way_out}")]


def _inputs(network: nn.Module, kinds: tuple[type[nn.Module], ...], given: Tensor, classes: int) -> int:
    """Numbers that parts of these kinds get for a row of `given`; a tensor that several get counts once."""
    seen: dict[int, Tensor] = {}

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[id(inputs[0])] = inputs[0]

    for part in network.modules():
        if isinstance(part, kinds):
            part.register_forward_pre_hook(note)
    labels = torch.zeros(len(given), dtype=torch.int64, device="meta") if classes else None
    with torch.no_grad():
        network.eval()(given, labels)
    return sum(tensor.numel() for tensor in seen.values()) // len(given)
