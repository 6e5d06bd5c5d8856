from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import drawn, noise
from scipy import ndimage, stats
from scipy.optimize import linear_sum_assignment

from distgan.metrics import pyramids
from distgan.metrics.pyramids import DIRECTIONS, descriptors, laplacian_pyramid, level_sides, sliced_wasserstein
from distgan.randomness import image_keys

FILTER = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256


def keys(count: int, first: int = 0) -> torch.Tensor:
    return image_keys(11, torch.arange(first, first + count))


def patches(count: int, channels: int, seed: int) -> torch.Tensor:
    """Random ones [count, 4, channels * 49] whose channels differ in mean and in contrast."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, 4, channels, 49, generator=generator) ** (1 + seed)
    return (values * (20 + 60 * torch.arange(channels)[:, None]) + 5 * seed).flatten(2)


def normalised(found: torch.Tensor, channels: int) -> np.ndarray:
    """As Progressive GAN's code finishes descriptors, in float64: [M, K]."""
    wide = found.double().numpy().reshape(-1, channels, 49)
    wide = (wide - wide.mean((0, 2), keepdims=True)) / wide.std((0, 2), keepdims=True)
    return wide.reshape(len(wide), -1)


class TestThePyramid:
    @pytest.mark.parametrize(
        ("side", "levels"),
        [(16, [16]), (28, [28]), (31, [31, 16]), (32, [32, 16]), (50, [50, 25]), (64, [64, 32, 16])],
    )
    def test_its_levels_go_down_to_the_last_of_16_px_or_more(self, side, levels):
        assert level_sides(side) == levels
        found = laplacian_pyramid(drawn(1, side).float())
        assert [list(level.shape[2:]) for level in found] == [[level, level] for level in levels]
        assert level_sides(1024) == [1024, 512, 256, 128, 64, 32, 16]

    @pytest.mark.parametrize("shape", [(3, 64, 64), (1, 50, 61), (2, 33, 40)])
    def test_it_is_that_of_the_binomial_filter_with_mirrored_borders(self, shape):
        picture = noise(*shape).double().numpy()
        for level in laplacian_pyramid(torch.from_numpy(picture)[None].float())[:-1]:
            down = np.stack([ndimage.convolve(one, FILTER, mode="mirror")[::2, ::2] for one in picture])
            spread = np.zeros_like(picture)
            spread[:, ::2, ::2] = down
            up = np.stack([ndimage.convolve(one, 4 * FILTER, mode="mirror") for one in spread])
            np.testing.assert_allclose(level[0], picture - up, atol=1e-4)
            picture = down
        np.testing.assert_allclose(laplacian_pyramid(noise(*shape)[None].float())[-1][0], picture, atol=1e-4)

    def test_a_plain_picture_has_nothing_but_its_coarsest_level(self):
        *fine, coarsest = laplacian_pyramid(torch.full((1, 1, 64, 64), 200.0))
        assert all((level == 0).all() for level in fine) and (coarsest == 200).all()


class TestThePatches:
    def test_there_are_128_of_7_px_a_side_at_each_level(self):
        found = descriptors(drawn(5, 64), keys(5))
        assert [(list(level.shape), level.dtype) for level in found] == [([5, 128, 147], torch.float32)] * 3
        assert [list(level.shape) for level in descriptors(drawn(2, 28, 1), keys(2))] == [[2, 128, 49]]

    def test_each_is_cut_from_its_own_picture_and_every_place_is_as_likely(self):
        """In a picture whose pixels number its places in red and in green, and itself in blue."""
        side, count = 20, 120
        down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        pixels = torch.stack([torch.stack([down, right, torch.full_like(down, i)]) for i in range(count)])
        (found,) = descriptors(pixels.to(torch.uint8), keys(count))
        found = found.view(count, 128, 3, 7, 7)
        assert (found[:, :, 2] == torch.arange(count)[:, None, None, None]).all()
        top, left = found[:, :, 0, 0, 0], found[:, :, 1, 0, 0]
        assert (found[:, :, 0] == top[..., None, None] + torch.arange(7)[:, None]).all()
        assert (found[:, :, 1] == left[..., None, None] + torch.arange(7)).all()
        places = torch.bincount((top * 14 + left).long().flatten(), minlength=14 * 14)
        assert len(places) == 14 * 14 and stats.chisquare(places.numpy()).pvalue > 1e-3

    def test_those_of_a_picture_depend_on_its_key_and_on_nothing_beside_it(self, monkeypatch):
        pixels, its_keys = drawn(9, 64), keys(9)
        whole = descriptors(pixels, its_keys)
        order = torch.tensor([4, 0, 8])
        for level, some in zip(whole, descriptors(pixels[order], its_keys[order]), strict=True):
            assert torch.equal(level[order], some)
        monkeypatch.setattr(pyramids, "_PICTURE_BYTES", 8 * 2 * pixels[0].numel())
        assert all(map(torch.equal, whole, descriptors(pixels, its_keys)))
        assert not torch.equal(whole[0], descriptors(pixels, keys(9, first=1))[0])

    def test_each_level_has_places_of_its_own(self):
        pixels = noise(1, 1, 32, 32)
        found = []
        for level, cut in zip(laplacian_pyramid(pixels.float()), descriptors(pixels, keys(1)), strict=True):
            windows = level[0, 0].unfold(0, 7, 1).unfold(1, 7, 1).flatten(2)
            same = (cut[0][:, None, None] == windows).all(3)
            assert (same.sum((1, 2)) == 1).all()
            found.append(same.nonzero()[:, 1:].double().flatten())
        assert torch.corrcoef(torch.stack(found))[0, 1].abs() < 0.3

    def test_what_has_no_patch_or_no_key_is_refused(self):
        with pytest.raises(ValueError, match=r"7 px a side or more are taken, not \[1, 3, 6, 9\]"):
            descriptors(noise(1, 3, 6, 9), keys(1))
        with pytest.raises(ValueError, match=r"2 pictures take 2 keys, not \[3\]"):
            descriptors(noise(2, 3, 16, 16), keys(3))


