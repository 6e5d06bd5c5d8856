from __future__ import annotations

import numpy as np
import pytest
import torch
from forked import in_processes
from hypothesis import given
from hypothesis import strategies as st

from distgan.runtime import Runtime
from distgan.tracking.meter import MAXIMA, MEANS, NAMES, Meter

DEVICE = torch.device("cpu")


def alone(values: torch.Tensor, maximum: torch.Tensor) -> torch.Tensor:
    return values


def entry(**values: float) -> dict[str, torch.Tensor]:
    return {name.replace("_", "/", 1): torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def taken(entries: list[tuple[dict, float]], folds: tuple[int, ...] = ()) -> dict[str, float]:
    meter = Meter(DEVICE)
    for number, (parts, weight) in enumerate(entries):
        meter.add(parts, weight)
        if number in folds:
            meter.fold(alone)
    meter.fold(alone)
    return meter.take()


def test_the_names_are_those_of_the_contract():
    assert (
        set(NAMES)
        == set(MEANS) | set(MAXIMA)
        == {
            "critic/loss",
            "critic/wasserstein",
            "critic/penalty",
            "critic/grad_norm_mean",
            "critic/grad_norm_max",
            "generator/loss",
        }
    )


VALUE = st.floats(-1e3, 1e3)


@given(st.lists(st.tuples(VALUE, st.floats(0, 1e3), st.floats(0.01, 1)), min_size=1, max_size=20))
def test_means_are_weighted_averages_and_maxima_the_largest(rows):
    found = taken([(entry(critic_loss=loss, critic_grad_norm_max=norm), weight) for loss, norm, weight in rows])
    losses, norms, weights = map(np.array, zip(*rows, strict=True))
    assert found["critic/loss"] == pytest.approx(np.average(losses, weights=weights), rel=1e-12, abs=1e-9)
    assert found["critic/grad_norm_max"] == norms.max()
    assert found.keys() == {"critic/loss", "critic/grad_norm_max"}


def test_a_metric_that_comes_now_and_then_is_averaged_over_when_it_came():
    lazy = [(entry(critic_loss=1.0, critic_penalty=8.0), 1.0), *[(entry(critic_loss=2.0), 1.0)] * 3]
    assert taken(lazy) == {"critic/loss": 1.75, "critic/penalty": 8.0}


def test_a_micro_batch_counts_by_its_share():
    assert taken([(entry(critic_loss=3.0), 0.75), (entry(critic_loss=7.0), 0.25)]) == {"critic/loss": 4.0}


def test_taking_starts_afresh_and_adding_alone_shows_nothing():
    meter = Meter(DEVICE)
    meter.add(entry(critic_loss=3.0, critic_grad_norm_max=9.0), 1.0)
    assert meter.take() == {}
    meter.fold(alone)
    assert meter.take() == {"critic/loss": 3.0, "critic/grad_norm_max": 9.0}
    meter.add(entry(critic_loss=5.0, critic_grad_norm_max=1.0), 1.0)
    meter.fold(alone)
    assert meter.take() == {"critic/loss": 5.0, "critic/grad_norm_max": 1.0}


def test_a_nan_is_shown():
    assert np.isnan(taken([(entry(critic_loss=float("nan")), 1.0), (entry(critic_loss=1.0), 1.0)])["critic/loss"])


@given(st.lists(VALUE, min_size=2, max_size=12), st.data())
def test_a_run_stopped_at_a_checkpoint_adds_the_same_numbers_in_the_same_order(values, data):
    """Both fold at the checkpoint; one of them is then written, thrown away and read again."""
    entries = [(entry(critic_loss=value, critic_grad_norm_max=abs(value)), 1 / 3) for value in values]
    at = data.draw(st.integers(0, len(values) - 2))
    first = Meter(DEVICE)
    for parts, weight in entries[: at + 1]:
        first.add(parts, weight)
    first.fold(alone)
    second = Meter(DEVICE)
    second.load(first.state().clone())
    for parts, weight in entries[at + 1 :]:
        second.add(parts, weight)
    second.fold(alone)
    assert second.take() == taken(entries, folds=(at,))


def test_folding_by_halves_differs_in_no_more_than_rounding():
    entries = [(entry(critic_loss=1 / n), 1.0) for n in range(1, 30)]
    assert taken(entries)["critic/loss"] == pytest.approx(taken(entries, folds=(3, 17))["critic/loss"], rel=1e-14)


ROWS = [[(1.0, 9.0), (4.0, 2.0)], [(3.0, 5.0), (8.0, 1.0)], [(0.0, 0.0), (2.0, 3.0)]]


def gathered(rank: int) -> dict[str, float]:
    runtime = Runtime.__new__(Runtime)  # its reduce needs to know of nothing but the number of processes
    runtime.world_size = torch.distributed.get_world_size()
    meter = Meter(DEVICE)
    for loss, norm in ROWS[rank]:
        meter.add(entry(critic_loss=loss, critic_grad_norm_max=norm), 1.0)
        meter.fold(runtime.reduce)
    return meter.take()


@pytest.mark.parametrize("world_size", [2, 3])
def test_all_processes_have_the_mean_and_the_maximum_of_all(tmp_path, world_size):
    ranks = in_processes(world_size, tmp_path, gathered)
    losses = [loss for rows in ROWS[:world_size] for loss, _ in rows]
    assert all(found == ranks[0] for found in ranks)
    assert ranks[0]["critic/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-15)
    assert ranks[0]["critic/grad_norm_max"] == 9
