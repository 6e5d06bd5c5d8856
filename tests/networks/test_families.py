"""Shapes, ranges, errors, labels, initial weights and sizes of the network families."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from networks_under_test import FAMILIES, NORMS, UNBOUNDED, images, in_use_by_name, small
from torch import nn

from distgan.errors import ConfigError
from distgan.networks import CRITICS, GENERATORS, batch_norms, build_critic, build_generator, dcgan, resnet

EVERY_NORM = [(name, side, norm) for name, side in FAMILIES for norm in NORMS[name]]
LABELS = torch.tensor([0, 1, 2])


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("name, side, norm", EVERY_NORM)
def test_a_generator_makes_pictures_between_minus_one_and_one_where_a_tanh_ends_it(name, side, norm, classes):
    generator = small("generator", name, side, classes=classes, norm=norm, latent=6)
    made = generator(torch.randn(3, generator.latent, dtype=torch.float64), LABELS if classes else None)
    assert generator.latent == 6
    assert made.shape == (3, 3, side, side)
    assert name in UNBOUNDED or made.abs().max() <= 1
    assert made.std() > 0


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize(
    "name, side, settings",
    [(name, side, {"norm": norm}) for name, side, norm in EVERY_NORM] + [("dcgan", 16, {"minibatch_std": 3})],
)
def test_a_critic_gives_one_score_an_image_and_every_parameter_a_gradient(name, side, settings, classes):
    critic = small("critic", name, side, classes=classes, **settings)
    scores = critic(images(3, side), LABELS if classes else None)
    scores.mean().backward()
    assert scores.shape == (3,)
    for parameter_name, parameter in in_use_by_name(critic).items():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("name, side, norm", EVERY_NORM)
def test_every_generator_parameter_has_a_gradient_that_is_more_than_rounding(name, side, norm, classes):
    generator = small("generator", name, side, classes=classes, norm=norm)
    made = generator(torch.randn(3, 128, dtype=torch.float64), LABELS if classes else None)
    (made * images(3, side)).sum().backward()
    for parameter_name, parameter in in_use_by_name(generator).items():
        assert parameter.grad.abs().max() > 1e-11, parameter_name


@pytest.mark.parametrize("resolution", dcgan.RESOLUTIONS)
@pytest.mark.parametrize("upsample", ["transposed", "nearest"])
def test_dcgan_works_at_every_resolution_it_offers(resolution, upsample):
    generator = build_generator("dcgan", resolution=resolution, channels=1, classes=0, width=2, upsample=upsample)
    critic = build_critic("dcgan", resolution=resolution, channels=1, classes=0, width=2)
    made = generator(torch.randn(2, 128))
    assert made.shape == (2, 1, resolution, resolution)
    assert critic(made).shape == (2,)


def test_the_first_layer_of_the_dcgan_critic_has_a_bias_and_no_norm():
    critic = small("critic", "dcgan", 32, norm="layer")
    assert [isinstance(norm, nn.Identity) for norm in critic.norms] == [True, False, False]
    assert [layer.bias is not None for layer in critic.halvings] == [True, False, False]


@pytest.mark.parametrize("resolution", resnet.RESOLUTIONS)
def test_resnet_works_at_every_resolution_it_offers(resolution):
    generator = build_generator("resnet", resolution=resolution, channels=1, classes=0, width=2)
    critic = build_critic("resnet", resolution=resolution, channels=1, classes=0, width=2)
    made = generator(torch.randn(2, 128))
    assert made.shape == (2, 1, resolution, resolution)
    assert critic(made).shape == (2,)


def test_the_cifar_critic_has_the_size_of_the_papers_table():
    """3 x 3 convolution of 128 maps: 9 * 128 * 128 + 128 = 147,584. First block: conv1 9 * 3 * 128 + 128 =
    3,584, conv2 147,584, shortcut 3 * 128 + 128 = 512. Down block: two convolutions and a 1 x 1 shortcut of
    128 * 128 + 128 = 16,512. Two plain blocks of two convolutions. Linear: 128 + 1 = 129."""
    first, down, plain = 3_584 + 147_584 + 512, 2 * 147_584 + 16_512, 2 * 147_584
    assert size(build_critic("resnet", resolution=32, channels=3, classes=0)) == first + down + 2 * plain + 129
    assert first + down + 2 * plain + 129 == 1_053_825


def test_the_cifar_generator_has_the_size_of_the_papers_table_without_cancelled_biases():
    """Linear: 129 * 16 * 128 = 264,192. Up block: two convolutions of 9 * 128 * 128 = 147,456, a shortcut of
    128 * 128 = 16,384, two norms of 256. Last norm 256, last convolution 9 * 128 * 3 + 3 = 3,459. The
    authors' code has 3 * 3 * 128 biases more, which the batch norms cancel."""
    block = 2 * 147_456 + 16_384 + 2 * 256
    assert size(build_generator("resnet", resolution=32, channels=3, classes=0)) == 264_192 + 3 * block + 256 + 3_459
    assert 264_192 + 3 * block + 256 + 3_459 + 9 * 128 == 1_204_483


