"""The known wrong ways, planted: each must be seen by the comparison that `distgan doctor --parity` makes.

Each fault changes a runtime and a phase in place, on each of two real processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from forked import in_processes
from parity.cases import AT_ONCE, Subject, batch_of, critic_of, wanted
from parity.processes import Result, is_equal, make_phase, make_runtime, objective_of, updates
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distgan import phases
from distgan.inputs import Inputs
from distgan.objectives import critic as critic_module
from distgan.objectives.penalties import Penalty, image_norms, interpolate, two_sided
from distgan.parity.check import REDUCTION_BOUNDS
from distgan.parity.measure import error, gradients_of
from distgan.parity.reference import critic_gradients
from distgan.parity.textbook import textbook
from distgan.phases import Phase
from distgan.runtime import Runtime

LOCAL = AT_ONCE + 2
"""Two micro-batches of unequal size on each process."""


def none(runtime: Runtime, phase: Phase) -> None:
    """Nothing is wrong."""


def penalty_past_the_wrapper(runtime: Runtime, phase: Phase) -> None:
    """The penalty through `.module`, with a backward of its own after the scores'."""
    wrapped, given = phase.objective, []

    def scores_alone(**arguments):
        given.append(arguments)
        return wrapped(**{**arguments, "penalise": False})

    def both(loss):
        loss.backward()
        arguments = given.pop()
        with runtime.autocast():
            whole, scores = (wrapped.module(**{**arguments, "penalise": p})[0] for p in (True, False))
        ((whole - scores) * len(arguments["keys"]) / LOCAL).backward()

    phase.objective = _Stand(wrapped, scores_alone)
    phase.scaler.scale = lambda loss: SimpleNamespace(backward=lambda: both(loss))


def nothing_wrapped(runtime: Runtime, phase: Phase) -> None:
    phase.objective = phase.objective.module
    runtime.without_reduction = lambda objective, unreduced: contextlib.nullcontext()


def one_norm_over_the_batch(runtime: Runtime, phase: Phase) -> None:
    critic_module.image_norms = lambda gradient: image_norms(gradient.flatten()[None, :, None, None])


def norm_over_channels_of_each_pixel(runtime: Runtime, phase: Phase) -> None:
    critic_module.image_norms = lambda gradient: torch.linalg.vector_norm(gradient, dim=1).flatten()


def one_epsilon_for_the_batch(runtime: Runtime, phase: Phase) -> None:
    def points(real, fake, epsilon):
        return interpolate(real, fake, epsilon[:1].expand_as(epsilon))

    phase.objective.module.penalty = Penalty(points, two_sided)


def plain_mean_of_unequal_micro_batches(runtime: Runtime, phase: Phase) -> None:
    wrapped = phase.objective

    def reweighted(**arguments):
        loss, parts = wrapped(**arguments)
        return loss * LOCAL / len(arguments["keys"]) / 2, parts

    phase.objective = _Stand(wrapped, reweighted)


def detached_penalty(runtime: Runtime, phase: Phase) -> None:
    critic_module.image_norms = lambda gradient: image_norms(gradient).detach()


FAULTS = [
    penalty_past_the_wrapper,
    nothing_wrapped,
    one_norm_over_the_batch,
    norm_over_channels_of_each_pixel,
    one_epsilon_for_the_batch,
    plain_mean_of_unequal_micro_batches,
    detached_penalty,
]


class _Stand:
    """In the place of a wrapped objective: called otherwise, and the same for everything else."""

    def __init__(self, wrapped: nn.Module, call: Callable) -> None:
        self._wrapped, self._call = wrapped, call

    def __call__(self, **arguments):
        return self._call(**arguments)

    def __getattr__(self, name: str):
        return getattr(self._wrapped, name)


def result_with(rank: int, subject: Subject, fault: Callable) -> Result:
    runtime = make_runtime(subject.precision)
    batch = batch_of(subject.network, subject.conditional)
    phase = make_phase(runtime, objective_of(subject), batch, every=1)
    fault(runtime, phase)
    if isinstance(phase.objective, _Stand):  # accelerate looks for a wrapper by its type
        runtime.without_reduction = lambda o, unreduced: o.no_sync() if unreduced else contextlib.nullcontext()
    found, means = updates(runtime, phase, batch, LOCAL, 0)
    spread = max(runtime.spread(gradient) for gradient in found.values())
    reduction, _ = error(found, means)
    return Result(2, "", error(found, wanted(subject, 0, 2 * LOCAL))[0], reduction, spread)


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16"])
def test_without_a_fault_all_is_equal(precision, tmp_path):
    subject = Subject("dcgan", "gp", precision, conditional=False, compiled=False)
    assert all(is_equal(subject, result) for result in in_processes(2, tmp_path, result_with, subject, none))


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_caught(fault, precision, tmp_path):
    subject = Subject("dcgan", "gp", precision, conditional=False, compiled=False)
    found = in_processes(2, tmp_path, result_with, subject, fault)[0]
    assert not is_equal(subject, found)
    assert found.error > 1e-2, "and by far"


