"""Dropout by image key."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks_under_test import images, penalty, small

from distgan.networks.dropout import KeyedDropout
from distgan.randomness import image_keys, uniform

KEYS = image_keys(7, torch.arange(8))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(8)), st.integers(1, 8))
def test_an_image_meets_the_same_mask_wherever_it_is_in_the_batch(order, count):
    dropout, x = KeyedDropout(0.4, "here"), torch.randn(8, 3, 5)
    chosen = torch.tensor(order[:count])
    assert torch.equal(dropout(x, KEYS)[chosen], dropout(x[chosen], KEYS[chosen]))


@pytest.mark.parametrize("name, side", [("mlp", 8), ("dcgan", 16)])
def test_scores_and_penalty_of_a_critic_with_dropout_do_not_depend_on_the_slicing(name, side):
    critic, pictures = small("critic", name, side, dropout=0.5), images(8, side)
    whole = critic(pictures, keys=KEYS)
    halves = [critic(pictures[part], keys=KEYS[part]) for part in (slice(0, 3), slice(3, 8))]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=1e-12, atol=1e-14)
    parts = [penalty(critic, pictures[i : i + 1], keys=KEYS[i : i + 1]) for i in range(8)]
    torch.testing.assert_close(torch.stack(parts).mean(), penalty(critic, pictures, keys=KEYS), rtol=1e-12, atol=0)


def test_the_mask_is_that_of_the_keyed_uniform_numbers():
    found = KeyedDropout(0.3, "here")(torch.ones(8, 50), KEYS)
    expected = (uniform(KEYS, "here", (50,)) >= 0.3) / 0.7
    torch.testing.assert_close(found, expected)


def test_the_share_and_the_mean_are_right():
    keys = image_keys(1, torch.arange(400))
    dropped = KeyedDropout(0.3, "here")(torch.ones(400, 500), keys)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.005)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.01)


def test_layers_and_images_have_masks_of_their_own():
    x = torch.ones(8, 100)
    one, other = KeyedDropout(0.5, "one")(x, KEYS), KeyedDropout(0.5, "other")(x, KEYS)
    assert not torch.equal(one, other)
    assert len({tuple(row.tolist()) for row in one}) == 8


@pytest.mark.parametrize("name, side", [("mlp", 8), ("dcgan", 16)])
def test_every_layer_of_a_critic_has_its_own_name(name, side):
    critic = small("critic", name, side, dropout=0.5)
    names = [part.name for part in critic.modules() if isinstance(part, KeyedDropout)]
    assert len(names) > 1 and len(set(names)) == len(names)


def test_training_without_keys_is_refused_and_evaluation_needs_none():
    critic, pictures = small("critic", "dcgan", 16, dropout=0.5), images(2, 16)
    with pytest.raises(ValueError, match="key"):
        critic(pictures)
    with pytest.raises(ValueError, match="key"):
        critic(pictures, keys=KEYS[:1])
    critic.eval()
    assert torch.equal(critic(pictures), critic(pictures, keys=KEYS[:2]))
    assert small("critic", "dcgan", 16)(pictures).shape == (2,)


def test_a_probability_outside_zero_to_one_is_refused():
    for p in (-0.1, 1.0):
        with pytest.raises(ValueError, match="probability"):
            KeyedDropout(p, "here")
