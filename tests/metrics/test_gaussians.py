from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from distgan.metrics.gaussians import Gaussian, frechet_distance


def features(count: int, size: int, seed: int) -> torch.Tensor:
    """Correlated ones with a mean and a scale of their own."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.randn(count, size, generator=generator, dtype=torch.float64) @ mix + seed


def diagonal(mean: list[float], variances: list[float]) -> Gaussian:
    return Gaussian(9, torch.tensor(mean, dtype=torch.float64), torch.tensor(variances, dtype=torch.float64).diag())


def test_mean_and_covariance_are_unbiased_and_in_float64():
    found = Gaussian.of(features(50, 7, 1).float())
    given = features(50, 7, 1).float().double().numpy()
    assert found.count == 50 and found.mean.dtype == found.covariance.dtype == torch.float64
    np.testing.assert_allclose(found.mean, given.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(given, rowvar=False), rtol=1e-11, atol=1e-11)


def test_in_one_dimension_it_is_that_of_means_and_deviations():
    assert frechet_distance(diagonal([3], [4]), diagonal([-1], [25])) == pytest.approx(16 + 9, rel=1e-14)


def test_of_diagonal_gaussians_dimensions_add_up():
    found = frechet_distance(diagonal([1, 2, 3], [1, 4, 0]), diagonal([1, 0, 3], [9, 16, 25]))
    assert found == pytest.approx(4 + (4 + 4 + 25), rel=1e-14)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("size", [2, 17, 64])
def test_it_is_what_scipys_matrix_root_and_torch_fidelity_give(size):
    a, b = features(200, size, 1), features(150, size, 2)
    found = frechet_distance(Gaussian.of(a), Gaussian.of(b))
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(s)
    wanted = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s + t - 2 * sqrtm(root @ t @ root).real)
    assert found == pytest.approx(float(wanted), rel=1e-9)
    theirs = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), False)
    assert found == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)
    assert found == pytest.approx(frechet_distance(Gaussian.of(b), Gaussian.of(a)), rel=1e-12)


def test_singular_covariances_have_the_distance_of_the_space_they_fill():
    """3 dimensions, turned at random in 60, of which 40 pictures could fill no more than 39."""
    a, b = features(40, 3, 1), features(30, 3, 2)
    turned = torch.linalg.qr(features(60, 60, 3))[0][:3]
    found = frechet_distance(Gaussian.of(a @ turned), Gaussian.of(b @ turned))
    assert found == pytest.approx(frechet_distance(Gaussian.of(a), Gaussian.of(b)), rel=1e-9)


@pytest.mark.parametrize("counts", [(10, 900), (900, 10)])
def test_with_few_pictures_no_digits_are_lost_to_the_dimensions_they_leave_empty(counts):
    """Where X is centred and over root(N - 1), the root's trace is the sum of the singular values of X_a X_b^T."""
    a, b = (features(count, 300, seed) for seed, count in enumerate(counts))
    x, y = ((part - part.mean(0)).numpy() / (len(part) - 1) ** 0.5 for part in (a, b))
    overlap = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    wanted = np.square((a.mean(0) - b.mean(0)).numpy()).sum() + (x**2).sum() + (y**2).sum() - 2 * overlap
    assert frechet_distance(Gaussian.of(a), Gaussian.of(b)) == pytest.approx(wanted, rel=1e-11)


def test_fewer_pictures_than_dimensions_are_at_no_distance_from_themselves():
    few = Gaussian.of(features(10, 300, 1))
    assert 0 <= frechet_distance(few, few) < 1e-9 * few.covariance.trace()


def test_sets_of_one_picture_again_and_again_are_as_far_apart_as_these():
    a, b = (Gaussian.of(torch.full((5, 4), value)) for value in (1.0, 3.0))
    assert frechet_distance(a, b) == 16
    assert frechet_distance(a, Gaussian.of(features(50, 4, 0))) > 0


def test_what_has_no_gaussian_or_no_distance_is_refused():
    with pytest.raises(ValueError, match=r"2 pictures or more, not \[1, 4\]"):
        Gaussian.of(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="4 and of 5 dimensions"):
        frechet_distance(Gaussian.of(torch.zeros(3, 4)), Gaussian.of(torch.zeros(3, 5)))