def test_dcgan_at_64_pixels_has_the_size_of_its_table():
    """Critic: 4 x 4 convolutions over 3, 64, 128, 256, 512 maps, a bias each, linear from 512 * 16."""
    maps = (3, 64, 128, 256, 512)
    critic = sum(16 * a * b + b for a, b in pairwise(maps)) + 512 * 16 + 1
    generator = 128 * 512 * 16 + sum(16 * a * b for a, b in pairwise(maps)) + 3 + 2 * sum(maps[1:])
    assert size(build_critic("dcgan", resolution=64, channels=3, classes=0)) == critic
    assert size(build_generator("dcgan", resolution=64, channels=3, classes=0)) == generator


def test_the_maps_follow_the_tables():
    assert dcgan.maps(64, 64) == [64, 128, 256, 512] and dcgan.sides(64) == [32, 16, 8, 4]
    assert dcgan.maps(28, 64) == [64, 128] and dcgan.sides(28) == [14, 7]
    assert dcgan.maps(256, 64) == [64, 128, 256, 512, 512, 512]
    assert resnet.maps(32, 128) == [128] * 4
    assert resnet.maps(64, 64) == [512, 512, 256, 128, 64]
    assert resnet.maps(128, 64) == [512, 512, 512, 256, 128, 64]


@pytest.mark.parametrize(
    "build, name, settings, expected",
    [
        (build_generator, "stylegan", {}, ["generator.name", "stylegan", "mlp, dcgan, resnet, progressive"]),
        (build_critic, "stylegan", {}, ["critic.name", "stylegan", "mlp, dcgan, resnet, progressive"]),
        (
            build_generator,
            "resnet",
            {"resolution": 28},
            ["data.resolution", "28", "generator.name", "32, 64, 128"],
        ),
        (build_critic, "resnet", {"resolution": 28}, ["data.resolution", "28", "critic.name", "32, 64, 128"]),
        (build_critic, "dcgan", {"resolution": 48}, ["data.resolution", "48", "critic.name", "16, 28, 32"]),
        (build_generator, "dcgan", {"upsample": "cubic"}, ["generator.upsample", "cubic", "nearest"]),
        (build_generator, "dcgan", {"norm": "weight"}, ["generator.norm", "weight", "batch"]),
        (build_critic, "mlp", {"norm": "instance"}, ["critic.norm", "instance", "layer"]),
    ],
)
def test_what_a_family_does_not_offer_is_named_with_what_it_offers(build, name, settings, expected):
    with pytest.raises(ConfigError) as caught:
        build(name, **{"resolution": 32, "channels": 3, "classes": 0, **settings})
    assert all(part in str(caught.value) for part in expected), str(caught.value)


@pytest.mark.parametrize("name", GENERATORS)
def test_labels_must_be_given_exactly_when_the_network_is_conditional(name):
    latent, pictures = torch.randn(3, 128, dtype=torch.float64), images(3, 32)
    for norm in {"none", "layer"} & set(NORMS[name]) or NORMS[name]:
        for classes, labels in ((3, None), (0, LABELS)):
            with pytest.raises(ValueError, match="label"):
                small("generator", name, 32, classes=classes, norm=norm)(latent, labels)
            with pytest.raises(ValueError, match="label"):
                small("critic", name, 32, classes=classes, norm=norm)(pictures, labels)


@pytest.mark.parametrize("name", CRITICS)
def test_the_critics_score_depends_on_the_label(name):
    critic = small("critic", name, 32, classes=3)
    scores = torch.stack([critic(images(4, 32), torch.full((4,), label)) for label in range(3)])
    assert (scores[0] != scores[1]).all() and (scores[1] != scores[2]).all()


