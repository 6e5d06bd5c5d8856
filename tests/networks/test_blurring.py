"""Low-pass filters beside strided convolutions: what they compute, also differentiated twice, and what they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import upfirdn
from torch import Tensor

from distgan.networks.blurring import Blur, BlurredUpConv2d, enlarged_smoothly, filtered, shifted_and_added, spread
from distgan.networks.resampling import upsample

TAPS = np.array([1.0, 3.0, 3.0, 1.0]) / 8


def along_both(x: Tensor, taps: np.ndarray, up: int = 1, down: int = 1) -> Tensor:
    """scipy's filter along both axes, zeros around; all pixels that it reaches."""
    rows = upfirdn(taps, x.detach().numpy(), up, down, axis=2)
    return torch.from_numpy(upfirdn(taps, rows, up, down, axis=3))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_blur_is_scipys_filter_with_zeros_around(stride):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    everything = along_both(x, TAPS)  # [9, 11], from 3 pixels before the image on
    wanted = everything[:, :, 1:-1, 1:-1] if stride == 1 else everything[:, :, 2:-1:2, 2:-1:2]
    found = Blur(3, stride).double()(x)
    assert found.shape[2:] == ((7, 9) if stride == 1 else (3, 4))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("way", ["eager", "compiled", "functional"])
def test_a_blur_is_linear_in_every_derivative(way, stride):
    """The gradient of |gradient of sum(w * blur(x)^3)|^2 by x, against a plain convolution's."""
    torch.manual_seed(1)
    x, blur = torch.randn(2, 3, 6, 6, dtype=torch.float64), Blur(3, stride).double()
    one = blur.filter[:1]

    def plain(x: Tensor) -> Tensor:
        maps = F.conv2d(x.flatten(0, 1)[:, None], one, stride=stride, padding=3 - stride)
        return maps.unflatten(0, x.shape[:2])[:, :, 0]

    def penalty(layer, x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: layer(x).pow(3).sum())(x).square().sum()

    wanted = torch.func.grad(lambda x: penalty(plain, x))(x)
    if way == "functional":
        found = torch.func.grad(lambda x: penalty(blur, x))(x)
    elif way == "compiled":
        whole = torch.compile(lambda x: torch.func.grad(lambda x: penalty(blur, x))(x), backend="aot_eager")
        found = whole(x)
    else:
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(blur(leaf).pow(3).sum(), leaf, create_graph=True)
        (found,) = torch.autograd.grad(first.square().sum(), leaf)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("side", [(6, 8), (7, 5)])
@pytest.mark.parametrize("stride, padding", [(1, 2), (1, 1), (2, 1)])
def test_shifted_copies_added_are_the_filter(stride, padding, side):
    x, filters = torch.randn(2, 3, *side, dtype=torch.float64), Blur(3).double().filter
    found = shifted_and_added(x, stride, padding)
    torch.testing.assert_close(found, filtered(x, filters, stride, padding), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("stride, padding", [(1, 2), (1, 1), (2, 1)])
def test_shifted_copies_of_large_numbers_overflow_in_no_sum_of_eight(stride, padding):
    x = torch.full((1, 1, 8, 8), 3e4, dtype=torch.float16)
    assert shifted_and_added(x, stride, padding).isfinite().all()


@pytest.mark.parametrize("stride", [1, 2])
def test_spread_is_the_adjoint(stride):
    x, filters = torch.randn(2, 3, 6, 8, dtype=torch.float64), Blur(3, stride).double().filter
    made = filtered(x, filters, stride)
    u = torch.randn_like(made)
    torch.testing.assert_close((made * u).sum(), (x * spread(u, filters, stride)).sum(), rtol=1e-12, atol=1e-12)


def test_a_double_backward_makes_no_convolution_a_map():
    from torch.profiler import ProfilerActivity, profile

    blur, x = Blur(64), torch.randn(1, 64, 8, 8, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        (first,) = torch.autograd.grad(blur(x).square().sum(), x, create_graph=True)
        first.square().sum().backward()
    count = sum(event.count for event in watched.key_averages() if event.key == "aten::convolution")
    assert count < 12, count


def test_a_blurred_doubling_puts_in_zeros_convolves_and_filters():
    torch.manual_seed(2)
    layer = BlurredUpConv2d(3, 4).double()
    with torch.no_grad():
        layer.bias.normal_()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    between = torch.zeros(2, 3, 7, 9, dtype=torch.float64)
    between[:, :, ::2, ::2] = x
    weight = layer.weight.detach() * layer.scale
    convolved = F.conv2d(between, weight.flip(2, 3), padding=2)
    wanted = along_both(convolved, 2 * TAPS)[:, :, 2:-2, 2:-2] + layer.bias[:, None, None]
    assert wanted.shape == (2, 4, 8, 10)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-12, atol=1e-13)


def test_colours_are_enlarged_by_the_same_filter_with_the_border_repeated():
    x = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    wider = F.pad(x, (1, 1, 1, 1), mode="replicate")
    wanted = along_both(wider, 2 * TAPS, up=2)[:, :, 3:-3, 3:-3]
    torch.testing.assert_close(enlarged_smoothly(x), wanted, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(enlarged_smoothly(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 8, 8))


def finest(side: int) -> Tensor:
    """Noise, whose finest detail half of the pixels cannot hold."""
    torch.manual_seed(3)
    return torch.randn(16, 1, side, side, dtype=torch.float64)


def test_half_of_the_pixels_change_less_when_the_picture_moves_by_one():
    """The energy of all pixels together must not depend on where the grid lies; of a stripe a pixel wide, every second
    pixel is all or nothing."""
    stripes = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    stripes[..., ::2] = 1
    moved = stripes.roll(1, dims=3)
    blur = Blur(1, stride=2).double()
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    assert (stripes[..., ::2] - moved[..., ::2]).abs().mean() == 1
    assert (blur(stripes) - blur(moved))[inside].abs().max() < 1e-12
    noise = finest(32)
    torch.manual_seed(4)
    weight = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    changes = []
    for make in (lambda x: F.conv2d(x, weight, stride=2), lambda x: F.conv2d(Blur(1).double()(x), weight, stride=2)):
        one, other = make(noise)[inside], make(noise.roll(1, dims=3))[inside]
        changes.append(((one - other).square().mean() / one.square().mean()).item())
    assert changes[1] < 0.75 * changes[0], changes


def test_what_is_doubled_has_less_of_the_details_that_are_not_there():
    """The share of energy above the frequencies that the small picture can hold."""

    def above(x: Tensor) -> float:
        power = torch.fft.fft2(x).abs().square()
        high = torch.fft.fftfreq(x.shape[-1]).abs() >= 0.25
        return (power[..., high].sum() / power.sum()).item()

    small = finest(16)
    assert above(enlarged_smoothly(small)) < 0.5 * above(upsample(small))


@pytest.mark.parametrize("stride", [1, 2])
def test_in_half_precision_a_blur_keeps_the_dtype_and_its_gradients_have_it(stride):
    x = torch.randn(2, 4, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    blur = Blur(4, stride)
    with torch.autocast("cpu", torch.bfloat16):
        made = blur(x)
    made.float().square().sum().backward()
    assert made.dtype == x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), blur(x.float()), rtol=0.02, atol=0.02)
