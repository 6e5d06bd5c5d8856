"""The minibatch standard deviation: values, double backward, and groups that no split of the batch changes."""

from __future__ import annotations

import pytest
import torch
from networks_under_test import gradients, images, inner_gradient, penalty, small

from distgan.networks.minibatch import EPSILON, MinibatchStd, group_size


def features(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def one_by_one(x: torch.Tensor, group: int) -> list[float]:
    """The value of the map of each image, by a loop over groups, features and pixels."""
    found = []
    for images_of_group in x.split(group):
        columns = images_of_group.flatten(1).T.tolist()
        means = [sum(column) / group for column in columns]
        variances = [sum((v - m) ** 2 for v in column) / group for column, m in zip(columns, means, strict=True)]
        found += [sum((v + EPSILON) ** 0.5 for v in variances) / len(columns)] * group
    return found


@pytest.mark.parametrize("group", [2, 3, 6])
def test_the_map_is_the_mean_deviation_of_the_images_group(group):
    x = features(6, 3, 4, 5)
    found = MinibatchStd(group)(x)
    assert found.shape == (6, 4, 4, 5) and torch.equal(found[:, :3], x)
    expected = torch.tensor(one_by_one(x, group), dtype=torch.float64)
    torch.testing.assert_close(found[:, 3], expected[:, None, None].expand(6, 4, 5), rtol=1e-12, atol=0)


def test_it_can_be_differentiated_twice():
    x = features(4, 2, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(MinibatchStd(2), x)
    assert torch.autograd.gradgradcheck(MinibatchStd(2), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_of_equal_images_has_finite_derivatives(dtype):
    x = features(1, 2, 3, 3, dtype=dtype).repeat(4, 1, 1, 1).requires_grad_()
    found = MinibatchStd(4)(x)[:, -1]
    torch.testing.assert_close(found, torch.full_like(found, EPSILON**0.5))
    (first,) = torch.autograd.grad((found * features(4, 3, 3, dtype=dtype)).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((first * features(4, 2, 3, 3, dtype=dtype)).sum(), x)
    assert not first.any() and second.isfinite().all() and second.any()


def test_a_critic_that_sees_one_image_many_times_has_a_finite_penalty_gradient():
    critic = small("critic", "dcgan", 16, minibatch_std=4)
    found = gradients(penalty(critic, images(1, 16).repeat(4, 1, 1, 1)), critic)
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_half_precision_is_computed_in_float32_and_keeps_its_type():
    x = (features(4, 3, 4, 4, dtype=torch.float32) + 10).to(torch.bfloat16)
    found, exact = MinibatchStd(4)(x), MinibatchStd(4)(x.float())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.to(torch.bfloat16))


def grouped_critic(group: int = 2) -> torch.nn.Module:
    """A critic whose scores the groups move: with the initial weights they hardly do."""
    critic = small("critic", "dcgan", 16, minibatch_std=group)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(5)
    return critic


@pytest.mark.parametrize("length", [2, 4, 6])
def test_slices_of_whole_groups_have_the_scores_and_gradients_of_the_whole(length):
    critic, pictures = grouped_critic(), images(12, 16)
    parts = pictures.split(length)
    torch.testing.assert_close(torch.cat([critic(part) for part in parts]), critic(pictures), rtol=1e-11, atol=1e-12)
    inner = torch.cat([inner_gradient(critic, part) for part in parts])
    torch.testing.assert_close(inner, inner_gradient(critic, pictures), rtol=1e-10, atol=1e-12)
    losses = [critic(part).mean() + penalty(critic, part) for part in (pictures, *parts)]
    whole, *others = (gradients(loss, critic) for loss in losses)
    for name, gradient in whole.items():
        mean = torch.stack([other[name] for other in others]).mean(dim=0)
        torch.testing.assert_close(mean, gradient, rtol=1e-10, atol=1e-11)


def test_an_images_score_depends_on_its_group_and_on_no_other():
    critic, pictures = grouped_critic(), images(6, 16)
    changed = pictures.clone()
    changed[3] = 0.1 * changed[3]
    moved = (critic(changed) - critic(pictures)).abs()
    assert moved[2:4].min() > 1e-6
    assert moved[[0, 1, 4, 5]].max() < 1e-12


def test_the_penaltys_gradient_includes_the_effect_on_the_others_of_the_group():
    critic, pictures = grouped_critic(), images(2, 16).requires_grad_()
    each = [torch.autograd.grad(score, pictures, retain_graph=True)[0] for score in critic(pictures)]
    assert each[1][0].abs().max() > 1e-9
    torch.testing.assert_close(inner_gradient(critic, pictures), each[0] + each[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("group", [-2, 0, 1])
def test_a_group_of_less_than_two_is_refused(group):
    with pytest.raises(ValueError, match=f"two or more, got {group}"):
        MinibatchStd(group)


def test_a_batch_that_is_no_whole_number_of_groups_is_refused():
    with pytest.raises(ValueError, match="6 images cannot be split into groups of 4"):
        MinibatchStd(4)(features(6, 1, 2, 2))


@pytest.mark.parametrize("side, pixels", [(16, 16), (28, 49)])
def test_the_score_of_the_dcgan_critic_sees_one_map_more(side, pixels):
    plain, grouped = (small("critic", "dcgan", side, minibatch_std=group) for group in (0, 4))
    assert grouped.score.linear.in_features - plain.score.linear.in_features == pixels
    assert (group_size(plain), group_size(grouped)) == (1, 4)


def test_the_size_of_several_groups_is_the_largest():
    assert group_size(torch.nn.Sequential(MinibatchStd(2), MinibatchStd(6))) == 6
