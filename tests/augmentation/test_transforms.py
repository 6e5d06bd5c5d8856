"""Augmentation against other people's formulas: numpy's and scipy's, and the paper's matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from distgan import randomness
from distgan.augmentation.blitting import quarter_turns, shift
from distgan.augmentation.colour import coloured
from distgan.augmentation.draws import Draws
from distgan.augmentation.geometry import inverse_map
from distgan.augmentation.pipeline import CLASSES, Augmentation
from distgan.augmentation.resampling import _grid, resample, scattered
from distgan.parity.transforms import augmented

KEYS = randomness.image_keys(5, torch.arange(24))


def pictures(channels: int = 3, side: int = 8, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return randomness.normal(KEYS, "picture", (channels, side, side), dtype).tanh()


def rows(*, deviation: float, shape: tuple[int, ...] = ()) -> torch.Tensor:
    return deviation * randomness.normal(KEYS, f"{deviation} {shape}", shape, torch.float64)


def test_quarter_turns_are_numpys():
    turns = torch.arange(24) % 4
    wanted = [np.rot90(one, int(turn), (1, 2)) for one, turn in zip(pictures().numpy(), turns, strict=True)]
    assert np.array_equal(quarter_turns(pictures(), turns), np.stack(wanted))


@pytest.mark.parametrize("dim", [-1, -2])
def test_what_a_shift_brings_in_is_the_reflection(dim):
    pixels = torch.arange(24) % 15 - 7
    around = np.pad(pictures().numpy(), [(0, 0), (0, 0), (8, 8), (8, 8)], mode="symmetric")
    for found, one, by in zip(shift(pictures(), pixels, dim), around, pixels.tolist(), strict=True):
        down, right = (by, 0) if dim == -2 else (0, by)
        assert np.array_equal(found, one[:, 8 - down : 16 - down, 8 - right : 16 - right])


def test_maps_are_the_product_of_the_papers_matrices_and_the_pictures_scipys():
    scale, first, stretch, second = (rows(deviation=d) for d in (0.3, 1.5, 0.4, 1.6))
    moves = rows(deviation=0.2, shape=(2,))
    seen = resample(pictures(), inverse_map(scale, first, stretch, second, moves))
    centre = (8 - 1) / 2
    for i in range(24):

        def turn(angle: torch.Tensor) -> np.ndarray:
            cos, sin = np.cos(angle.item()), np.sin(angle.item())
            return np.array([[cos, -sin], [sin, cos]])

        stretched = np.diag([2 ** stretch[i].item(), 2 ** -stretch[i].item()])
        forward = turn(second[i]) @ stretched @ turn(first[i]) * 2 ** scale[i].item()  # of (x, y) around the centre
        back = np.linalg.inv(forward)[::-1, ::-1]  # of (row, column)
        offset = centre - back @ (centre + 8 * moves[i].numpy()[::-1])
        for found, channel in zip(seen[i], pictures()[i].numpy(), strict=True):
            wanted = ndimage.affine_transform(channel, back, offset, order=1, mode="reflect")
            np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_colours_are_those_of_homogeneous_matrices():
    add, contrast, hue = rows(deviation=0.2), rows(deviation=0.5).exp2(), rows(deviation=1.7)
    luma, saturation = torch.tensor([1.0, -1.0]).double().repeat(12), rows(deviation=1.0).exp2()
    found = coloured(pictures(), add, contrast, luma, hue, saturation)
    grey = np.ones((3, 3)) / 3
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    for i, one in enumerate(pictures().numpy()):
        turned = np.eye(3) + np.sin(hue[i].item()) * cross + (1 - np.cos(hue[i].item())) * cross @ cross
        flipped = np.eye(3) - (1 - luma[i].item()) * grey
        matrix = (grey + saturation[i].item() * (np.eye(3) - grey)) @ turned @ flipped * contrast[i].item()
        wanted = np.einsum("ij,jrc->irc", matrix, one + add[i].item())
        np.testing.assert_allclose(found[i], wanted, atol=1e-12)


def test_a_hue_of_a_third_of_a_circle_moves_the_channels_on():
    zero, one = torch.zeros(24).double(), torch.ones(24).double()
    found = coloured(pictures(), zero, one, one, one * 2 * np.pi / 3, one)
    torch.testing.assert_close(found, pictures().roll(1, 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [[name] for name in CLASSES] + [list(CLASSES)])
def test_each_class_and_all_are_what_the_parity_check_says(classes, channels):
    augmentation = Augmentation(classes, 0.6)
    for dtype, within in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        shown = pictures(channels, 16, dtype)
        found = augmentation(shown, KEYS, "fake")
        strength = augmentation.strength.item()
        wanted = augmented(shown.double(), KEYS, "fake", classes=classes, strength=strength)
        torch.testing.assert_close(found.double(), wanted, atol=within, rtol=0)
        assert found.dtype == dtype and not torch.equal(found, shown)


def test_without_strength_every_bit_stays():
    for dtype in (torch.float64, torch.float32):
        shown = pictures(dtype=dtype)
        assert torch.equal(Augmentation(list(CLASSES), 0.0)(shown, KEYS, "real"), shown)


def test_half_precision_is_widened_whatever_autocast_says():
    shown = pictures(dtype=torch.float32).bfloat16()
    wanted = Augmentation(list(CLASSES), 0.6)(shown.float(), KEYS, "fake")
    with torch.autocast("cpu", torch.bfloat16):
        found = Augmentation(list(CLASSES), 0.6)(shown, KEYS, "fake")
    assert torch.equal(found, wanted)


def test_each_transformation_happens_to_its_share_of_pictures_each_by_itself():
    many, share = randomness.image_keys(1, torch.arange(40_000)), 0.3
    real, fake = (Draws(many, role, torch.tensor(share), torch.float64) for role in ("real", "fake"))
    within = 4 * (share * (1 - share) / 40_000) ** 0.5
    names = ("mirror", "quarter turns", "shift", "scale", "stretch", "brightness", "hue")
    happened = [draws.happens(name) for draws in (real, fake) for name in names]
    turned = real.happens_before_or_after("turn before") | real.happens_before_or_after("turn after")
    for found in [*happened, turned]:
        assert abs(found.double().mean().item() - share) < within
    together = torch.corrcoef(torch.stack(happened).double()).fill_diagonal_(0)
    assert together.abs().max() < 0.03

    changed = Augmentation(["colour"], share)(torch.zeros(40_000, 1, 1, 1) + 0.5, many, "real") != 0.5
    # of one channel: brightness, contrast, and half of the luma turned round
    assert abs(changed.double().mean().item() - (1 - 0.7 * 0.7 * 0.85)) < 2 * within


def test_a_picture_is_changed_the_same_in_whatever_micro_batch_it_is():
    augmentation = Augmentation(list(CLASSES), 0.6)
    whole = augmentation(pictures(), KEYS, "real")
    parts = [augmentation(pictures()[i : i + 5], KEYS[i : i + 5], "real") for i in range(0, 24, 5)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-14, rtol=0)


def test_gradients_are_those_of_finite_differences():
    augmentation, shown = Augmentation(list(CLASSES), 0.7), pictures(side=4)[:3].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augmentation(x, KEYS[:3], "fake"), shown)


@pytest.mark.parametrize("far", [0.3, 3.0])
def test_the_sorted_sum_of_cuda_is_the_gradient_of_torchs_own_kernel(far):
    maps = inverse_map(*(rows(deviation=far) for _ in range(4)), rows(deviation=far, shape=(2,)))
    shown = pictures().requires_grad_()
    by_samples = pictures() + 1
    (wanted,) = torch.autograd.grad(resample(shown, maps), shown, by_samples)
    torch.testing.assert_close(scattered(by_samples, _grid(maps, 8)), wanted, atol=1e-11, rtol=1e-11)


def test_another_strength_compiles_nothing_anew():
    compiled, augmentation = [], Augmentation(list(CLASSES), 0.0)

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    change = torch.compile(lambda x: augmentation(x, KEYS, "real"), backend=backend, dynamic=False)
    for strength in (0.0, 0.4, 0.9):
        augmentation.strength.fill_(strength)
        assert torch.equal(change(pictures()), augmentation(pictures(), KEYS, "real"))
    assert len(compiled) == 1