class TestTheDistance:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_along_each_direction_it_is_the_exact_transport_of_the_normalised_patches(self, channels):
        a, b = patches(12, channels, 0), patches(12, channels, 1)
        directions = pyramids._directions(range(3, 9), channels * 49, seed=5).numpy()
        x, y = (normalised(set_, channels) @ directions.T for set_ in (a, b))
        found = sliced_wasserstein(a, b, channels, range(3, 9), seed=5)
        assert found.dtype == torch.float64 and found.shape == (6,)
        for value, p, q in zip(found.tolist(), x.T, y.T, strict=True):
            cost = np.abs(p[:, None] - q)
            best = cost[linear_sum_assignment(cost)].mean()
            assert value == pytest.approx(1e3 * best, rel=1e-6)
            assert value == pytest.approx(1e3 * stats.wasserstein_distance(p, q), rel=1e-6)

    def test_numbers_of_directions_may_be_shared_out(self, monkeypatch):
        a, b = patches(30, 3, 0), patches(30, 3, 1)
        whole = sliced_wasserstein(a, b, 3, range(40), seed=0)
        shared = [sliced_wasserstein(a, b, 3, part, seed=0) for part in (range(13), range(13, 13), range(13, 40))]
        torch.testing.assert_close(torch.cat(shared), whole, rtol=1e-6, atol=0)
        monkeypatch.setattr(pyramids, "_PROJECTION_BYTES", 4 * 120 * 7)
        monkeypatch.setattr(pyramids, "_ROWS", 17)
        torch.testing.assert_close(sliced_wasserstein(a, b, 3, range(40), seed=0), whole, rtol=1e-6, atol=0)
        assert not torch.equal(sliced_wasserstein(a, b, 3, range(40), seed=1), whole)

    def test_directions_have_length_1_and_lie_in_all_directions(self):
        found = pyramids._directions(range(DIRECTIONS * 20), 49, seed=0)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found), dtype=torch.float64))
        assert (found.mean(0) * 49**0.5 * len(found) ** 0.5).abs().max() < 5
        torch.testing.assert_close(49 * found.T @ found / len(found), torch.eye(49).double(), rtol=0, atol=0.06)

    def test_order_brightness_and_contrast_of_channels_count_for_nothing(self):
        a = patches(50, 3, 0)
        changed = (a.view(50, 4, 3, 49) * torch.tensor([0.5, 2, 1])[:, None] + 9).flatten(2).flip(0)
        assert sliced_wasserstein(a, changed, 3, range(20), seed=0).max() < 0.01
        assert sliced_wasserstein(a, patches(50, 3, 2), 3, range(20), seed=0).min() > 10

    def test_it_leaves_what_it_is_given_and_takes_plain_channels(self):
        a, b = patches(20, 1, 0), torch.full((20, 4, 49), 77.0)
        before = a.clone()
        found = sliced_wasserstein(a, b, 1, range(8), seed=0)
        assert torch.equal(a, before) and (b == 77).all()
        x = normalised(a, 1) @ pyramids._directions(range(8), 49, seed=0).numpy().T
        np.testing.assert_allclose(found, 1e3 * np.abs(x).mean(0), rtol=1e-6)

    def test_sets_of_different_sizes_are_refused(self):
        with pytest.raises(ValueError, match=r"as many pictures are compared, not \[3, 4, 49\], \[2, 4, 49\]"):
            sliced_wasserstein(patches(3, 1, 0), patches(2, 1, 0), 1, range(4), seed=0)
