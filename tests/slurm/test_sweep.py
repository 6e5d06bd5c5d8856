"""From KEY=VALUES to the runs of an array."""

from __future__ import annotations

import pytest

from distgan.errors import ConfigError
from distgan.slurm.sweep import elements, numbered


def test_every_combination_has_its_overrides_and_a_folder_named_after_them():
    assert elements(["seed=0-1", "critic.optimizer.lr=1e-4,2e-4"]) == [
        ("seed-0_lr-1e-4", ["seed=0", "critic.optimizer.lr=1e-4"]),
        ("seed-0_lr-2e-4", ["seed=0", "critic.optimizer.lr=2e-4"]),
        ("seed-1_lr-1e-4", ["seed=1", "critic.optimizer.lr=1e-4"]),
        ("seed-1_lr-2e-4", ["seed=1", "critic.optimizer.lr=2e-4"]),
    ]


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("seed=2-3,7", ["seed-2", "seed-3", "seed-7"]),
        ("seed=0-9:4", ["seed-0", "seed-4", "seed-8"]),
        ("train.length=20 steps,500 kimg", ["length-20-steps", "length-500-kimg"]),
        ("a.betas=[0, 0.9],[0.5, 0.999]", ["betas-0-0.9", "betas-0.5-0.999"]),
        ("data.shards=/d/x,../y", ["shards--d-x", "shards-..-y"]),
        ("a.weight=1,-1", ["weight-1", "weight--1"]),
    ],
)
def test_values_are_lists_and_ranges_and_their_names_are_safe(word, names):
    assert [element.name for element in elements([word])] == names


def test_keys_that_end_alike_are_told_apart():
    (first, *_) = elements(["critic.optimizer.lr=1,2", "generator.optimizer.lr=3,4", "seed=0,1"])
    assert first.name == "critic.optimizer.lr-1_generator.optimizer.lr-3_seed-0"
    (first, *_) = elements(["a.x.lr=1,2", "a.y.lr=3,4"])
    assert first.name == "x.lr-1_y.lr-3"


def test_a_key_with_one_value_is_laid_on_all_and_in_no_name():
    assert elements(["seed=0,1", "train.length=20 steps"]) == [
        ("seed-0", ["train.length=20 steps", "seed=0"]),
        ("seed-1", ["train.length=20 steps", "seed=1"]),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["seed"], "seed: not KEY=VALUES"),
        (["seed=1,,2"], "a value is empty"),
        (["seed=1,2,1"], "1 is given twice"),
        (["seed=0,1", "seed=2,3"], "seed is given twice"),
        (["seed=3-1"], "3-1 is an empty range"),
        (["seed=0-4:0"], "0-4:0 is an empty range"),
        (["seed=0-99999999999"], "more than 1000 values"),
        (["seed=0-99", "a.b=0-99"], "10000 runs; at most 1000"),
        (["seed=1"], "one value makes no array"),
        (["run_dir=a,b"], "one folder holds those of all runs"),
        (["data.shards=a/b,a b"], "shards-a-b would be the folder of several runs"),
    ],
)
def test_what_makes_no_array_is_told(words, told):
    with pytest.raises(ConfigError, match=f"^--array.*{told}"):
        elements(words)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError, match="(?s)seed.*a.b"):
        elements(["seed=3-1", "a.b"])


def test_an_element_keeps_its_number_whatever_is_added_or_left_out(tmp_path):
    file = tmp_path / "elements"
    lines, numbers = numbered(file, ["seed-0", "seed-1"])
    assert (lines, numbers) == (["seed-0", "seed-1"], {"seed-0": 0, "seed-1": 1})
    file.write_text("".join(f"{line}\n" for line in lines))
    lines, numbers = numbered(file, ["seed-2", "seed-1"])
    assert (lines, numbers) == (["seed-0", "seed-1", "seed-2"], {"seed-2": 2, "seed-1": 1})
