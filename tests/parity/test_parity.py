"""A pruned selection of the parity matrix, of which `python tests/parity/matrix.py` runs the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from parity.cases import (
    ACCUMULATIONS,
    AT_ONCE,
    NETWORKS,
    PENALTIES,
    PRECISIONS,
    WORLD_SIZES,
    Subject,
    subjects,
)
from parity.processes import compare, is_equal, objective_of, results_of

from distgan.objectives.penalties import PENALTIES as TABLE
from distgan.parity.check import BOUNDS

CONDITIONAL = {"mlp", "dcgan group", "resnet"}
OFTEN = ("gp", "r1r2")
"""Penalties at points of their own, and at the pictures themselves."""
LATER = {"residual", "residual minibatch", "progressive fading", "modern"}
EAGER = [
    Subject(network, penalty, precision, conditional=network in CONDITIONAL, compiled=False)
    for place, network in enumerate(NETWORKS)
    for turn, penalty in enumerate(PENALTIES)
    if network not in LATER or penalty in OFTEN
    for precision in ("fp64", *([PRECISIONS[1 + turn % 3]] if (place - turn) % 3 == 0 else []))
]
"""Every network with every penalty, or of those that share their parts two, in float64, and some in other precisions
in turn."""

COMPILED = [
    Subject("mlp", "gp", "fp64", conditional=True, compiled=True),
    Subject("dcgan", "r1r2", "fp32", conditional=False, compiled=True),
]


def check(subject: Subject, world_sizes: tuple[int, ...], accumulations: list[str], folder: Path) -> None:
    (results,) = results_of([subject], world_sizes, accumulations, folder)
    assert len(results) == len(world_sizes) * len(accumulations) * len(subject.numbers)
    assert [result for result in results if not is_equal(subject, result)] == []


def test_the_matrix_has_every_penalty_and_is_as_large_as_is_said():
    assert {settings.get("penalty", "gp") for settings in PENALTIES.values()} == set(TABLE)
    each = len(NETWORKS) * len(PENALTIES) * 2
    assert len(list(subjects())) == each * (2 * len(PRECISIONS) - 1) == 1176
    assert any(count % AT_ONCE for count in ACCUMULATIONS.values())
    assert set(PRECISIONS) == set(BOUNDS)


@pytest.mark.parametrize("subject", EAGER, ids=lambda s: f"{s.network}, {s.penalty}, {s.precision}")
def test_two_processes_with_unequal_micro_batches_have_the_gradients_of_the_papers(subject, tmp_path):
    check(subject, (2,), ["3 unequal"], tmp_path)


@pytest.mark.parametrize("accumulation", ACCUMULATIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_world_size_and_accumulation_has_the_gradients_of_the_papers(precision, accumulation, tmp_path):
    subject = Subject("dcgan minibatch, dropout", "gp lazy", precision, conditional=True, compiled=False)
    check(subject, WORLD_SIZES, [accumulation], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("subject", COMPILED, ids=lambda s: f"{s.network}, {s.penalty}, {s.precision}")
def test_a_compiled_update_has_the_gradients_of_the_papers(subject, tmp_path):
    check(subject, (1, 2), ["2 unequal"], tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_cuda_has_the_gradients_of_the_papers(precision, compiled):
    """One process; several are for `distgan doctor --parity`."""
    torch._dynamo.reset()
    subject = Subject("dcgan", "gp", precision, conditional=False, compiled=compiled)
    (results,) = compare(0, {subject: objective_of(subject)}, ["2 unequal"])
    assert [result for result in results if not is_equal(subject, result)] == []
