"""States of small runs, and what is in them."""

from __future__ import annotations

import copy

import torch

from distgan import checkpoint
from distgan.networks import build_critic, build_generator

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-2, betas=(0.5, 0.9)),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-2),
}


def fresh(kind: str, seed: int, dtype: torch.dtype = torch.float32) -> checkpoint.TrainState:
    """The networks of a run as the runtime places them, before any step."""
    torch.manual_seed(seed)
    common = {"resolution": 16, "channels": 3, "classes": 0, "width": 4}
    generator = build_generator("dcgan", latent=4, norm="batch", **common)
    critic = build_critic("dcgan", **common)
    networks = {
        checkpoint.GENERATOR: generator,
        checkpoint.GENERATOR_EMA: copy.deepcopy(generator).requires_grad_(False),
        checkpoint.CRITIC: critic,
    }
    for network in networks.values():
        network.to(dtype, memory_format=torch.channels_last)
    make = OPTIMIZERS[kind]
    optimizers = {"critic": make(critic.parameters()), "generator": make(generator.parameters())}
    return checkpoint.TrainState(networks, optimizers, checkpoint.Progress())


def train(state: checkpoint.TrainState, steps: int, seed: int = 0) -> None:
    generator, critic = state.networks[checkpoint.GENERATOR], state.networks[checkpoint.CRITIC]
    dtype = next(critic.parameters()).dtype
    for step in range(state.progress.step, state.progress.step + steps):
        torch.manual_seed(1000 * seed + step)
        for optimizer in state.optimizers.values():
            optimizer.zero_grad()
            critic(generator(torch.randn(4, 4).to(dtype)).to(memory_format=torch.channels_last)).mean().backward()
            optimizer.step()
    state.progress.step += steps
    state.progress.images += 64 * steps
    state.progress.seconds += 0.1 + 0.2


def everything(state: checkpoint.TrainState) -> dict[str, torch.Tensor]:
    """All tensors of a state by name."""
    found = {
        f"{file}.{name}": t for file, network in state.networks.items() for name, t in network.state_dict().items()
    }
    for name, optimizer in state.optimizers.items():
        for index, fields in optimizer.state_dict()["state"].items():
            found |= {f"{name}.{index}.{field}": tensor for field, tensor in fields.items()}
    return found


def assert_same(one: checkpoint.TrainState, other: checkpoint.TrainState) -> None:
    mine, theirs = everything(one), everything(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name
        assert (tensor.dtype, tensor.stride()) == (theirs[name].dtype, theirs[name].stride()), name
    assert one.progress == other.progress


def move(state: checkpoint.TrainState) -> None:
    """A step that only moves the weights."""
    with torch.no_grad():
        for parameter in state.networks[checkpoint.CRITIC].parameters():
            parameter.add_(1)
    state.progress.step += 1
