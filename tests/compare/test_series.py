from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import line

from distgan.compare.curves import band, curve, thinned
from distgan.compare.run_data import RunData
from distgan.compare.series import series_of
from distgan.compare.summary import Group, best, final, groups_of, images_per_second, spread
from distgan.histogram import CELLS
from distgan.tracking.names import HISTOGRAM


def test_of_lines_of_one_step_the_last_counts_and_steps_are_in_order():
    series = series_of([{"step": 2, "a": 1}, {"step": 1, "a": 5}, {"step": 2, "a": 3}])
    assert series.axes["step"].tolist() == [1, 2] and series.values["a"].tolist() == [5, 3]


def test_what_only_dropped_lines_have_is_left_out():
    counts = [1] * CELLS
    first = {"step": 1, "critic/loss": 1, "evaluate/fid": 3, "a": math.nan, HISTOGRAM: counts}
    series = series_of([first, {"step": 1, "critic/loss": 2, "a": 5}])
    assert {name: column.tolist() for name, column in series.values.items()} == {"critic/loss": [2], "a": [5]}
    assert series.histogram is None and not series.without_end
    assert best(series, "evaluate/fid") is None and final(series, "evaluate/fid") is None


def test_the_end_is_that_of_the_last_step_in_whatever_order_lines_come():
    series = series_of([{"step": 3, "a": 1.0}, {"step": 2, "a": math.nan}])
    assert final(series, "a").value == 1.0 and not series.without_end


@pytest.mark.parametrize("damage", [math.inf, -math.inf, math.nan, -1, 10**400, "1"])
def test_a_histogram_that_holds_anything_but_counts_is_passed_over(damage):
    whole, damaged = [2] * CELLS, [damage, *[1] * (CELLS - 1)]
    series = series_of([{"step": 1, HISTOGRAM: whole}, {"step": 2, HISTOGRAM: damaged}])
    assert series.histogram == whole


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf, 10**400])
def test_what_is_no_finite_number_is_no_point(nothing):
    series = series_of([{"step": 1, "a": 2.0, "b": nothing}, {"step": 2, "a": nothing, "b": nothing}])
    assert [column.tolist() for column in series.points("a", "step")] == [[1], [2]]
    assert "b" not in series.values
    assert final(series, "a") is None and series.without_end == {"a"}


def test_a_metric_that_is_not_in_each_line_ends_with_its_own_last_line():
    series = series_of([{"step": 1, "kimg": 0.5, "a": 2}, {"step": 2, "kimg": 1.0}])
    assert final(series, "a").value == 2 and final(series, "a").at == {"step": 1, "kimg": 0.5, "hours": None}


def test_the_best_is_the_lowest_or_the_highest_by_the_metric_and_losses_have_none():
    series = series_of([line(step) for step in range(1, 11)])
    assert best(series, "evaluate/fid").at["step"] == 7 and best(series, "evaluate/fid").at["hours"] == 0.07
    assert best(series, "throughput/images_per_second").value == 110
    assert best(series, "critic/loss") is None and best(series, "critic/wasserstein") is None
    assert final(series, "critic/wasserstein").value == 10 and images_per_second(series) == 105.5


def test_words_and_lists_among_the_metrics_are_passed_over():
    series = series_of([{"step": 1, "a": "word", "b": [1, 2], "c": {"d": 1}, "e": 1}])
    assert list(series.values) == ["e"] and series.histogram is None


def test_no_lines_are_a_series_without_points():
    series = series_of([])
    assert series.is_empty and series.end("step") is None and series.points("a", "kimg")[0].size == 0


def test_seeds_have_a_mean_and_the_deviation_of_a_sample():
    values = [final(series_of([{"step": 1, "a": a}]), "a") for a in (1.0, 2.0, 6.0)]
    found = spread([*values, None])
    assert (found.mean, found.count) == (3.0, 3) and found.std == pytest.approx(math.sqrt(7))
    assert spread(values[:1]).std is None and spread([None]) is None


def test_numbers_near_the_largest_float_have_a_mean_and_a_deviation_where_one_can_be_told():
    def found(*numbers: float):
        return spread(final(series_of([{"step": 1, "a": a}]), "a") for a in numbers)

    assert (found(1.7e308, 1.7e308, 1.7e308).mean, found(1.7e308, 1.7e308, 1.7e308).std) == (1.7e308, 0)
    assert found(1.7e308, -1.7e308).mean == 0 and found(1.7e308, -1.7e308).std is None
    fast = series_of([{"step": step, "throughput/images_per_second": 1.7e308} for step in (1, 2)])
    assert images_per_second(fast) is None


def run_of(lines: list[dict], seed: int = 0) -> RunData:
    config = {"seed": seed, "train.batch_size": 8}
    return RunData(name=f"run{seed}", place="", config=config, series=series_of(lines), state="finished")


def test_runs_that_differ_in_their_seed_alone_are_a_group():
    others = {"config": {"seed": 0, "train.batch_size": 9}}
    runs = [run_of([], 0), run_of([], 1), RunData(name="x", place="", series=series_of([]), state="failed", **others)]
    assert [[run.name for run in group.runs] for group in groups_of(runs)] == [["run0", "run1"], ["x"]]
    assert [group.unfinished for group in groups_of(runs)] == [0, 1]


def test_a_band_is_taken_on_a_common_axis_where_two_seeds_are_under_way():
    every = run_of([{"step": step, "a": float(step)} for step in range(0, 101)])
    fewer = run_of([{"step": step, "a": step + 2.0} for step in range(10, 61, 10)], 1)
    found = band(Group("g", [every, fewer]), "a", "step")
    x, mean, std = (np.array(found[name]) for name in ("x", "mean", "std"))
    assert (x[0], x[-1]) == (10, 60)
    assert np.allclose(mean, x + 1, atol=1e-3) and np.allclose(std, math.sqrt(2), atol=1e-5)
    assert band(Group("g", [every, run_of([], 1)]), "a", "step") is None
    assert band(Group("g", [every, fewer]), "a", "kimg") is None


def test_a_band_stands_only_where_its_numbers_are_finite():
    runs = [
        run_of([{"step": 0, "a": 1.0}, {"step": 50, "a": 2.0}, {"step": 99, "a": 1.7e308}], seed) for seed in (0, 1)
    ]
    found = band(Group("g", runs), "a", "step")
    assert found["x"][0] == 0 and 49 < found["x"][-1] < 99 and None not in found["mean"] + found["std"]
    assert (
        band(Group("g", [run_of([{"step": s, "a": 1.7e308} for s in (0, 9)], n) for n in (0, 1)]), "a", "step") is None
    )


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400),
    st.integers(8, 60),
)
def test_a_thinned_curve_keeps_its_ends_its_extremes_and_its_order(values, most):
    values = np.array(values)
    kept = thinned(values, most)
    assert len(kept) <= max(most, 1) and (np.diff(kept) > 0).all()
    assert kept[0] == 0 and kept[-1] == len(values) - 1
    assert values[kept].min() == values.min() and values[kept].max() == values.max()


def test_a_thinned_curve_keeps_spikes_and_their_places():
    lines = [{"step": step, "kimg": step / 10, "a": float(step == 7003)} for step in range(20000)]
    drawn = curve(series_of(lines), "a", 100)
    assert len(drawn["y"]) <= 100
    assert (drawn["step"][drawn["y"].index(1.0)], drawn["kimg"][drawn["y"].index(1.0)]) == (7003, 700.3)
