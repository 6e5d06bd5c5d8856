"""Updates whose loss or gradient is not finite: seen by all processes in the same step, and never applied.

A NaN or an infinity in the gradient of one process is in the reduced gradient of all, so no process asks another.
`phases.gradients` sees to it that a loss which is not finite has such a gradient.

A finite gradient whose squares overflow (in float32 an entry of 1.9e19) is as bad: Adam and RMSprop keep a mean of the
squares, and one infinity in it would hold a weight where it is for ever.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from distgan.errors import Diverged

MOST_IN_A_ROW = 20
"""With train.bad_numbers skip: more updates of a network skipped one after the other end the run."""


class Update(NamedTuple):
    """One update of a network, with what a study of it needs. Tensors may still be on their way to be computed."""

    phase: str
    step: int
    """Steps done before it."""
    number: int
    """Which of the updates of this network in the step, from 1."""
    position: int
    """Of the first picture of its global batch in the stream."""
    learning_rate: float
    labels: Tensor | None
    """int64 [n] of this process's images, or None without classes."""
    losses: list[tuple[Tensor, float]]
    """Of each micro-batch its loss, a scalar, and its share of this process's images."""
    strength: Tensor | None = None
    """Of augmentation, a scalar; None without."""

    @property
    def loss(self) -> Tensor:
        """Mean over this process's own images, a scalar; worked out where it is asked for."""
        return sum(loss.detach() * share for loss, share in self.losses)

    def __str__(self) -> str:
        return f"after step {self.step}, in update {self.number} of the {self.phase}"


class BadUpdate(Exception):
    """An update that is not to be skipped: every process meets it at the same place.

    `finite`: whether each parameter's reduced gradient has a finite sum of squares, bool [parameters]; `is_newest`:
    whether these gradients are still there.
    """

    def __init__(self, update: Update, finite: Tensor, is_newest: bool) -> None:
        super().__init__(str(update))
        self.update, self.finite, self.is_newest = update, finite, is_newest


class _Judged(NamedTuple):
    update: Update
    finite: Tensor
    bad: Tensor
    """1 or 0, a float32 scalar as fused optimisers take it."""


class Guard:
    """Takes the optimisers' steps, but for those with a gradient whose sum of squares is not finite.

    On a CPU the answer is read at once. A device is never waited for: there the optimiser's own kernel reads it, as it
    does for `GradScaler`, and the host learns of it one step later, or at `look`. Unless the policy is skip, nothing
    is applied in between: the weights stay those before the first bad update.
    """

    def __init__(self, policy: str, device: torch.device, *, lagged: bool | None = None) -> None:
        """`policy`: as `train.bad_numbers`. `lagged` None: where the device is not the CPU."""
        self.policy, self._device = policy, device
        self._lagged = device.type != "cpu" if lagged is None else lagged
        self.reset()

    def reset(self) -> None:
        """Forgets all updates: the weights are now others."""
        self._held = torch.zeros((), device=self._device)
        self._newest: _Judged | None = None
        self._unread: list[_Judged] = []
        self._copied: _Copy | None = None
        self.in_a_row: Counter[str] = Counter()
        """Updates of each network that were skipped one after the other, the newest included; of those that the host
        knows of."""

    def step(self, optimizer: torch.optim.Optimizer, update: Update) -> Tensor | None:
        """The optimiser's step with the reduced gradients, or none. With skip, returns whether it was left out, a bool
        scalar.

        Raises `BadUpdate` where the host knows of one already, and Diverged after too many skipped in a row.
        """
        gradients = gradients_of(optimizer)
        finite = are_finite(gradients)
        bad = finite.all().logical_not().float()
        self._held = bad if self.policy == "skip" else torch.maximum(self._held, bad)
        self._newest = _Judged(update, finite, bad)
        self._unread.append(self._newest)
        if self._lagged and getattr(optimizer, "_step_supports_amp_scaling", False):
            _step_unless(self._held, optimizer)
        else:
            if not self._held:
                optimizer.step()
            self.look()
        return bad.bool() if self.policy == "skip" else None

    def end_step(self) -> None:
        """To be called at the end of every step: raises what `step` could not yet, of the step before this one."""
        before, self._copied = self._copied, _Copy(self._unread) if self._unread else None
        self._unread = []
        if before is not None:
            self._read(before)

    def look(self) -> None:
        """Raises what `step` could not yet, of all updates so far. Waits for the device."""
        self.end_step()
        self.end_step()

    def _read(self, copy: _Copy) -> None:
        for judged, bad in zip(copy.judged, copy.flags(), strict=True):
            update = judged.update
            if bad and self.policy != "skip":
                raise BadUpdate(update, judged.finite, judged is self._newest)
            self.in_a_row[update.phase] = self.in_a_row[update.phase] + 1 if bad else 0
            if self.in_a_row[update.phase] > MOST_IN_A_ROW:
                raise Diverged(
                    f"{update}: more than {MOST_IN_A_ROW} updates of the {update.phase} in a row had a gradient that "
                    "is not finite, or its square is not, and were skipped: its weights are no longer of use. Try a "
                    "lower learning rate"
                )


class _Copy:
    """The answers of some updates on their way to the host."""

    def __init__(self, judged: list[_Judged]) -> None:
        self.judged = judged
        flags = torch.stack([one.bad for one in judged])
        self._flags, self._arrived = flags, None
        if flags.is_cuda:
            self._flags = torch.empty(flags.shape, pin_memory=True)
            self._flags.copy_(flags, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def flags(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._flags.tolist()


def gradients_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The gradients of its parameters, in their order."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def are_finite(tensors: list[Tensor]) -> Tensor:
    """Whether the sum of squares of each tensor is, bool [tensors]; waits for nothing."""
    return torch.stack(torch._foreach_norm(tensors, 2)) < math.inf


def _step_unless(held: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """A fused optimiser's step, in which it does nothing where `held` is 1: what `GradScaler.step` does."""
    optimizer.grad_scale, optimizer.found_inf = None, held
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf
