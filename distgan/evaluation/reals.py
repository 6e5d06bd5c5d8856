"""Which real pictures a generator's are compared with: a function of the shards, and of no seed, so that the runs of an
experiment share what is measured of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distgan import randomness
from distgan.data.dataset import Dataset, Indexed
from distgan.errors import ConfigError
from distgan.evaluation.crew import Crew
from distgan.evaluation.shares import Share

_FEWEST = 4


class Reals:
    """The pictures that are trained on, none of them mirrored, in an order drawn by hash.

    A generator's are compared with the first `compared` of them, `count` or all that there are. Distances depend on how
    many pictures they are of, so the floor beside one is between as many as can be had without using one twice: the
    first `half` and the next `half`, which is `count`, or half of a set of fewer than 2 * `count` pictures.
    """

    def __init__(self, dataset: Dataset, count: int) -> None:
        """Raises ConfigError where a dataset cannot be read picture by picture, or has next to none."""
        if not isinstance(dataset, Indexed):
            raise ConfigError(
                "evaluate: data.order resampled has no index, so that no real picture is found again; use shuffle or "
                "window"
            )
        train = dataset.split.train
        if len(train) < _FEWEST:
            raise ConfigError(
                f"evaluate: the shards have {len(train)} to train on (pictures without those of data.holdout), and "
                f"{_FEWEST} are needed; use shards with more, or hold out fewer"
            )
        self.dataset, self.count = dataset, count
        order = randomness.permutation(randomness.key("evaluate", "reals"), len(train)).numpy()
        self.samples: np.ndarray = train[order]
        self.compared, self.half = min(count, len(train)), min(count, len(train) // 2)
        self._compared: Share | None = None

    @property
    def labels(self) -> Tensor:
        """Of `samples`: int64 [n], -1 without one."""
        return torch.from_numpy(self.dataset.shards.samples["label"][self.samples].astype(np.int64))

    def compared_share(self, crew: Crew) -> Share:
        """Those that a generator's are compared with, kept from the first call on."""
        if self._compared is None:
            self._compared = self.share(crew, 0, self.compared)
        return self._compared

    def share(self, crew: Crew, start: int, count: int) -> Share:
        """Pictures `start` and on, read by the processes whose blocks they are. Raises ReadError."""

        def read(block: range) -> Tensor:
            return self.dataset.read(self.samples[start + block.start : start + block.stop].astype(np.int64))

        return Share.of(crew, count, randomness.key("evaluate", "reals", start), crew.each(count, read))
