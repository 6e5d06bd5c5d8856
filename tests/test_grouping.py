"""Runs that differ in nothing but their seed have one group."""

from __future__ import annotations

import pytest

from distgan.config import flatten, load_config
from distgan.grouping import group_of

CONFIG = "configs/quickstart.yaml"


def group(*overrides: str) -> str:
    return group_of(flatten(load_config([CONFIG], list(overrides))))


def test_a_group_names_family_size_and_penalty():
    assert group().startswith("dcgan-32-gp-")


@pytest.mark.parametrize(
    "override",
    ["seed=3", "run_dir=elsewhere", "data.shards=other", "train.micro_batch=2", "tracking.wandb.mode=offline"],
)
def test_seeds_and_places_share_a_group(override):
    assert group(override) == group()


@pytest.mark.parametrize("override", ["train.batch_size=64", "critic.optimizer.lr=2e-3", "objective.penalty=lp"])
def test_what_changes_what_is_learned_has_a_group_of_its_own(override):
    assert group(override) != group()
