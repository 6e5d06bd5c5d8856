"""Batch norm over all processes, the norms of single images, and the conditional norm."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from distgan.networks import GlobalBatchNorm, batch_norms, build_generator
from distgan.networks.norms import build_norm, normalise

SHAPES = [(6, 5, 4, 3), (6, 5)]
WAYS = pytest.mark.parametrize("way", ["alone", "together"])


def as_of_several(norm, way):
    """`norm`, which with `way` together computes as one of several processes does, though it is the only one."""
    if way == "together":
        norm.average = torch.clone
    return norm


def twins(shape, dtype=torch.float64, way="alone"):
    """Our batch norm and torch's, with the same gains and biases."""
    torch.manual_seed(0)
    usual = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1]).to(dtype)
    nn.init.normal_(usual.weight)
    nn.init.normal_(usual.bias)
    ours = as_of_several(GlobalBatchNorm(shape[1]).to(dtype), way)
    ours.load_state_dict(usual.state_dict())
    return ours, usual


@pytest.mark.parametrize("shape", SHAPES)
@WAYS
def test_one_process_equals_torchs_batch_norm_in_values_gradients_and_statistics(shape, way):
    ours, usual = twins(shape, way=way)
    for _ in range(3):
        x = (torch.randn(shape, dtype=torch.float64) * 3 + 50).requires_grad_()
        cotangent = torch.randn(shape, dtype=torch.float64)
        results = [norm(x) for norm in (ours, usual)]
        found = [
            torch.autograd.grad((result * cotangent).sum(), [x, norm.weight, norm.bias])
            for result, norm in zip(results, (ours, usual), strict=True)
        ]
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(ours.state_dict(), usual.state_dict(), rtol=1e-12, atol=1e-12)
    ours.eval(), usual.eval()
    torch.testing.assert_close(ours(x), usual(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.state_dict(), usual.state_dict(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@WAYS
def test_it_can_be_differentiated_twice(shape, way):
    ours, _ = twins(shape, way=way)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: ours(x), x, atol=1e-6)


@WAYS
def test_half_precision_is_normalised_in_float32_and_keeps_its_type(way):
    ours, _ = twins((64, 5, 4, 4), torch.float32, way)
    x = (torch.randn(64, 5, 4, 4) + 10).to(torch.bfloat16)
    exact = nn.functional.batch_norm(x.float(), None, None, ours.weight, ours.bias, training=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ours(x)
    assert found.dtype == torch.bfloat16 and ours.running_mean.dtype == torch.float32
    torch.testing.assert_close(found.float(), exact, rtol=1e-2, atol=2e-2)


@WAYS
def test_after_the_first_steps_a_large_mean_does_not_cancel_the_variance(way):
    norm, exact = as_of_several(GlobalBatchNorm(1), way), GlobalBatchNorm(1).double()
    torch.manual_seed(0)
    for _ in range(100):
        x = torch.randn(256, 1) + 1000
        found, expected = norm(x), exact(x.double())
    bound = 1e-3 if way == "alone" else 1e-4  # torch's kernel multiplies before it subtracts the mean
    torch.testing.assert_close(found.double(), expected, rtol=bound, atol=bound)


def test_a_single_value_a_channel_is_refused_in_training_only():
    norm = GlobalBatchNorm(3)
    with pytest.raises(ValueError, match="more than one value"):
        norm(torch.zeros(1, 3))
    assert norm.eval()(torch.zeros(1, 3)).shape == (1, 3)


@WAYS
def test_torch_func_gives_the_same_gradients_and_takes_in_the_same_statistics(way):
    ours, usual = twins((6, 5), way=way)
    x = torch.randn(6, 5, dtype=torch.float64)
    cotangent = torch.randn(6, 5, dtype=torch.float64)
    found = torch.func.grad(lambda x: (torch.func.functional_call(ours, {}, (x,)) * cotangent).sum())(x)
    leaf = x.clone().requires_grad_()
    (usual(leaf) * cotangent).sum().backward()
    torch.testing.assert_close(found, leaf.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.state_dict(), usual.state_dict(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@WAYS
def test_statistics_stay_finite_where_the_pictures_are_not(shape, value, way):
    """fp16 skips the update, and the channel's statistics must not be lost for good."""
    broken, whole = (twins(shape, way=way)[0] for _ in range(2))
    first, second = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    for norm in (broken, whole):
        norm(first)
    before = {name: buffer.clone() for name, buffer in broken.named_buffers()}
    overflown = second.clone()
    overflown[0, 2] = value
    assert not broken(overflown)[:, 2].isfinite().any(), "the overflow must be seen, or the update is not skipped"
    whole(second)
    others = torch.arange(shape[1]) != 2
    for name in ("running_mean", "running_var"):
        found, wanted = broken.get_buffer(name), whole.get_buffer(name)
        torch.testing.assert_close(found[2], before[name][2], rtol=0, atol=0)
        torch.testing.assert_close(found[others], wanted[others], rtol=0, atol=0)
    overflown.clamp_(-3, 3).nan_to_num_()
    assert broken(overflown).isfinite().all() and broken.eval()(overflown).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@WAYS
def test_compiled_code_has_the_same_gradients_and_statistics(shape, way):
    """Its backward may not compute anew, from statistics that have changed since, what the forward had computed."""
    torch._dynamo.reset()
    ours, twin = (twins(shape, way=way)[0] for _ in range(2))
    for _ in range(3):
        x = (torch.randn(shape, dtype=torch.float64) * 3 + 5).requires_grad_()
        cotangent = torch.randn(shape, dtype=torch.float64)
        found = []
        for norm, call in ((ours, torch.compile(ours)), (twin, twin)):
            found.append(torch.autograd.grad((call(x) * cotangent).sum(), [x, norm.weight, norm.bias]))
        torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours.state_dict(), twin.state_dict(), rtol=1e-12, atol=1e-12)


class _Mean(torch.autograd.Function):
    """Differentiable mean over the processes: its adjoint is itself."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x / dist.get_world_size()

    @staticmethod
    def backward(ctx, gradient):
        return _Mean.apply(gradient)


def _half(rank, network, latent, labels, cotangent, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for norm in batch_norms(network):
        norm.average, norm.processes = _Mean.apply, 2
    mine = slice(2 * rank, 2 * rank + 2)
    made = network(latent[mine], labels[mine])
    (made * cotangent[mine]).sum().backward()
    for parameter in network.parameters():
        dist.all_reduce(parameter.grad)
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    torch.save((made.detach(), gradients, dict(network.named_buffers())), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_half_the_batch_each_equal_one_with_the_whole(tmp_path):
    torch.manual_seed(0)
    network = build_generator("dcgan", resolution=16, channels=3, classes=2, width=4).double()
    other = copy.deepcopy(network)
    latent, labels = torch.randn(4, 128, dtype=torch.float64), torch.tensor([0, 1, 1, 1])
    cotangent = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    made = network(latent, labels)
    (made * cotangent).sum().backward()
    mp.start_processes(_half, (other, latent, labels, cotangent, tmp_path), nprocs=2, start_method="fork")
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(torch.cat([halves[0][0], halves[1][0]]), made.detach(), rtol=1e-10, atol=1e-12)
    expected = {name: parameter.grad for name, parameter in network.named_parameters()}
    for _, gradients, buffers in halves:
        torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(buffers, dict(network.named_buffers()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "name, over", [("layer", lambda x: x.flatten(1)), ("instance", lambda x: x.flatten(2)),
                   ("group", lambda x: x.unflatten(1, (32, 2)).flatten(2))]
)  # fmt: skip
def test_the_norms_of_single_images_standardise_what_their_name_says(name, over):
    x = torch.randn(3, 64, 4, 4, dtype=torch.float64) + torch.arange(64.0)[:, None, None]
    raw, found = over(x), over(build_norm(name, 64).double()(x))
    variance, mean = torch.var_mean(raw, -1, correction=0, keepdim=True)
    torch.testing.assert_close(found, (raw - mean) / (variance + 1e-5).sqrt(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["batch", "layer", "instance", "group"])
def test_a_conditional_norm_starts_as_the_unconditional_one_and_scales_by_class(name):
    x, labels = torch.randn(3, 8, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 1])
    conditional, plain = build_norm(name, 8, 2).double(), build_norm(name, 8).double()
    torch.testing.assert_close(normalise(conditional, x, labels), plain(x), rtol=1e-12, atol=1e-14)
    with torch.no_grad():
        conditional.gain.weight[1] = 3.0
        conditional.bias.weight[1] = 5.0
    found = normalise(conditional, x, labels)
    torch.testing.assert_close(found[0], plain(x)[0], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found[1:], 3 * plain(x)[1:] + 5, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("features, groups", [(1, 1), (2, 1), (4, 2), (9, 1), (64, 32), (512, 32)])
def test_a_group_has_more_than_one_channel_wherever_there_are_more(features, groups):
    assert build_norm("group", features).num_groups == groups
