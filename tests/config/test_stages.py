"""The stages of a run that grows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distgan.config import Duration, load_config, process_conflicts
from distgan.config.growing import Course, Growing
from distgan.errors import ConfigError

CONFIG = Path(__file__).parents[1] / "growing.yaml"


def course(length="100 kimg", resolution=32, batch=50, critic_steps=2, **growing):
    settings = {"start": 8, "fade": "10 kimg", "stable": "20 kimg", **growing}
    amount, unit = length.split()
    return Course.of(Duration(float(amount), unit), batch, critic_steps, Growing(**settings), resolution)


def told(course):
    return [(s.resolution, s.batch_size, s.first, s.last, s.fade, s.images) for s in course.stages]


def test_each_resolution_comes_in_and_is_then_trained_on_and_the_last_one_to_the_end():
    assert told(course()) == [
        (8, 50, 0, 200, 0, 0),
        (16, 50, 200, 500, 100, 20_000),
        (32, 50, 500, 1000, 100, 50_000),
    ]
    assert course().steps == 1000 and course().images == 100_000


def test_a_resolution_may_have_a_batch_of_its_own_and_the_images_shown_stay_those_of_the_schedule():
    assert told(course(batch_sizes={8: 200, 32: 10})) == [
        (8, 200, 0, 50, 0, 0),
        (16, 50, 50, 350, 100, 20_000),
        (32, 10, 350, 2850, 500, 50_000),
    ]


def test_a_resolution_may_be_trained_on_for_longer_than_others():
    found = course(stables={8: "40 kimg"})
    assert [(stage.resolution, stage.first, stage.last) for stage in found.stages] == [
        (8, 0, 400),
        (16, 400, 700),
        (32, 700, 1000),
    ]


def test_a_length_in_steps_is_one_of_steps_whatever_the_batches():
    found = course("700 steps", batch_sizes={8: 200})
    assert [stage.last for stage in found.stages] == [50, 350, 700]


def test_stages_that_the_length_leaves_no_step_are_not_there():
    assert [stage.resolution for stage in course("15 kimg").stages] == [8]
    assert told(course("25 kimg"))[-1] == (16, 50, 200, 250, 100, 20_000)


def test_a_run_that_does_not_grow_has_one_stage():
    found = Course.of(Duration(10, "kimg"), 50, 2, None, 48)
    assert told(found) == [(48, 50, 0, 100, 0, 0)] and not found.grows
    assert found.stages[0].share(0) == 1.0


def test_layers_come_in_from_the_first_step_of_their_resolution_to_the_end_of_the_fade():
    stage = course().stages[1]
    assert [stage.share(step) for step in (200, 249, 299, 300, 499)] == [0.01, 0.5, 1.0, 1.0, 1.0]
    assert course().stages[0].share(0) == 1.0


def test_which_stage_a_step_is_of():
    found = course()
    assert [found.stage(step).resolution for step in (0, 199, 200, 499, 500, 999, 1000)] == [8, 8, 16, 16, 32, 32, 32]


@pytest.mark.parametrize("every", ["3 kimg", "70 steps"])
def test_what_is_done_now_and_then_is_counted_anew_at_each_resolution(every):
    found, amount = course(batch_sizes={8: 200}), Duration(float(every.split()[0]), every.split()[1])
    due = [step for step in range(1, found.steps + 1) if found.is_due(amount, step)]
    for stage in found.stages:
        steps = amount.steps(stage.images_per_step)
        assert [step for step in due if stage.first < step <= stage.last] == [
            *range(stage.first + steps, stage.last + 1, steps)
        ]
    for step in range(found.steps + 1):
        assert found.count(amount, step) == sum(one <= step for one in due)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (["growing.start=6"], "growing.start: 6 is not allowed; must be a power of two, 4 or more"),
        (["growing.start=32"], "growing.start: 32 is not below data.resolution 32; use a smaller power of two"),
        (
            ["growing.batch_sizes={64: 8}"],
            "growing.batch_sizes.64: 64 is no resolution of this run, which has 8, 16, 32",
        ),
        (["growing.stables={64: 8 kimg}"], "growing.stables.64: 64 is no resolution of this run, which has 8, 16, 32"),
        (["growing.batch_sizes={8: 6}"], "growing.batch_sizes.8: 6 images cannot be split into groups"),
        (["growing.fade=3 min"], "growing.fade: "),
        (["growing.stables={24: 8 kimg}"], "growing.stables.24: 24 is not allowed as a key; must be a power of two"),
        (["growing.batch_sizes={a: 8}"], "growing.batch_sizes.a: 'a' is not allowed as a key; must be a whole number"),
        (["growing.batch_sizes={24: {}}"], "growing.batch_sizes.24: 24 is not allowed as a key; must be a power of"),
        (["growing.stables={8.5: 8 kimg}"], "growing.stables.8.5: 8.5 is not allowed as a key; must be a whole number"),
        (["data.resolution=48"], "data.resolution: 48 is no resolution of a run that grows from 8; use 32 or 64"),
        (["data.resolution=48", "growing.start=32"], "48 is no resolution of a run that grows from 32; use 64"),
        (["data.resolution=800"], "800 is no resolution of a run that grows from 8; use 512 or 1024"),
        (["data.resolution=1000", "growing.start=1024"], "grows from 1024; use a smaller growing.start"),
        (["growing.start=64", "growing.batch_sizes={64: 8}"], "growing.start: 64 is not below data.resolution 32"),
        (["train.batch_size=6", "growing.batch_sizes={8: 8, 16: 8}"], "train.batch_size: 6 images cannot be split"),
        (
            ["critic={name: dcgan, width: 8}"],
            "growing: critic.name dcgan cannot grow; use progressive, or growing=null",
        ),
    ],
)
def test_what_cannot_grow_is_told(changes, text):
    with pytest.raises(ConfigError) as told:
        load_config([CONFIG], changes)
    assert text in str(told.value)


def test_the_batch_of_every_resolution_is_shared_by_the_processes():
    config = load_config([CONFIG], ["growing.batch_sizes={8: 4}"])
    assert [mistake.key for mistake in process_conflicts(config, 2)] == ["growing.batch_sizes.8"]
    assert process_conflicts(config, 1) == []


def test_grown_it_is_at_its_last_resolution_from_the_first_step_on():
    config = load_config([CONFIG], ["growing.batch_sizes={32: 12}"]).grown
    assert config.growing is None and config.train.batch_size == 12 and len(config.course.stages) == 1
    assert config.grown is config


def test_the_heaviest_stage_has_the_most_pictures_times_their_side():
    def heaviest(batches):
        found = load_config([CONFIG], [f"growing.batch_sizes={batches}"]).heaviest
        assert found.growing is None and len(found.course.stages) == 1
        return found.data.resolution, found.train.batch_size

    assert heaviest("{}") == (32, 8)
    assert heaviest("{16: 16}") == (32, 8)
    assert heaviest("{16: 20}") == (16, 20)


def test_an_empty_mapping_empties_what_a_config_gives():
    config = load_config([CONFIG], ["growing.stables={16: 8 kimg}", "growing.stables={}", "growing.batch_sizes={}"])
    assert config.growing.batch_sizes == {} == config.growing.stables
    told = "leave it out (growing.batch_sizes={} drops all that config files give)"
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_config([CONFIG], ["growing.batch_sizes={64: 8}"])


def test_a_batch_that_no_resolution_has_is_not_judged():
    config = load_config([CONFIG], ["train.batch_size=6", "growing.batch_sizes={8: 8, 16: 8, 32: 8}"])
    assert {stage.batch_size for stage in config.course.stages} == {8}


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        (["growing.batch_sizes={24: 8, 12: 6, a: 7}"], [f"growing.batch_sizes.{key}" for key in ("24", "12", "a")]),
        (["data.resolution=48"], ["data.resolution"]),
        (["growing.batch_sizes={512: 6}"], ["growing.batch_sizes.512"]),
    ],
)
def test_each_mistake_of_growing_is_told_once(changes, keys):
    with pytest.raises(ConfigError) as told:
        load_config([CONFIG], changes)
    assert [line.partition(": ")[0] for line in str(told.value).splitlines()] == keys
