from __future__ import annotations

import math

import pytest
import torch

from distgan.sampling.latents import latents, on_way, slerp


def angle(one: torch.Tensor, other: torch.Tensor) -> float:
    return math.acos(float(one @ other / one.norm() / other.norm()))


class TestSeeds:
    def test_a_latent_is_a_function_of_its_seed_alone(self):
        together = latents(range(100), 16)
        for seed in (0, 1, 7, 99):
            assert torch.equal(latents([seed], 16)[0], together[seed])
        assert torch.equal(latents([99, 7], 16), together[[99, 7]])
        assert len({tuple(latent.tolist()) for latent in together}) == 100

    def test_latents_are_standard_normal(self):
        drawn = latents(range(2000), 50).flatten()
        assert abs(drawn.mean()) < 0.01 and abs(drawn.std() - 1) < 0.01


class TestTruncation:
    @pytest.mark.parametrize("threshold", [0.1, 0.5, 1.0, 2.0])
    def test_it_is_the_truncated_normal(self, threshold):
        """Its standard deviation in closed form: sqrt(1 - 2 t phi(t) / (2 Phi(t) - 1))."""
        drawn = latents(range(2000), 50, threshold).flatten()
        density = math.exp(-(threshold**2) / 2) / math.sqrt(2 * math.pi)
        wanted = math.sqrt(1 - 2 * threshold * density / math.erf(threshold / math.sqrt(2)))
        assert drawn.abs().max() < threshold and drawn.abs().max() > 0.99 * threshold
        assert abs(drawn.std() / wanted - 1) < 0.01 and abs(drawn.mean()) < 0.01 * threshold

    def test_a_latent_moves_smoothly_and_orders_stay(self):
        whole = latents([3], 200)[0]
        for threshold in (0.3, 1.0, 3.0):
            near, nearer = (latents([3], 200, t)[0] for t in (threshold, threshold + 1e-6))
            assert (near - nearer).abs().max() < 1e-5
            assert torch.equal(near.argsort(), whole.argsort())

    def test_a_threshold_that_nothing_is_beyond_changes_nothing(self):
        assert torch.allclose(latents([3], 200, 9.0), latents([3], 200), atol=1e-9, rtol=0)
        assert torch.isfinite(latents(range(5000), 100, 1e-6)).all()


def way(keyframes: torch.Tensor, frames: int, count: int) -> torch.Tensor:
    return torch.stack([on_way(keyframes, frames, number) for number in range(count)])


class TestWay:
    def test_it_turns_by_the_same_angle_from_frame_to_frame(self):
        start, end = latents([0, 1], 32)
        points = way(torch.stack([start, 2 * end]), 20, 21)
        steps = [angle(a, b) for a, b in zip(points[:-1], points[1:], strict=True)]
        assert max(steps) - min(steps) < 1e-6 and abs(sum(steps) - angle(start, end)) < 1e-6
        lengths = points.norm(dim=1)
        assert torch.allclose(lengths.diff(), lengths.diff()[0].expand(20), atol=1e-9)

    def test_the_seeds_own_latents_are_on_it_to_the_bit(self):
        keyframes = latents([0, 5, 9], 32)
        loop = way(keyframes, 7, 21)
        assert torch.equal(loop[[0, 7, 14]], keyframes)
        assert not torch.equal(loop[20], keyframes[0]) and angle(loop[20], keyframes[0]) < angle(loop[19], keyframes[0])

    def test_with_one_dimension_or_one_seed_twice_it_is_a_straight_line(self):
        shares = torch.tensor([0.0, 0.5], dtype=torch.float64)
        found = slerp(torch.tensor([1.0]).double(), torch.tensor([-3.0]).double(), shares)
        assert found.tolist() == [[1.0], [0.0]]
        same = latents([4], 32)[0]
        assert torch.allclose(slerp(same, same, shares), same.expand(2, -1), atol=1e-12)
