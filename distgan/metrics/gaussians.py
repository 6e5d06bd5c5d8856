"""The Frechet distance of Gaussians that are fitted to features (Heusel et al. 2017, "GANs trained by a two time-scale
update rule", eq. 6). It is called FID where the features are Inception's, and only there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """The Gaussian with the mean and the covariance of a set of features."""

    count: int
    """Features it was fitted to, N."""
    mean: Tensor
    """float64 [D]."""
    covariance: Tensor
    """float64 [D, D], unbiased: the sum of squares over N - 1. Singular where N <= D."""

    @classmethod
    def of(cls, features: Tensor) -> Gaussian:
        """Of features [N, D] of any real type. Raises ValueError where they are not of two dimensions, or fewer than
        two."""
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"a Gaussian takes features [N, D] of 2 pictures or more, not {list(features.shape)}")
        wide = features.to(torch.float64)
        mean = wide.mean(0)
        centred = wide - mean
        return cls(len(wide), mean, centred.T @ centred / (len(wide) - 1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2), in the square of the features' unit; 0 or more.

    The last trace is that of the root of R^T S_b R, too, for any R with S_a = R R^T; R comes from eigenvectors, so that
    no complex number occurs and covariances may be singular.

    Raises ValueError where the features are not of the same dimension.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"Gaussians of {len(a.mean)} and of {len(b.mean)} dimensions have no distance")
    few, many = sorted((a, b), key=lambda gaussian: gaussian.count)  # of few pictures, the covariance has a low rank
    root = _root(few.covariance)
    overlap = torch.linalg.eigvalsh(root.T @ many.covariance @ root).clamp(min=0).sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * overlap
    return max(0.0, float((a.mean - b.mean).square().sum() + spread))


def _root(covariance: Tensor) -> Tensor:
    """R [D, rank] with R R^T = covariance, by its eigenvectors; those of eigenvalues that are rounding alone are left
    out."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    return vectors[:, kept] * values[kept].sqrt()
