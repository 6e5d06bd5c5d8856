"""Progressive GAN's networks: their sizes after the paper's table, their growth, their statistics, their precision."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from networks_under_test import critic_loss, gradients, images, in_use_by_name, largest_difference, penalty, small
from torch import Tensor, nn

from distgan.config.families import ProgressiveCritic as CriticSettings
from distgan.config.families import ProgressiveGenerator as GeneratorSettings
from distgan.networks import build_critic, build_generator, recompute
from distgan.networks.growth import enlarged, growth_of
from distgan.networks.minibatch import group_size
from distgan.networks.progressive import RESOLUTIONS, maps, pixel_norm
from distgan.parity.textbook import textbook

SIDES = (4, 8, 16)
"""Of a network for 16 pixels."""

LABELS = torch.tensor([0, 1, 2, 1])

GENERATOR_TABLE = (
    # Table 2 of the paper, top to bottom: kernel side, inputs, outputs of each layer with parameters
    *((4, 512, 512), (3, 512, 512)),  # 4.2M, 2.4M
    *6 * ((3, 512, 512),),  # 8, 16, 32 pixels: 2.4M each
    *((3, 512, 256), (3, 256, 256)),  # 64: 1.2M, 590k
    *((3, 256, 128), (3, 128, 128)),  # 128: 295k, 148k
    *((3, 128, 64), (3, 64, 64)),  # 256: 74k, 37k
    *((3, 64, 32), (3, 32, 32)),  # 512: 18k, 9.2k
    *((3, 32, 16), (3, 16, 16)),  # 1024: 4.6k, 2.3k
    (1, 16, 3),  # 51
)
CRITIC_TABLE = (
    (1, 3, 16),  # 64
    *((3, 16, 16), (3, 16, 32)),  # 1024: 2.3k, 4.6k
    *((3, 32, 32), (3, 32, 64)),  # 512: 9.2k, 18k
    *((3, 64, 64), (3, 64, 128)),  # 256: 37k, 74k
    *((3, 128, 128), (3, 128, 256)),  # 128: 148k, 295k
    *((3, 256, 256), (3, 256, 512)),  # 64: 590k, 1.2M
    *6 * ((3, 512, 512),),  # 32, 16, 8: 2.4M each
    *((3, 513, 512), (4, 512, 512)),  # 4: 2.4M, 4.2M
    (1, 512, 1),  # 513
)
PRINTED = {
    "generator": "4.2M 2.4M 2.4M 2.4M 2.4M 2.4M 2.4M 2.4M 1.2M 590k 295k 148k 74k 37k 18k 9.2k 4.6k 2.3k 51",
    "critic": "64 2.3k 4.6k 9.2k 18k 37k 74k 148k 295k 590k 1.2M 2.4M 2.4M 2.4M 2.4M 2.4M 2.4M 2.4M 4.2M 513",
}
"""What the paper prints beside the layers."""


def sizes(table) -> list[int]:
    """Of each layer, a bias for each output."""
    return [kernel**2 * inputs * outputs + outputs for kernel, inputs, outputs in table]


def printed(count: int) -> str:
    """As the paper prints it: one digit after the point for millions and for less than ten thousand."""
    if count < 1000:
        return str(count)
    if count < 10**6:
        return f"{count / 1000:.{int(count < 10_000)}f}k"
    return f"{count / 10**6:.1f}M"


def grown(role: str, side: int, share: float = 1.0, resolution: int = 16, **settings: object) -> nn.Module:
    network = small(role, "progressive", resolution, **settings)
    network.growth.set_to(side, share)
    return network


def latents(count: int = 4, size: int = 128) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.fixture(scope="module")
def paper():
    """The networks of the paper, 1024 x 1024 pixels."""
    return {
        "generator": build_generator("progressive", resolution=1024, channels=3, classes=0),
        "critic": build_critic("progressive", resolution=1024, channels=3, classes=0),
    }


@pytest.mark.parametrize(
    "role, table, whole, beside",
    [("generator", GENERATOR_TABLE, 23_071_507, 7_608), ("critic", CRITIC_TABLE, 23_077_137, 10_112)],
)
def test_at_1024_pixels_the_sizes_are_those_of_the_papers_table(paper, role, table, whole, beside):
    network = paper[role]
    layers = sizes(table)
    assert [printed(size) for size in layers] == PRINTED[role].split()
    assert sum(layers) == whole
    assert sum(parameter.numel() for parameter in in_use_by_name(network).values()) == whole
    assert sum(parameter.numel() for parameter in network.parameters()) == whole + beside
    assert printed(whole) == printed(whole + beside) == "23.1M"
    owners = [part for part in network.modules() if "weight" in dict(part.named_parameters(recurse=False))]
    used = set(in_use_by_name(network).values())
    found = sorted(part.weight.numel() for part in owners if part.weight in used)
    assert found == sorted(kernel**2 * inputs * outputs for kernel, inputs, outputs in table)


def test_the_defaults_are_the_papers():
    assert (GeneratorSettings(name="progressive").latent, GeneratorSettings(name="progressive").width) == (512, 512)
    assert (CriticSettings(name="progressive").minibatch_std, CriticSettings(name="progressive").width) == (4, 512)
    assert GeneratorSettings.grows and CriticSettings.grows
    assert list(RESOLUTIONS) == CriticSettings(name="progressive").resolutions()
    assert maps(1024, 512) == [512, 512, 512, 512, 256, 128, 64, 32, 16]
    assert maps(64, 64) == [64, 64, 64, 64, 32]
    assert maps(1024, 16)[-1] == 1
    assert group_size(build_critic("progressive", resolution=8, channels=1, classes=0, width=4)) == 4


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_it_works_at_every_resolution_it_offers(resolution):
    generator = build_generator("progressive", resolution=resolution, channels=1, classes=0, latent=8, width=4)
    critic = build_critic("progressive", resolution=resolution, channels=1, classes=0, width=4, minibatch_std=2)
    with torch.no_grad():
        made = generator(torch.randn(2, 8))
        assert made.shape == (2, 1, resolution, resolution)
        assert critic(made).shape == (2,)


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("classes", [0, 3])
def test_pictures_have_the_side_of_now_and_in_evaluation_the_full_one(side, share, classes):
    generator = grown("generator", side, share, classes=classes)
    critic = grown("critic", side, share, classes=classes, minibatch_std=2)
    labels = LABELS if classes else None
    made = generator(latents(), labels)
    assert made.shape == (4, 3, side, side)
    assert critic(made, labels).shape == (4,)
    assert torch.equal(generator.eval()(latents(), labels), enlarged(made, 16))


@pytest.mark.parametrize("before, side", list(pairwise(SIDES)))
def test_new_layers_that_have_not_come_in_change_nothing(before, side):
    generator, critic = grown("generator", before), grown("critic", before, minibatch_std=2)
    pictures = images(4, side)
    made, scores = generator(latents()), critic(F.avg_pool2d(pictures, 2))
    generator.growth.set_to(side, 0.0)
    critic.growth.set_to(side, 0.0)
    torch.testing.assert_close(generator(latents()), enlarged(made, side), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(critic(pictures), scores, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("before, side", list(pairwise(SIDES)))
def test_new_layers_that_have_come_in_are_all_there_is(before, side):
    """The 1 x 1 layers of the side before have no say any more."""
    for role, colours, inputs in (("generator", "outputs", latents()), ("critic", "inputs", images(4, side))):
        network = grown(role, side)
        expected = network(inputs)
        with torch.no_grad():
            layer = getattr(network, colours)[SIDES.index(before)]
            layer.weight.add_(1)
            layer.bias.add_(1)
        assert torch.equal(network(inputs), expected)
        network.growth.set_to(side, 0.5)
        assert not torch.equal(network(inputs), expected)


def test_the_blend_is_linear_in_the_share():
    for role, inputs in (("generator", latents()), ("critic", images(4, 16))):
        network, found = grown(role, 16), {}
        if role == "critic":  # of which only what is blended is linear in it
            network.blocks[0] = network.blocks[1] = nn.Identity()
            network.score = _Sum()
        for share in (0.0, 0.25, 1.0):
            network.growth.set_to(16, share)
            found[share] = network(inputs)
        torch.testing.assert_close(found[0.25], torch.lerp(found[0.0], found[1.0], 0.25), rtol=1e-10, atol=1e-12)


class _Sum(nn.Module):
    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return x.sum(dim=(1, 2, 3))


@pytest.mark.parametrize("role", ["generator", "critic"])
def test_at_the_full_side_a_run_that_grew_and_one_that_did_not_compute_the_same(role):
    inputs = latents() if role == "generator" else images(4, 16)
    never, once = small(role, "progressive", 16), grown(role, 16)
    assert torch.equal(never(inputs), once(inputs))
    beside = "outputs.1." if role == "generator" else "inputs.1."
    assert in_use_by_name(once).keys() - in_use_by_name(never).keys() == {beside + "weight", beside + "bias"}


@pytest.mark.parametrize("role", ["generator", "critic"])
@pytest.mark.parametrize("side, share", [(None, 1.0), (4, 1.0), (8, 0.5), (8, 1.0), (16, 0.5)])
def test_exactly_the_parameters_in_use_get_gradients(role, side, share):
    network = small(role, "progressive", 16, classes=3)
    if side:
        network.growth.set_to(side, share)
    result = network(latents(), LABELS) if role == "generator" else network(images(4, side or 16), LABELS)
    (result * torch.randn_like(result)).sum().backward()
    with_gradient = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert with_gradient.keys() == in_use_by_name(network).keys()
    zero = {name for name, gradient in with_gradient.items() if not gradient.any()}
    gone = f"{'outputs' if role == 'generator' else 'inputs'}.0."
    assert zero == ({gone + "weight", gone + "bias"} if (side, share) == (8, 1.0) else set())


@pytest.mark.parametrize("side, share", [(8, 0.3), (4, 1.0), (16, 0.7)])
def test_a_checkpoint_brings_its_growth_with_it(side, share):
    for role, inputs in (("generator", latents()), ("critic", images(4, side))):
        network, fresh = grown(role, side, share), small(role, "progressive", 16, seed=5)
        fresh.load_state_dict(network.state_dict())
        assert growth_of(fresh).now == side
        assert torch.equal(fresh(inputs), network(inputs))


@pytest.mark.parametrize("settings", [{}, {"minibatch_std": 2}, {"classes": 3, "minibatch_std": 4}])
@pytest.mark.parametrize("side, share", [(4, 1.0), (8, 0.4), (16, 0.4), (16, 1.0)])
def test_loss_and_gradients_while_growing_equal_the_textbooks(side, share, settings):
    critic = grown("critic", side, share, **settings)
    inputs = {"labels": LABELS} if settings.get("classes") else {}
    found = [
        gradients(critic_loss(network, images(4, side), images(4, side, seed=2), **inputs), network)
        for network in (critic, textbook(critic))
    ]
    largest = max(gradient.abs().max().item() for gradient in found[1].values())
    assert largest_difference(*found) < 1e-12 * max(1.0, largest)


@pytest.mark.parametrize("group", [0, 2])
def test_the_gradient_of_the_penalty_is_that_of_finite_differences(group):
    """Along one random direction of all weights at once, in float64."""
    critic = grown("critic", 8, 0.4, resolution=8, minibatch_std=group)
    pictures, named = images(4, 8), in_use_by_name(critic)
    found = gradients(penalty(critic, pictures), critic)
    torch.manual_seed(4)
    direction = {name: torch.randn_like(parameter) for name, parameter in named.items()}
    slope = sum((found[name] * towards).sum() for name, towards in direction.items()).item()
    step, values = 1e-6, []
    for sign in (1, -1):
        moved = copy.deepcopy(critic)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                if name in direction:
                    parameter.add_(sign * step * direction[name])
        values.append(penalty(moved, pictures).item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=1e-5)
    assert abs(slope) > 1e-3


def test_a_score_depends_on_its_group_of_four_and_on_no_other():
    critic = grown("critic", 16, minibatch_std=4)
    pictures = images(8, 16)
    changed = pictures.clone()
    changed[1] = 0.1 * changed[1]
    moved = (critic(changed) - critic(pictures)).abs()
    assert moved[:4].min() > 1e-9
    assert not moved[4:].any()
    with pytest.raises(ValueError, match="6 images cannot be split into groups of 4"):
        critic(images(6, 16))


@pytest.mark.parametrize("side, share", [(None, 1.0), (8, 0.4)])
def test_what_is_recomputed_has_the_same_bits(side, share):
    results = []
    for again in (False, True):
        generator, critic = (small(role, "progressive", 16) for role in ("generator", "critic"))
        for network in (generator, critic):
            if side:
                network.growth.set_to(side, share)
            if again:
                recompute(network)
        made = gradients(critic(generator(latents())).mean(), generator)
        loss = critic_loss(critic, images(4, side or 16), images(4, side or 16, seed=2))
        results.append([loss, *made.values(), *gradients(loss, critic).values()])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_every_layer_of_the_generator_starts_at_a_mean_square_of_one():
    torch.manual_seed(0)
    generator = build_generator("progressive", resolution=1024, channels=3, classes=0, width=128)
    seen = {}
    for number, block in enumerate(generator.blocks):
        block.register_forward_hook(lambda _, __, made, number=number: seen.update({number: made}))
    with torch.no_grad():
        pictures = generator(torch.randn(2, 512))
    assert len(seen) == 9
    for made in seen.values():
        assert made.square().mean().item() == pytest.approx(1, abs=1e-4)
    assert 0.2 < pictures.std() < 2


def test_the_critics_activations_neither_vanish_nor_explode_over_nine_levels():
    torch.manual_seed(0)
    critic = build_critic("progressive", resolution=1024, channels=3, classes=0, width=128, minibatch_std=2)
    seen = []
    for block in critic.blocks:
        block.register_forward_hook(lambda _, __, made: seen.append(made.square().mean().item()))
    with torch.no_grad():
        score = critic(torch.randn(2, 3, 1024, 1024))
    assert len(seen) == 9
    assert all(0.01 < square < 2 for square in seen), seen
    assert score.abs().max() > 0.01


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
@pytest.mark.parametrize("side, share", [(8, 0.4), (16, 1.0), (None, 1.0)])
def test_under_autocast_pictures_and_scores_come_in_float32(dtype, bound, side, share):
    for role, inputs in (("generator", latents().float()), ("critic", images(4, side or 16).float())):
        network = small(role, "progressive", 16, width=32).float()
        if side:
            network.growth.set_to(side, share)
        with torch.autocast("cpu", dtype=dtype):
            found = network(inputs)
        exact = network(inputs)
        assert found.dtype == torch.float32
        assert (found != found.to(dtype)).float().mean() > 0.8, "not rounded to halves and called float32"
        assert 0 < (found - exact).norm() / exact.norm() < bound


def test_the_norm_of_a_pixel_is_computed_in_float32_and_keeps_its_type():
    x = 300 * torch.randn(2, 64, 3, 3)  # whose squares are beyond float16
    found = pixel_norm(x.half())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, pixel_norm(x.half().float()).half(), rtol=0, atol=0)
    torch.testing.assert_close(pixel_norm(x), F.normalize(x, dim=1) * 8, rtol=1e-5, atol=1e-6)


def test_the_latents_length_does_not_matter():
    generator = small("generator", "progressive", 8)
    torch.testing.assert_close(generator(7 * latents()), generator(latents()), rtol=1e-6, atol=1e-7)
