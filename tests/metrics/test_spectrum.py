from __future__ import annotations

import pytest
import torch
from pictures import drawn, noise
from torch.nn import functional

from distgan.metrics.spectrum import checkerboard


def enlarged(pictures: torch.Tensor, mode: str) -> torch.Tensor:
    return functional.interpolate(pictures.float(), scale_factor=2, mode=mode).round().to(torch.uint8)


def with_grid(pictures: torch.Tensor, period: int, strength: int) -> torch.Tensor:
    """Brighter by `strength` wherever both places are multiples of `period`."""
    grid = torch.zeros_like(pictures)
    grid[:, :, ::period, ::period] = strength
    return (pictures.int() + grid).clamp(max=255).to(torch.uint8)


@pytest.mark.parametrize("side", [16, 28, 32, 50, 64])
def test_pictures_without_a_pattern_are_near_1(side):
    count = 200
    assert 1 <= checkerboard(noise(count, 3, side, side)) < 1.1
    assert 1 <= checkerboard(drawn(count, side)) < 1.2
    if side % 2 == 0:
        half = noise(count, 3, side // 2, side // 2)
        for mode in ("nearest", "bilinear", "bicubic"):
            assert 1 <= checkerboard(enlarged(half, mode)) < 1.1, mode


@pytest.mark.parametrize("period", [2, 4])
@pytest.mark.parametrize("side", [16, 28, 64])
def test_a_grid_stands_out_the_more_the_stronger_it_is(period, side):
    pictures = drawn(100, side) // 2
    plain, faint, strong = (checkerboard(with_grid(pictures, period, by)) for by in (0, 8, 40))
    assert plain < 1.2 and faint > 1.2 * plain and strong > 3 * faint


def test_lines_in_one_direction_stand_out_too():
    pictures = drawn(50, 32) // 2
    pictures[:, :, :, ::2] += 8
    assert checkerboard(pictures) > 3
    assert checkerboard(pictures) == pytest.approx(checkerboard(pictures.transpose(2, 3)), rel=0.2)


@pytest.mark.parametrize("side", [16, 32])
def test_a_wave_of_period_4_stands_out_that_has_none_of_period_2(side):
    """On a bright ground, whose mean reaches far in the spectrum of small pictures."""
    wave = torch.tensor([10, 0, -10, 0]).repeat(side // 4)
    pictures = noise(50, 1, side, side).int() // 16 + 200
    assert checkerboard((pictures + wave).to(torch.uint8)) > 2 * checkerboard(pictures.to(torch.uint8))


def test_it_tells_transposed_convolutions_of_uneven_overlap_from_enlarging_before_convolution():
    """The kernels are random and the same for both; only how the picture is enlarged differs."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.rand(1, 1, 3, 3, generator=generator)
    small = drawn(100, 16, 1).float()
    for _ in range(2):
        transposed = functional.conv_transpose2d(small, kernel, stride=2, padding=1, output_padding=1)
        small = transposed / transposed.amax() * 255
    convolved = drawn(100, 16, 1).float()
    for _ in range(2):
        convolved = functional.conv2d(functional.interpolate(convolved, scale_factor=2), kernel, padding=1)
        convolved = convolved / convolved.amax() * 255
    assert checkerboard(convolved.to(torch.uint8)) < 1.5
    assert checkerboard(small.to(torch.uint8)) > 20


def test_edges_along_the_axes_and_plain_pictures_are_no_pattern():
    edges = torch.zeros(60, 1, 32, 32, dtype=torch.uint8)
    for i in range(60):
        edges[i, :, :, i % 30 + 1 :] = 200
        edges[i, :, i * 7 % 30 + 1 :] += 50
    assert checkerboard(edges) < 1.2
    assert checkerboard(torch.full((3, 1, 32, 32), 7, dtype=torch.uint8)) == 1


def test_small_and_absent_pictures_are_refused():
    with pytest.raises(ValueError, match=r"16 px a side or more have a spectrum, not \[1, 3, 15, 32\]"):
        checkerboard(noise(1, 3, 15, 32))
    with pytest.raises(ValueError, match=r"not \[0, 3, 32, 32\]"):
        checkerboard(noise(0, 3, 32, 32))
