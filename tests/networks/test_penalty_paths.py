"""The cheap double backward gives the gradients of the textbook one, eager, functional and compiled."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks_under_test import (
    FAMILIES,
    NORMS,
    critic_loss,
    gradients,
    images,
    inner_gradient,
    largest_difference,
    penalty,
    small,
)
from torch import nn
from torch.func import functional_call, vjp

from distgan.networks import resampling
from distgan.networks.activations import leaky_relu, relu
from distgan.networks.resampling import PooledConv2d, UpsampledConv2d, fold_mean_pool
from distgan.parity.textbook import textbook
from distgan.randomness import image_keys

PER_IMAGE = [(name, side, norm) for name, side in FAMILIES for norm in NORMS[name] if norm != "batch"]
NONSMOOTH = torch.tensor([-2.0, -0.0, 0.0, 3.0, float("inf"), float("nan")])


def test_the_activations_equal_the_usual_ones_also_at_zero_and_beyond_the_numbers():
    for ours, usual in ((relu, torch.relu), (leaky_relu, lambda x: F.leaky_relu(x, 0.2))):
        one, other = NONSMOOTH.clone().requires_grad_(), NONSMOOTH.clone().requires_grad_()
        torch.testing.assert_close(ours(one), usual(other), rtol=0, atol=0, equal_nan=True)
        ours(one)[:4].sum().backward()
        usual(other)[:4].sum().backward()
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)


def test_the_activations_have_no_second_derivative_by_their_input():
    for ours in (relu, leaky_relu):
        x = torch.randn(5, requires_grad=True)
        (first,) = torch.autograd.grad(ours(x).sum(), x, create_graph=True)
        assert not first.requires_grad


@pytest.mark.parametrize(
    "name, side, norm, classes",
    [(*case, 0) for case in PER_IMAGE] + [(name, side, NORMS[name][0], 2) for name, side in FAMILIES],
)
def test_loss_and_gradients_of_a_critic_equal_the_textbooks(name, side, norm, classes):
    critic = small("critic", name, side, norm=norm, classes=classes)
    plain = textbook(critic)
    inputs = {"labels": torch.tensor([0, 1, 1])} if classes else {}
    real, fake = images(3, side), images(3, side, seed=2)
    losses = [critic_loss(network, real, fake, **inputs) for network in (critic, plain)]
    scale = max(1.0, losses[1].abs().item())
    assert abs(losses[0] - losses[1]).item() < 1e-12 * scale
    ours, theirs = gradients(losses[0], critic), gradients(losses[1], plain)
    largest = max(gradient.abs().max().item() for gradient in theirs.values())
    assert largest_difference(ours, theirs) < 1e-12 * max(1.0, largest)


def test_the_penalty_reaches_every_weight_but_no_bias_of_the_unnormalised_critic():
    critic = small("critic", "resnet", 32)
    for name, gradient in gradients(penalty(critic, images(2, 32)), critic).items():
        assert (gradient.abs().max() > 0) == name.endswith("weight"), name


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_folded_mean_pool_equals_convolution_and_pool(kernel):
    torch.manual_seed(0)
    folded = PooledConv2d(3, 4, kernel).double()
    plain = nn.Conv2d(3, 4, kernel, padding=kernel // 2).double()
    plain.load_state_dict(folded.state_dict())
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64, requires_grad=True)
    ours, theirs = folded(x), F.avg_pool2d(plain(x), 2)
    assert ours.shape == (2, 4, 3, 4) and fold_mean_pool(folded.weight).shape == (
        4,
        3,
        kernel + 1,
        kernel + 1,
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    weights = torch.randn_like(theirs)
    for output, layer in ((ours, folded), (theirs, plain)):
        layer.found = torch.autograd.grad((output * weights).sum(), [x, layer.weight, layer.bias])
    for one, other in zip(folded.found, plain.found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_mean_pool_before_a_pointwise_convolution_is_the_same_layer():
    folded = PooledConv2d(3, 4, 1).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    expected = F.conv2d(F.avg_pool2d(x, 2), folded.weight, folded.bias)
    torch.testing.assert_close(folded(x), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kernel, sides", [(1, (3, 5)), (3, (3, 5)), (3, (8, 9)), (5, (10, 8))])
def test_an_upsampled_convolution_convolves_repeated_pixels(kernel, sides):
    torch.manual_seed(0)
    layer = UpsampledConv2d(3, 4, kernel).double()
    x = torch.randn(2, 3, *sides, dtype=torch.float64, requires_grad=True)
    repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = F.conv2d(repeated, layer.weight, layer.bias, padding=kernel // 2)
    cotangent = torch.randn_like(expected)
    wanted = [x, layer.weight, layer.bias]
    gradients = torch.autograd.grad(expected, wanted, cotangent)
    for way in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        found = way(x)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(torch.autograd.grad(found, wanted, cotangent), gradients, rtol=1e-12, atol=1e-12)
    pulled = torch.func.grad(lambda x: (functional_call(layer, {}, (x,)) * cotangent).sum())(x.detach())
    torch.testing.assert_close(pulled, gradients[0], rtol=1e-12, atol=1e-12)


def test_the_upsampling_of_large_maps_is_folded(monkeypatch):
    """Nothing of twice the side with as many maps as the input is ever made."""
    seen = []
    monkeypatch.setattr(resampling, "upsample", lambda x: seen.append(x.shape) or F.interpolate(x, scale_factor=2.0))
    generator = small("generator", "resnet", 32)
    generator(torch.randn(2, 128, dtype=torch.float64))
    kernels = [block.conv1.kernel_size for block in generator.blocks]
    assert kernels == [(3, 3)] * 3 and len(seen) == 4, "three shortcuts of 1 x 1 and the first block's 4 x 4 maps"


def functional_loss(critic, parameters, real, inputs):
    """Mean score and penalty through torch.func alone."""
    scores, pull = vjp(lambda pictures: functional_call(critic, parameters, (pictures,), inputs), real)
    (gradient,) = pull(torch.ones_like(scores))
    return scores.mean() + (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@pytest.mark.parametrize("name, side, norm", PER_IMAGE)
def test_vjp_and_functional_call_give_the_same_gradients(name, side, norm):
    critic = small("critic", name, side, norm=norm)
    real, parameters = images(2, side), dict(critic.named_parameters())
    expected = gradients(critic(real).mean() + penalty(critic, real), critic)
    assert largest_difference(gradients(functional_loss(critic, parameters, real, {}), critic), expected) < 1e-12


@pytest.mark.parametrize(
    "name, side, settings",
    [
        ("mlp", 8, {"dropout": 0.3, "norm": "layer"}),
        ("dcgan", 16, {"dropout": 0.3, "norm": "group"}),
        ("dcgan", 16, {"minibatch_std": 3}),
        ("resnet", 32, {}),
        ("progressive", 16, {"minibatch_std": 3}),
    ],
)
def test_loss_and_penalty_compile_into_one_graph_with_the_same_gradients(name, side, settings):
    """The tracer and the autograd of the compiler, without its code generation: that takes half a minute."""
    torch._dynamo.reset()
    critic = small("critic", name, side, classes=2, **settings)
    real, parameters = images(3, side), dict(critic.named_parameters())
    inputs = {"labels": torch.tensor([0, 1, 1]), "keys": image_keys(5, torch.arange(3))}

    def loss(parameters, real, inputs):
        return functional_loss(critic, parameters, real, inputs)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    expected = gradients(critic(real, **inputs).mean() + penalty(critic, real, **inputs), critic)
    found = gradients(compiled(parameters, real, inputs), critic)
    assert largest_difference(found, expected) < 1e-12


@pytest.mark.parametrize("name, side", [("mlp", 8), ("dcgan", 16), ("resnet", 32)])
def test_a_generator_compiles_into_one_graph_and_takes_in_the_same_statistics(name, side):
    torch._dynamo.reset()
    twins = [small("generator", name, side, classes=2, norm="batch") for _ in range(2)]
    latent, labels = torch.randn(3, 128, dtype=torch.float64), torch.tensor([0, 1, 1])
    made = torch.compile(twins[0], backend="aot_eager", fullgraph=True)(latent, labels)
    torch.testing.assert_close(made, twins[1](latent, labels), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(twins[0].state_dict(), twins[1].state_dict(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "name, side, settings",
    [(*family, {}) for family in FAMILIES] + [(name, 16, {"minibatch_std": 2}) for name in ("dcgan", "progressive")],
)
def test_channels_last_gives_the_same_inner_gradient(name, side, settings):
    critic = small("critic", name, side, **settings)
    pictures = images(2, side)
    expected = inner_gradient(critic, pictures)
    critic = critic.to(memory_format=torch.channels_last)
    found = inner_gradient(critic, pictures.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
