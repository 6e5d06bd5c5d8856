"""Whole runs do not depend on how many processes and micro-batches share a batch."""

from __future__ import annotations

import pytest
from launching import TINY, train, worst_difference, worst_pixel_difference, worst_weight_difference

pytestmark = pytest.mark.slow

STEPS = 20
EVERYTHING = [
    "train.precision=fp64",
    f"train.length={STEPS} steps",
    "data.classes=4",
    "critic.dropout=0.2",
    "critic.minibatch_std=2",
    "objective.every=3",
]
"""Beside the flips, the average over weights, and the batch norm in the generator that the tiny run has anyway."""
LAYERED = [*EVERYTHING, "generator.norm=layer"]
"""Batch norm and micro-batches refuse each other."""

RUNS = {
    "batch norm, alone": (None, EVERYTHING),
    "batch norm, 2 processes": (2, EVERYTHING),
    "batch norm, 4 processes": (4, EVERYTHING),
    "alone": (None, LAYERED),
    "alone, 6 + 6 + 4": (None, [*LAYERED, "train.micro_batch=6"]),
    "2 processes, 6 + 2": (2, [*LAYERED, "train.micro_batch=6"]),
    "4 processes, 2 + 2": (4, [*LAYERED, "train.micro_batch=2"]),
    "another seed": (None, [*LAYERED, "seed=1"]),
}


@pytest.fixture(scope="module")
def run(shapes_shards, tmp_path_factory):
    """The folder of one of RUNS, which is trained when it is first asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def trained(name: str):
        processes, overrides = RUNS[name]
        if not (folder / name).exists():
            place = [f"data.shards={shapes_shards}", f"run_dir={folder / name}"]
            train("--config", TINY, *place, *overrides, processes=processes)
        return folder / name

    return trained


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("batch norm, alone", "batch norm, 2 processes"),
        ("batch norm, alone", "batch norm, 4 processes"),
        ("alone", "alone, 6 + 6 + 4"),
        ("alone", "2 processes, 6 + 2"),
        ("alone", "4 processes, 2 + 2"),
    ],
)
def test_processes_and_micro_batches_change_no_loss_norm_weight_or_sample(run, one, other):
    pair = run(one), run(other)
    print(
        *(
            f(*pair, *a)
            for f, a in (
                (worst_difference, ()),
                (worst_weight_difference, (STEPS,)),
                (worst_pixel_difference, (STEPS,)),
            )
        )
    )
    assert worst_difference(*pair) <= 1e-9
    assert worst_weight_difference(*pair, STEPS) <= 1e-9
    assert worst_pixel_difference(*pair, STEPS) <= 1


def test_another_seed_changes_losses_weights_and_samples(run):
    pair = run("alone"), run("another seed")
    print(
        *(
            f(*pair, *a)
            for f, a in (
                (worst_difference, ()),
                (worst_weight_difference, (STEPS,)),
                (worst_pixel_difference, (STEPS,)),
            )
        )
    )
    assert worst_difference(*pair) > 0.01
    assert worst_weight_difference(*pair, STEPS) > 0.01
    assert worst_pixel_difference(*pair, STEPS) > 1