@pytest.mark.parametrize(
    ("fault", "precision"),
    [(penalty_past_the_wrapper, "bf16"), (nothing_wrapped, "bf16"), (nothing_wrapped, "fp16")],
)
def test_a_missing_reduction_is_caught_where_rounding_would_hide_it(fault, precision, tmp_path):
    subject = Subject("dcgan", "gp", precision, conditional=False, compiled=False)
    found = in_processes(2, tmp_path, result_with, subject, fault)[0]
    assert found.reduction > 1e4 * REDUCTION_BOUNDS[precision] and found.spread > 0


class _PenaltyAlone(nn.Module):
    """A lazy penalty's update that leaves the scores out, with or without the term 0 * scores."""

    def __init__(self, objective: nn.Module, zero_term: bool) -> None:
        super().__init__()
        self.objective, self.zero_term = objective, zero_term

    def forward(self, **inputs):
        whole, scores = (self.objective(**inputs, penalise=p)[0] for p in (True, False))
        gradient = self.objective._input_gradient(inputs["real"], inputs["fake"], inputs["labels"], inputs["keys"])
        penalty = self.objective.weight * two_sided(image_norms(gradient), 1.0).mean()
        return penalty + 0 * scores if self.zero_term else penalty


def lazy_updates(rank: int, zero_term: bool) -> list[dict] | str:
    """The gradients of two penalty-only updates, or what DDP says of the second."""
    batch = batch_of("dcgan", False).rows(rank * LOCAL, (rank + 1) * LOCAL)
    critic = critic_of("dcgan", False).double()
    alone = _PenaltyAlone(critic_module.CriticObjective(critic), zero_term)
    wrapped, found = DistributedDataParallel(alone, broadcast_buffers=False, gradient_as_bucket_view=True), []
    for _ in range(2):
        critic.zero_grad()
        try:
            wrapped(**batch._asdict()).backward()
        except RuntimeError as problem:
            return str(problem)
        found.append(gradients_of(critic))
    return found


def test_a_lazy_penalty_without_the_zero_term_is_caught(tmp_path):
    whole = batch_of("dcgan", False).rows(0, 2 * LOCAL)
    expected = critic_gradients(textbook(critic_of("dcgan", False)), whole, scores=False)
    for found in in_processes(2, tmp_path / "with", lazy_updates, True):
        assert all(error(gradients, expected)[0] <= 1e-12 for gradients in found)
    for problem in in_processes(2, tmp_path / "without", lazy_updates, False):
        assert "prior iteration" in problem or error(problem[0], expected)[0] > 1e-2


def bytes_of_an_update(rank: int, fault: Callable) -> tuple[list[int], float]:
    """The buckets that two micro-batches reduce, and the error of the gradients."""
    subject = Subject("dcgan", "gp", "fp64", conditional=False, compiled=False)
    runtime, batch = make_runtime("fp64"), batch_of("dcgan", False)
    phase = make_phase(runtime, objective_of(subject), batch, every=1)
    fault(runtime, phase)
    sizes = runtime.count_reductions(phase.objective)
    mine = batch.rows(rank * LOCAL, (rank + 1) * LOCAL)
    inputs = Inputs(mine.real, mine.labels, mine.keys)
    phases.gradients(runtime, phase, inputs, 0, AT_ONCE)
    return sizes, error(gradients_of(phase.network), wanted(subject, 0, 2 * LOCAL))[0]


def no_sync_around_the_backward_only(runtime: Runtime, phase: Phase) -> None:
    parts = iter([True, False] * 10)
    runtime.without_reduction = lambda objective, unreduced: contextlib.nullcontext()

    def inside(loss):
        with phase.objective.no_sync() if next(parts) else contextlib.nullcontext():
            loss.backward()

    phase.scaler.scale = lambda loss: SimpleNamespace(backward=lambda: inside(loss))


def test_no_sync_around_the_backward_only_is_caught_by_its_bytes(tmp_path):
    """The gradients are right; but every micro-batch is reduced."""
    once = sum(8 * p.numel() for p in critic_of("dcgan", False).parameters())
    for sizes, off in in_processes(2, tmp_path / "right", bytes_of_an_update, none):
        assert sum(sizes) == once and off <= 1e-12
    for sizes, off in in_processes(2, tmp_path / "wrong", bytes_of_an_update, no_sync_around_the_backward_only):
        assert sum(sizes) == 2 * once and off <= 1e-12