@pytest.mark.parametrize("name, norm", [(name, norm) for name in GENERATORS for norm in NORMS[name]])
def test_the_generators_pictures_depend_on_the_label_once_the_classes_differ(name, norm):
    generator = small("generator", name, 32, classes=3, norm=norm)
    embeddings = [part for part in generator.modules() if isinstance(part, nn.Embedding)]
    assert embeddings
    with torch.no_grad():
        for embedding in embeddings:
            embedding.weight.add_(torch.randn_like(embedding.weight))
    latent = torch.randn(2, 128, dtype=torch.float64)
    zeros, ones = (generator(latent, torch.full((2,), label)) for label in (0, 1))
    assert ((zeros - ones).abs().amax(dim=(1, 2, 3)) > 1e-6).all()


def test_projection_adds_the_inner_product_of_features_and_embedding():
    critic = small("critic", "dcgan", 16, classes=2)
    pictures, labels = images(3, 16), torch.tensor([0, 1, 1])
    seen = []
    critic.score.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    scores = critic(pictures, labels)
    expected = critic.score.linear(seen[0])[:, 0] + (critic.score.embedding(labels) * seen[0]).sum(1)
    torch.testing.assert_close(scores, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name, side", FAMILIES)
@pytest.mark.parametrize("norm", ["none", "layer", "instance", "group"])
def test_an_images_score_does_not_depend_on_the_other_images(name, side, norm):
    if norm not in NORMS[name]:
        pytest.skip(f"{name} has no {norm} norm")
    critic = small("critic", name, side, norm=norm)
    pictures = images(4, side)
    others = torch.cat([pictures[:1], 3 * images(5, side, seed=9)])
    torch.testing.assert_close(critic(pictures)[0], critic(others)[0], rtol=1e-12, atol=1e-14)


def test_batch_norm_in_a_critic_is_built_and_mixes_the_images():
    critic = small("critic", "dcgan", 16, norm="batch")
    pictures = images(4, 16)
    others = torch.cat([pictures[:1], 3 * images(5, 16, seed=9)])
    assert batch_norms(critic)
    assert (critic(pictures)[0] - critic(others)[0]).abs() > 1e-6


def test_dcgan_weights_start_as_in_the_paper():
    torch.manual_seed(0)
    for network in (
        build_generator("dcgan", resolution=64, channels=3, classes=0),
        build_critic("dcgan", resolution=64, channels=3, classes=0, norm="layer"),
    ):
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
                assert abs(parameter.mean().item()) < 0.002, name
            elif "norm" in name and name.endswith("weight"):
                assert parameter.mean().item() == pytest.approx(1.0, abs=0.02), name
                assert 0 < parameter.std().item() < 0.04, name
            else:
                assert not parameter.any(), name


def test_resnet_weights_start_as_in_the_authors_code():
    torch.manual_seed(0)
    critic = build_critic("resnet", resolution=32, channels=3, classes=0, width=64)
    generator = build_generator("resnet", resolution=32, channels=3, classes=0, width=64)
    he, glorot = math.sqrt(4 / (9 * 128)), math.sqrt(2 / 128)
    assert critic.blocks[1].conv1.weight.std().item() == pytest.approx(he, rel=0.05)
    assert critic.blocks[1].conv2.weight.std().item() == pytest.approx(he, rel=0.05)
    assert critic.blocks[1].shortcut.weight.std().item() == pytest.approx(glorot, rel=0.05)
    assert generator.output.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 67)), rel=0.05)
    assert generator.blocks[0].conv1.weight.abs().max().item() <= he * math.sqrt(3) + 1e-6


def test_the_first_scores_are_neither_nothing_nor_huge():
    torch.manual_seed(0)
    for name, side, width in (("mlp", 32, 256), ("dcgan", 32, 64), ("resnet", 32, 64), ("resnet", 64, 16)):
        critic = build_critic(name, resolution=side, channels=3, classes=0, width=width)
        scores = critic(images(16, side).float())
        assert 1e-3 < scores.square().mean().sqrt() < 30, name
        generator = build_generator(name, resolution=side, channels=3, classes=0, width=width)
        assert 0.01 < generator(torch.randn(8, 128)).std() < 0.95, name


@pytest.mark.parametrize(
    "name, side, settings", [(*family, {}) for family in FAMILIES] + [("dcgan", 16, {"minibatch_std": 2})]
)
def test_bfloat16_autocast_stays_near_float32(name, side, settings):
    generator, critic = small("generator", name, side).float(), small("critic", name, side, **settings).float()
    latent = torch.randn(4, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = generator(latent)
        scores = critic(made.detach().float())
    exact = critic(made.detach().float())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, exact, rtol=0.05, atol=0.05 * exact.abs().max().item())
    scores.mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in in_use_by_name(critic).values())
