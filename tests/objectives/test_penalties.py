from __future__ import annotations

import pytest
import torch

from distgan.objectives.penalties import PENALTIES, half_square, image_norms, interpolate, one_sided, two_sided

REAL = torch.rand(5, 3, 4, 4, dtype=torch.float64)
FAKE = -torch.rand(5, 3, 4, 4, dtype=torch.float64)
EPSILON = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)


def test_each_interpolate_lies_on_its_own_line_at_its_own_place():
    points = interpolate(REAL, FAKE, EPSILON)
    for i, epsilon in enumerate(EPSILON.tolist()):
        torch.testing.assert_close(points[i], epsilon * REAL[i] + (1 - epsilon) * FAKE[i], rtol=0, atol=1e-15)
    assert torch.equal(points[0], FAKE[0]) and torch.equal(points[4], REAL[4])


@pytest.mark.parametrize(("name", "points"), [("r1", [REAL]), ("r2", [FAKE]), ("r1r2", [REAL, FAKE])])
def test_r1_looks_at_reals_and_r2_at_fakes(name, points):
    assert torch.equal(PENALTIES[name].points(REAL, FAKE, EPSILON), torch.cat(points))
    assert PENALTIES[name].copies == len(points)


def test_terms():
    norm = torch.tensor([0.0, 0.5, 1.0, 3.0])
    assert two_sided(norm, 1.0).tolist() == [1, 0.25, 0, 4]
    assert two_sided(norm, 2.0).tolist() == [4, 2.25, 1, 1]
    assert one_sided(norm, 1.0).tolist() == [0, 0, 0, 4]
    assert half_square(norm, 7.0).tolist() == [0, 0.125, 0.5, 4.5]


def test_norms_are_of_each_image_over_all_of_it():
    gradient = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    wanted = [sum(x * x for x in image.flatten().tolist()) ** 0.5 for image in gradient]
    torch.testing.assert_close(image_norms(gradient), torch.tensor(wanted, dtype=torch.float64), rtol=1e-14, atol=0)


@pytest.mark.parametrize(("dtype", "result"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32)])
def test_norms_of_half_precision_are_added_up_in_float32(dtype, result):
    gradient = torch.full((2, 3, 64, 64), 40.0, dtype=dtype)  # the squares alone add up to 2e7: too much for fp16
    assert image_norms(gradient).dtype == result
    assert image_norms(gradient).tolist() == pytest.approx([40 * (3 * 64 * 64) ** 0.5] * 2)


@pytest.mark.parametrize("name", ["gp", "lp", "r1"])
def test_a_gradient_of_zero_has_no_nan(name):
    gradient = torch.zeros(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    PENALTIES[name].term(image_norms(gradient), 1.0).mean().backward()
    assert torch.equal(gradient.grad, torch.zeros_like(gradient))


def test_the_square_root_of_a_sum_of_squares_would_have_one():
    gradient = torch.zeros(1, 4, requires_grad=True)
    two_sided(gradient.square().sum(1).sqrt(), 1.0).mean().backward()
    assert torch.isnan(gradient.grad).all()
