"""The distributions have their closed form, and what is said of a match is exact."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch

from distgan.toys import points
from distgan.toys.points import DISTRIBUTIONS, Distribution

KEYS = torch.arange(20_000)
GRID, CIRCLE, ROLL = (DISTRIBUTIONS[name] for name in ("25gaussians", "8gaussians", "swissroll"))


def by_mode(distribution: Distribution) -> list[torch.Tensor]:
    """20,000 points of a distribution, as deviations from the nearest of its modes, mode by mode."""
    drawn, modes = distribution.draw(KEYS), distribution.places()
    nearest = torch.cdist(drawn, modes).argmin(dim=1)
    return [drawn[nearest == mode] - modes[mode] for mode in range(len(modes))]


class TestTheDistributions:
    @pytest.mark.parametrize(("distribution", "modes"), [(GRID, 25), (CIRCLE, 8)], ids=["grid", "circle"])
    def test_all_modes_are_as_likely_and_as_wide_along_each_axis(self, distribution, modes):
        groups = by_mode(distribution)
        assert len(groups) == distribution.modes == modes
        for group in groups:
            fair = len(KEYS) / modes
            assert abs(len(group) - fair) < 5 * math.sqrt(fair)
            assert torch.allclose(group.mean(0) / distribution.deviation, torch.zeros(2), atol=0.2)
            assert torch.allclose(group.std(0) / distribution.deviation, torch.ones(2), atol=0.1)
            assert abs(torch.corrcoef(group.T)[0, 1]) < 0.2

    def test_the_grid_is_two_apart_with_noise_of_a_twentieth_before_it_is_scaled(self):
        scaled = {(round(x, 4), round(y, 4)) for x, y in (GRID.places() * 2.828427).tolist()}
        assert scaled == {(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)}
        assert GRID.deviation * 2.828427 == pytest.approx(0.05)

    def test_the_circle_has_a_radius_of_two_and_noise_of_a_fiftieth_before_it_is_scaled(self):
        places = CIRCLE.places() * 1.414214
        assert torch.allclose(places.norm(dim=1), torch.tensor(2.0))
        angles = torch.atan2(places[:, 1], places[:, 0]).sort().values
        assert torch.allclose(angles.diff(), torch.tensor(math.pi / 4), atol=1e-5)
        assert CIRCLE.deviation * 1.414214 == pytest.approx(0.02)

    @pytest.mark.parametrize("distribution", [GRID, CIRCLE], ids=["grid", "circle"])
    def test_gaussians_have_mean_0_and_standard_deviation_1(self, distribution):
        drawn = distribution.draw(KEYS)
        assert torch.allclose(drawn.mean(0), torch.zeros(2), atol=0.03)
        assert torch.allclose(drawn.std(0), torch.ones(2), atol=0.03)

    def test_the_roll_is_a_spiral_with_noise(self):
        """Its radius is its angle, over 7.5, and the noise across it normal."""
        places = ROLL.places() * 7.5
        radius = places.norm(dim=1)
        assert radius[0] == pytest.approx(1.5 * math.pi, abs=0.01)
        assert radius[-1] == pytest.approx(4.5 * math.pi, abs=0.01)
        turned = torch.stack([radius.cos(), radius.sin()], dim=1) * radius[:, None]
        assert torch.allclose(turned, places, atol=1e-3)
        assert ROLL.deviation * 7.5 == pytest.approx(0.25)
        across = torch.cdist(ROLL.draw(KEYS), ROLL.places()).min(dim=1).values / ROLL.deviation
        assert across.square().mean().sqrt() == pytest.approx(1.0, abs=0.02)
        assert (across < 2).double().mean() == pytest.approx(0.9545, abs=0.01)

    @pytest.mark.parametrize("distribution", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
    def test_every_point_is_within_reach_of_a_generator(self, distribution):
        assert distribution.draw(KEYS).abs().max() < 0.9 * points.REACH

    def test_a_point_is_a_function_of_its_key(self):
        assert torch.equal(GRID.draw(KEYS[:100])[7:9], GRID.draw(KEYS[7:9]))


def cloud(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


class TestWasserstein:
    @pytest.mark.parametrize("seed", range(5))
    def test_it_is_the_least_over_all_permutations(self, seed):
        one, other = cloud(6, seed), cloud(6, seed + 100) * 2
        distances = torch.cdist(one.double(), other.double())
        least = min(distances[range(6), order].mean().item() for order in map(list, permutations(range(6))))
        assert points.wasserstein(one, other) == pytest.approx(least, abs=1e-12)

    def test_on_a_line_it_is_the_mean_distance_of_the_sorted(self):
        one, other = cloud(500, 0) * torch.tensor([1.0, 0.0]), (cloud(500, 1) + 1) * torch.tensor([3.0, 0.0])
        closed = (one[:, 0].double().sort().values - other[:, 0].double().sort().values).abs().mean().item()
        assert points.wasserstein(one, other) == pytest.approx(closed, abs=1e-12)

    def test_moved_points_are_as_far_as_they_were_moved_and_mixed_ones_nowhere(self):
        one = cloud(300, 0)
        assert points.wasserstein(one, one + torch.tensor([3.0, 4.0])) == pytest.approx(5.0, abs=1e-6)
        assert points.wasserstein(one, one[torch.randperm(300)]) == 0


class TestModes:
    def test_real_points_find_all_and_are_as_near_as_a_normal_is(self):
        """In the plane, 1 - exp(-9 / 2) of a normal is within three standard deviations."""
        for distribution in (GRID, CIRCLE):
            drawn = distribution.draw(KEYS)
            near, counts = points.neighbours(drawn, distribution)
            assert near == pytest.approx(1 - math.exp(-4.5), abs=0.003)
            assert counts.sum() == round(near * len(KEYS)) and (counts > 0).all()

    def test_near_is_three_standard_deviations(self):
        edge = torch.tensor([[3 * GRID.deviation, 0.0]])
        assert points.neighbours(GRID.places() + 0.999 * edge, GRID)[0] == 1
        assert points.neighbours(GRID.places() + 1.001 * edge, GRID)[0] == 0

    def test_a_mode_is_touched_by_one_point_and_found_by_a_tenth_of_its_share(self):
        """Of 1000 points a mode's even share of the 25 is 40."""
        counts = torch.tensor([4, 3, 1, 0, 992])
        drawn = GRID.places()[:5].repeat_interleave(counts, dim=0)
        found = points.match(drawn, GRID.draw(KEYS[:1000]), GRID)
        assert (found.found, found.touched, found.near) == (2, 4, 1.0)

    def test_points_between_the_modes_are_near_none(self):
        drawn = (GRID.places()[:-1] + GRID.places()[1:]) / 2
        found = points.match(drawn, GRID.draw(KEYS[:24]), GRID)
        assert (found.found, found.touched, found.near) == (0, 0, 0.0)

    def test_a_curve_has_no_modes(self):
        found = points.match(ROLL.draw(KEYS[:500]), ROLL.draw(KEYS[500:1000]), ROLL)
        assert (found.found, found.touched) == (0, 0) and found.near > 0.99


def test_real_points_match_better_than_blurred_ones_and_those_than_more_blurred_ones():
    real, other = GRID.draw(KEYS[:500]), GRID.draw(KEYS[500:1000])
    found = [points.match(other + blur * cloud(500, 0), real, GRID) for blur in (0.0, 0.05, 0.5)]
    assert found[0].wasserstein < found[1].wasserstein < found[2].wasserstein
    assert found[0].near > found[1].near > found[2].near
