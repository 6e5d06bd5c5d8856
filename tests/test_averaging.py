from __future__ import annotations

import torch
from torch import nn

from distgan.averaging import WeightAverage
from distgan.networks import build_generator


def generator() -> nn.Module:
    torch.manual_seed(0)
    return build_generator("dcgan", resolution=16, channels=3, classes=0, latent=4, width=4, norm="batch").double()


def move(network: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.copy_(tensor + torch.randn(tensor.shape) if tensor.is_floating_point() else tensor + 1)


def test_it_is_the_exponentially_weighted_mean_of_what_it_saw():
    network, decays = generator(), [0.5, 0.9, 0.0, 0.99]
    average = WeightAverage(network)
    seen = [[p.detach().clone() for p in network.parameters()]]
    for seed, decay in enumerate(decays):
        move(network, seed)
        average.update(network, decay)
        seen.append([p.detach().clone() for p in network.parameters()])
    weights = [1.0]
    for decay in decays:
        weights = [weight * decay for weight in weights] + [1 - decay]
    assert abs(sum(weights) - 1) < 1e-15
    for place, mine in enumerate(average.network.parameters()):
        wanted = sum(weight * moment[place] for weight, moment in zip(weights, seen, strict=True))
        torch.testing.assert_close(mine, wanted, rtol=1e-13, atol=1e-14)


def test_buffers_are_copied_and_not_averaged():
    network = generator()
    average = WeightAverage(network)
    move(network, 1)
    average.update(network, 0.9)
    buffers = dict(average.network.named_buffers())
    assert any("running_mean" in name for name in buffers)
    assert all(torch.equal(buffers[name], theirs) for name, theirs in network.named_buffers())


def test_a_decay_of_zero_is_the_network_itself():
    network = generator()
    average = WeightAverage(network)
    move(network, 1)
    average.update(network, 0.0)
    assert all(map(torch.equal, average.network.parameters(), network.parameters()))


def test_it_is_a_copy_that_is_not_trained():
    network = generator().train()
    average = WeightAverage(network)
    assert not average.network.training and network.training
    assert not any(p.requires_grad for p in average.network.parameters())
    assert all(p.requires_grad for p in network.parameters())
    assert not {p.data_ptr() for p in network.parameters()} & {p.data_ptr() for p in average.network.parameters()}
