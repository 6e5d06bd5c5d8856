"""Where the class labels enter: beside the latent of a generator, and in the score of a critic."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def check_labels(labels: Tensor | None, classes: int) -> None:
    """Raises ValueError when labels are missing for a conditional network or given to an unconditional
    one."""
    if classes > 0 and labels is None:
        raise ValueError(f"this network is conditional on {classes} classes: labels are missing")
    if classes == 0 and labels is not None:
        raise ValueError("this network is unconditional (classes = 0): it takes no labels")


class LatentInput(nn.Module):
    """What a generator's first layer sees: the latent [N, latent], and beside it a learned embedding of the
    label [N, latent] where nothing else would tell the classes apart (`concatenate`, for generators without
    norms).

    `features` is the width of the result. Raises ValueError as `check_labels`.
    """

    def __init__(self, latent: int, classes: int, concatenate: bool) -> None:
        super().__init__()
        self.classes = classes
        self.embedding = nn.Embedding(classes, latent) if classes > 0 and concatenate else None
        self.features = latent if self.embedding is None else 2 * latent

    def forward(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        check_labels(labels, self.classes)
        if self.embedding is None:
            return latent
        return torch.cat([latent, self.embedding(labels)], dim=1)


class Score(nn.Module):
    """The score [N] from features [N, F]: a linear layer and, for labelled images, the inner product of the
    features with the label's embedding (projection, Miyato and Koyama 2018, eq. 3).

    The products are summed in the parameters' precision also under autocast: they are few, and the
    Wasserstein estimate is a small difference of large scores. Raises ValueError as `check_labels`.
    """

    scale = 1.0
    """What the parameters of `direction` are multiplied by."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.linear = nn.Linear(features, 1)
        self.embedding = nn.Embedding(classes, features) if classes > 0 else None

    def direction(self, labels: Tensor | None) -> Tensor:
        """What features are multiplied with: [1, F], with classes [N, F]."""
        return self.linear.weight if self.embedding is None else self.linear.weight + self.embedding(labels)

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        check_labels(labels, self.classes)
        return (features * self.direction(labels)).sum(dim=1) + self.linear.bias
