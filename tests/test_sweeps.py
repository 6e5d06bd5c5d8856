"""The sweeps that are shipped: each trial can be started, by an agent of W&B and by `distgan submit`."""

from __future__ import annotations

import itertools

import pytest
import yaml
from launching import ROOT
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from distgan.config import flatten, load_config
from distgan.errors import ConfigError
from distgan.grouping import group_of
from distgan.slurm.sweep import elements, grid_of

SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


def trials(sweep: dict) -> list[dict]:
    """The parameters of every trial of a grid, as wandb reads the file."""
    values = [asked.get("values", [asked.get("value")]) for asked in sweep["parameters"].values()]
    return [dict(zip(sweep["parameters"], found, strict=True)) for found in itertools.product(*values)]


def words(sweep: dict, trial: dict) -> list[str]:
    """The command line of a trial, made by wandb's own code."""
    found = create_sweep_command_args({"args": {key: {"value": value} for key, value in trial.items()}})
    found["env"] = ["/usr/bin/env"]
    parts = [str(part) for part in create_sweep_command(sweep["command"])]
    return [word for part in parts for word in (found[part[2:-1]] if part.startswith("${") else [part])]


def test_there_are_sweeps():
    assert len(SWEEPS) >= 3


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_trial_is_a_config_and_its_command_line_says_so(path):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] == "grid" and path.name in path.read_text().split("\nname:")[0]
    found = []
    for trial in trials(sweep):
        command = words(sweep, trial)
        assert command[:3] == ["/usr/bin/env", "accelerate", "launch"] and (ROOT / command[4]).exists()
        script = command.index("distgan/train.py")
        assert command[script + 1] == "--config"
        config = load_config([ROOT / command[script + 2]], command[script + 3 :])
        values = flatten(config)
        assert {key: values[key] for key in trial} == trial
        found.append((group_of(values), config.seed))
    assert len(set(found)) == len(found)
    assert len({group for group, _ in found}) == len(found) / len({seed for _, seed in found})


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_array_of_slurm_is_the_same_grid(path):
    sweep = yaml.safe_load(path.read_text())
    config = next(word for word in map(str, sweep["command"]) if word.startswith("configs/"))
    array = [flatten(load_config([ROOT / config], element.overrides)) for element in elements([], path)]
    ours = [{key: values[key] for key in grid_of(path)} for values in array]
    assert ours == [{key: trial[key] for key in grid_of(path)} for trial in trials(sweep)]
    assert {values["tracking.wandb.mode"] for values in array} == {"off"}


def test_keys_of_the_command_line_replace_those_of_the_file(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text('method: grid\nparameters: {seed: {values: [0, 1]}, run_dir: {value: "1"}}\n')
    assert elements(["seed=5,6"], file) == [
        ("seed-5", ['run_dir="1"', "seed=5"]),
        ("seed-6", ['run_dir="1"', "seed=6"]),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("method: bayes\nparameters: {seed: {values: [1, 2]}}", "needs method: grid"),
        ("method: grid", "needs method: grid, and parameters"),
        ("method: grid\nparameters: {seed: {min: 1, max: 2}}", "seed: needs a value or a list of values"),
        ("method: grid\nparameters: {seed: {value: 1}}", "one value makes no array"),
        ("[1]", "must be a mapping"),
    ],
)
def test_a_file_that_is_no_grid_is_one_clear_line(tmp_path, text, told):
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told) as error:
        elements([], tmp_path / "sweep.yaml")
    assert "\n" not in str(error.value)
