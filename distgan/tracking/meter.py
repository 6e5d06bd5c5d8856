"""Metrics gathered on the device between two lines, and their names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distgan.errors import UserError
from distgan.histogram import CELLS
from distgan.tracking.names import HISTOGRAM

MEANS = (
    "critic/loss",
    "critic/wasserstein",
    "critic/penalty",
    "critic/grad_norm_mean",
    "generator/loss",
)
"""Averaged over images, updates and processes."""
MAXIMA = ("critic/grad_norm_max",)
"""The largest of all images, updates and processes."""
NAMES = MEANS + MAXIMA

Reduce = Callable[[Tensor, Tensor], Tensor]
Metrics = dict[str, "float | list[int]"]
"""Numbers by their names, and the histogram."""


class Meter:
    """Sums and maxima of metrics since the last line, and the counts of the histogram, kept on the device.

    `fold` turns what this process gathered into what all did. It is called before every line and every checkpoint, also
    one that only a stop brought about: sums of float32 in float64 are exact as a rule, and are divided once, at a line.
    """

    def __init__(self, device: torch.device) -> None:
        self.is_maximum = torch.tensor([name in MAXIMA for name in NAMES] + [False] * CELLS, device=device)
        self._missing = torch.zeros((), device=device)
        self._no_counts = torch.zeros(CELLS, dtype=torch.float64, device=device)
        self._folded = self._empty()
        self._local = self._empty()
        self._known: dict[tuple[tuple[str, ...], float], tuple[Tensor, Tensor]] = {}

    def _empty(self) -> Tensor:
        """Row 0: sums, or maxima, and then the counts of the cells; row 1: weights, of which cells have none."""
        return torch.zeros(2, len(self.is_maximum), dtype=torch.float64, device=self.is_maximum.device)

    def add(self, parts: dict[str, Tensor], weight: float, left_out: Tensor | None = None) -> None:
        """Adds the metrics of a micro-batch that is `weight` of an update of this process; nothing where `left_out`, a
        bool scalar, says that the update was skipped (on all processes)."""
        values = torch.stack([parts.get(name, self._missing) for name in NAMES])
        found = torch.cat([values.double(), parts[HISTOGRAM].double() if HISTOGRAM in parts else self._no_counts])
        factors, present = self._weights(tuple(parts), weight)
        if left_out is not None:
            found, present = found.masked_fill(left_out, 0.0), present * left_out.logical_not()
        sums, weights = self._local
        torch.where(self.is_maximum, torch.maximum(sums, found), sums + factors * found, out=sums)
        weights[: len(NAMES)] += present

    def _weights(self, names: tuple[str, ...], weight: float) -> tuple[Tensor, Tensor]:
        """What each value counts, 1 for a cell; and what it adds to row 1, nothing where it is not among `names`. Made
        once, since a copy to the device is slow."""
        if (names, weight) not in self._known:
            rows = [weight] * len(NAMES) + [1.0] * CELLS, [weight * (name in names) for name in NAMES]
            made = (torch.tensor(row, dtype=torch.float64, device=self.is_maximum.device) for row in rows)
            self._known[names, weight] = tuple(made)
        return self._known[names, weight]

    def fold(self, reduce: Reduce) -> None:
        """Adds what all processes gathered (collective: every process must call it)."""
        maximum = torch.stack([self.is_maximum, torch.zeros_like(self.is_maximum)])
        found = reduce(self._local, maximum)
        self._folded = torch.where(maximum, torch.maximum(self._folded, found), self._folded + found)
        self._local.zero_()

    def peek(self) -> Metrics:
        """The metrics folded so far. Waits for the device."""
        sums, weights = self._folded.tolist()
        found: Metrics = {
            name: total if name in MAXIMA else total / weight
            for name, total, weight in zip(NAMES, sums, weights, strict=False)
            if weight
        }
        if any(counts := [int(count) for count in sums[len(NAMES) :]]):
            found[HISTOGRAM] = counts
        return found

    def take(self) -> Metrics:
        """The metrics folded so far, and a fresh start. Waits for the device."""
        metrics = self.peek()
        self._folded.zero_()
        return metrics

    def state(self) -> Tensor:
        return self._folded.cpu()

    def load(self, state: Tensor | None) -> None:
        """Goes on from a `state`. Raises UserError when it is of another version's metrics."""
        if state is None or state.shape != self._folded.shape:
            raise UserError(
                "the newest checkpoint has other metrics: another version of distgan wrote it; use that one"
            )
        self._folded.copy_(state)
        self._local.zero_()
