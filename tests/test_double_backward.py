"""The double backward of convolutions is torch's own in value, and has no kernel of the size of an image."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from functorch.compile import make_boxed_func
from launching import TINY
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._functorch.aot_autograd import aot_module_simplified
from torch._inductor.utils import fresh_cache
from torch.utils._python_dispatch import TorchDispatchMode

from distgan import double_backward
from distgan.assembly import make_critic
from distgan.config import load_config
from distgan.objectives.critic import CriticObjective
from distgan.parity.reference import Batch, critic_gradients
from distgan.randomness import image_keys

KINDS = {
    "3 x 3": partial(nn.Conv2d, 4, 6, 3, padding=1),
    "1 x 1": partial(nn.Conv2d, 4, 6, 1),
    "strided, no bias": partial(nn.Conv2d, 4, 6, 4, stride=2, padding=1, bias=False),
    "grouped": partial(nn.Conv2d, 4, 6, 3, padding=1, groups=2),
    "depthwise": partial(nn.Conv2d, 4, 4, 3, padding=1, groups=4),
    "dilated": partial(nn.Conv2d, 4, 6, 3, padding=2, dilation=2),
    "transposed": partial(nn.ConvTranspose2d, 4, 6, 4, stride=2, padding=1),
    "transposed, grouped, with output padding": partial(
        nn.ConvTranspose2d, 4, 6, 3, stride=2, padding=1, output_padding=1, groups=2
    ),
}


@pytest.fixture
def installed():
    was_installed = double_backward.is_installed()
    double_backward.install()
    yield
    if not was_installed:
        double_backward.uninstall()


def _convolution(kind: str, layout=torch.contiguous_format) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    convolution = KINDS[kind]().double().to(memory_format=layout)
    return convolution, torch.randn(3, 4, 8, 8).double().to(memory_format=layout)


def penalty_gradients(convolution: nn.Module, x: Tensor) -> list[Tensor]:
    """By the weights of a penalty that also differentiates the weights' own gradients."""
    x = x.detach().requires_grad_()
    loss = convolution(x).tanh().sum()
    first = torch.autograd.grad(loss, [x, *convolution.parameters()], create_graph=True)
    return list(torch.autograd.grad(sum(g.square().sum() for g in first), [x, *convolution.parameters()]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_torchs_own(kind, layout, installed):
    subject = _convolution(kind, layout)
    found = penalty_gradients(*subject)
    with double_backward.torchs_own():
        assert not double_backward.is_installed()
        wanted = penalty_gradients(*subject)
    assert double_backward.is_installed()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_differentiated_again(kind, installed):
    convolution, x = _convolution(kind)
    weight = convolution.weight

    def gradient(x: Tensor, weight: Tensor) -> Tensor:
        made = torch.func.functional_call(convolution, {"weight": weight}, x).tanh().sum()
        return torch.autograd.grad(made, x, create_graph=True)[0]

    inputs = (x[:1, :, :4, :4].clone().requires_grad_(), weight.detach().requires_grad_())
    assert torch.autograd.gradcheck(gradient, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(gradient, inputs, fast_mode=True)


class _Kernels(TorchDispatchMode):
    """The largest kernel of all convolutions."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default:
            self.largest = max(self.largest, *args[1].shape[2:])
        return function(*args, **(kwargs or {}))


def _largest_kernel(convolution: nn.Module, x: Tensor) -> int:
    with _Kernels() as seen:
        penalty_gradients(convolution, x)
    return seen.largest


def test_no_kernel_is_as_large_as_the_image(installed):
    assert _largest_kernel(*_convolution("3 x 3")) == 3
    with double_backward.torchs_own():
        assert _largest_kernel(*_convolution("3 x 3")) == 8


def test_compiled_code_has_it_too(installed):
    """In one graph with the penalty, as objectives are compiled."""
    convolution, x = _convolution("3 x 3")
    weight = convolution.weight.detach()
    kernels = []

    def loss(weight: Tensor) -> Tensor:
        gradient = torch.func.grad(
            lambda x: torch.func.functional_call(convolution, {"weight": weight}, x).tanh().sum()
        )
        return gradient(x).square().sum()

    def note(graph, _):
        kernels.extend(
            n.args[1].meta["val"].shape[-1] for n in graph.graph.nodes if "aten.convolution." in str(n.target)
        )
        return make_boxed_func(graph.forward)

    def backend(graph, inputs):
        return aot_module_simplified(graph, inputs, fw_compiler=note)

    torch._dynamo.reset()
    found = torch.compile(torch.func.grad(loss), backend=backend, fullgraph=True)(weight)
    torch.testing.assert_close(found, torch.func.grad(loss)(weight), rtol=1e-12, atol=1e-12)
    assert kernels and max(kernels) == 3


def test_what_is_kept_compiled_with_torchs_own_is_not_taken(installed):
    """Torch's cache on disk knows operators by their names."""
    x, weight = torch.randn(2, 2, 5, 5), torch.randn(2, 2, 3, 3)

    def penalty(weight: Tensor) -> Tensor:
        return torch.func.grad(lambda x: torch.nn.functional.conv2d(x, weight).tanh().sum())(x).square().sum()

    def hits() -> int:
        torch._dynamo.reset()
        counters.clear()
        torch.compile(torch.func.grad(penalty), dynamic=False)(weight)
        return counters["aot_autograd"]["autograd_cache_hit"]

    with fresh_cache(), torch._functorch.config.patch(enable_autograd_cache=True):
        with double_backward.torchs_own():
            assert (hits(), hits()) == (0, 1)
        assert (hits(), hits()) == (0, 1)


def test_who_has_an_objective_has_it_and_the_reference_has_torchs_own():
    double_backward.uninstall()
    critic = make_critic(load_config([TINY]))
    CriticObjective(critic)
    assert double_backward.is_installed()
    images = torch.randn(2, 2, 3, 16, 16, dtype=torch.float64)
    batch = Batch(*images, None, image_keys(0, torch.arange(2)))
    with _Kernels() as seen:
        critic_gradients(_Critic().double(), batch)
    assert seen.largest > 10
    assert double_backward.is_installed()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [1, 2, 4, 8, 12])
def test_in_bf16_it_is_right_for_any_number_of_images(count, layout, installed):
    """Torch's own is not, on CPUs, for 2 to 14 (docs/log.md)."""
    torch.manual_seed(0)
    weight, x, g, v = torch.randn(8, 8, 3, 3), *torch.randn(3, count, 8, 32, 32)
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        w, pictures = weight.to(dtype).requires_grad_(), x.to(dtype, memory_format=layout).requires_grad_()
        made = torch.nn.functional.conv2d(pictures, w, padding=1)
        (first,) = torch.autograd.grad(made, pictures, g.to(dtype), create_graph=True)
        found.append(torch.autograd.grad(first, w, v.to(dtype))[0].float())
    assert (found[0] - found[1]).norm() < 0.01 * found[1].norm()


class _Critic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, images: Tensor, labels: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        return self.convolution(images).tanh().sum((1, 2, 3))
