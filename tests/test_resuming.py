from __future__ import annotations

import pytest

from distgan.config import Config, dump_config, flatten
from distgan.config.loading import merge, validate
from distgan.errors import ConfigError
from distgan.resuming import check_resumable
from distgan.run_folder import RunFolder

TREE = {
    "run_dir": "runs/x",
    "data": {"shards": "x", "resolution": 32},
    "train": {"length": "10 steps"},
    "generator": {"name": "mlp"},
    "critic": {"name": "mlp"},
}


def config(tree: dict | None = None) -> Config:
    return validate(merge(TREE, tree or {}))


@pytest.fixture
def folder(tmp_path):
    """A run folder with a checkpoint."""
    found = RunFolder(tmp_path / "run")
    found.create()
    found.config.write_text(dump_config(config()))
    found.checkpoint(4).mkdir()
    return found


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"run_dir": "elsewhere"},
        {"data": {"shards": ["a", "b"], "threads": 7, "cache": "/scratch", "stage": True}},
        {"train": {"length": "99 kimg", "micro_batch": 3, "device": "cpu", "compile": True}},
        {"train": {"checkpoint_activations": True, "compile": "auto"}},
        {"checkpoint": {"every": "1 h", "keep": 1}, "samples": {"every": "7 steps"}},
        {"evaluate": {"every": "9 steps", "metrics": ["fid"], "inception": "here.pth"}},
        {"tracking": {"every": "1 steps", "wandb": {"mode": "offline", "tags": ["a"]}}},
    ],
)
def test_what_does_not_shape_the_run_may_change(folder, tree):
    check_resumable(folder, config(tree), allow=False)


@pytest.mark.parametrize(
    ("tree", "shown"),
    [
        ({"seed": 1}, "seed: 0 in the run, 1 now"),
        ({"train": {"batch_size": 8}}, "train.batch_size: 64 in the run, 8 now"),
        ({"train": {"precision": "bf16"}}, "train.precision: fp32 in the run, bf16 now"),
        ({"samples": {"count": 4}}, "samples.count: 64 in the run, 4 now"),
        ({"evaluate": {"count": 50}}, "evaluate.count: 10000 in the run, 50 now"),
        ({"data": {"flip": True}}, "data.flip: False in the run, True now"),
        ({"critic": {"optimizer": {"lr": 1.0}}}, "critic.optimizer.lr: 0.0001 in the run, 1.0 now"),
        (
            {"critic": {"optimizer": {"betas": [0.5, 0.9]}}},
            "critic.optimizer.betas: [0.0, 0.9] in the run, [0.5, 0.9] now",
        ),
        ({"generator": {"name": "dcgan"}}, "generator.upsample: (not there) in the run, transposed now"),
        ({"generator": {"name": "dcgan"}}, "generator.depth: 3 in the run, (not there) now"),
    ],
)
def test_what_shapes_the_run_may_not_and_the_difference_is_shown(folder, tree, shown):
    with pytest.raises(ConfigError, match="--allow-config-change") as caught:
        check_resumable(folder, config(tree), allow=False)
    assert shown in str(caught.value).splitlines()
    check_resumable(folder, config(tree), allow=True)


def test_a_run_may_always_be_made_longer_and_one_that_decays_not_shorter(folder):
    decaying = {"critic": {"optimizer": {"decay": "linear"}}}
    folder.config.write_text(dump_config(config(decaying)))
    check_resumable(folder, config(merge(decaying, {"train": {"length": "20 steps"}})), allow=False)
    with pytest.raises(ConfigError, match="train.length: 10 steps in the run, 9 steps now"):
        check_resumable(folder, config(merge(decaying, {"train": {"length": "9 steps"}})), allow=False)


def test_all_differences_are_shown_and_nothing_else(folder):
    with pytest.raises(ConfigError) as caught:
        check_resumable(folder, config({"seed": 1, "objective": {"weight": 1.0}, "run_dir": "y"}), allow=False)
    assert len(str(caught.value).splitlines()) == 3


def test_a_folder_without_a_checkpoint_holds_no_run_yet(folder):
    folder.checkpoint(4).rmdir()
    check_resumable(folder, config({"seed": 1}), allow=False)
    check_resumable(RunFolder(folder.path / "new"), config(), allow=False)


def test_a_config_in_the_folder_that_cannot_be_read_is_named(folder):
    folder.config.write_text("a: [")
    with pytest.raises(ConfigError, match="config.yaml"):
        check_resumable(folder, config(), allow=False)


def test_every_value_has_its_path():
    flat = flatten(config())
    assert flat["critic.optimizer.lr"] == 1e-4 and flat["train.length"] == "10 steps" and flat["data.channels"] == 3
    assert not any(isinstance(value, dict) for value in flat.values())
