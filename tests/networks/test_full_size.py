"""Networks for up to 1024 pixels that do not grow: sizes, and what they make before they are trained."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks_under_test import images

from distgan.networks import build_critic, build_generator
from distgan.networks.modern import _Block
from distgan.networks.progressive import maps

PAIRS = {"skip": "residual", "modern": "modern"}
SIDES = (8, 16, 32, 64, 128, 256, 512, 1024)


def size(build, name: str, resolution: int) -> int:
    with torch.device("meta"):
        network = build(name, resolution=resolution, channels=3, classes=0)
    return sum(parameter.numel() for parameter in network.parameters())


def test_at_1024_pixels_skip_and_residual_are_as_large_as_progressive():
    """Beside 23.1 million each: a bias for each pixel of the first layer instead of each map, and the shortcuts."""
    generator, critic = size(build_generator, "skip", 1024), size(build_critic, "residual", 1024)
    grown = size(build_generator, "progressive", 1024), size(build_critic, "progressive", 1024)
    levels = maps(1024, 512)
    shortcuts = sum(a * b for a, b in zip(levels, levels[1:], strict=False))
    assert (generator, critic) == (23_086_795, 24_038_161)
    assert generator == grown[0] + 15 * 512
    assert critic - shortcuts == grown[1] - sum(4 * count for count in levels[:-1])


@pytest.mark.parametrize("resolution", SIDES)
@pytest.mark.parametrize("name", PAIRS)
def test_what_new_networks_make_neither_vanishes_nor_explodes(name, resolution):
    torch.manual_seed(0)
    width = 32 if resolution < 512 else 16
    generator = build_generator(name, resolution=resolution, channels=3, classes=0, width=width, latent=32)
    grouped = {"minibatch_std": 2} if name == "skip" else {}
    critic = build_critic(PAIRS[name], resolution=resolution, channels=3, classes=0, width=width, **grouped)
    with torch.no_grad():
        made = generator(torch.randn(2, 32))
        seen = F.interpolate(images(2, 4).float(), size=resolution, mode="bilinear")  # of noise nothing would be left
        assert made.shape == (2, 3, resolution, resolution)
        assert 0.2 < made.std() < 3
        assert (made[0] - made[1]).abs().mean() > 0.1, "latents make no difference"
    leaf = seen.requires_grad_()
    scores = critic(leaf)
    (gradient,) = torch.autograd.grad(scores.sum(), leaf)
    by_square = resolution * gradient.flatten(1).norm(dim=1)  # about the same for a picture with more pixels
    assert 1e-3 < scores.square().mean().sqrt() < 30
    assert 0.03 < by_square.min() and by_square.max() < 100


@pytest.mark.parametrize("part", ["generator", "critic"])
def test_a_block_of_modern_starts_as_the_identity(part):
    build = build_generator if part == "generator" else build_critic
    network = build("modern", resolution=16, channels=3, classes=0, width=32)
    blocks = [each for each in network.modules() if isinstance(each, _Block)]
    assert len(blocks) == 2 * 3
    for block in blocks:
        x = torch.randn(2, block.conv1.in_channels, 4, 4)
        assert torch.equal(block(x), x)


def test_the_groups_of_modern_have_sixteen_maps():
    critic = build_critic("modern", resolution=64, channels=3, classes=0, width=96)
    assert {block.conv2.weight.shape[1] for block in critic.modules() if isinstance(block, _Block)} == {16}


@pytest.mark.parametrize("name", PAIRS)
def test_colours_and_scores_are_float32_under_autocast(name):
    generator = build_generator(name, resolution=16, channels=3, classes=0, width=16)
    critic = build_critic(PAIRS[name], resolution=16, channels=3, classes=0, width=16)
    with torch.autocast("cpu", torch.bfloat16):
        made = generator(torch.randn(4, generator.latent))
        assert made.dtype == torch.float32
        assert (made.bfloat16().float() != made).any(), "colours are rounded"
        assert critic(made).dtype == torch.float32
