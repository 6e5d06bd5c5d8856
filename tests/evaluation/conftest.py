"""Drawn pictures with labels, and a classifier of them that is trained once."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluated import config_of, copied, evaluator_of

from distgan.data.prepare import prepare


@pytest.fixture(scope="session")
def known_shards(tmp_path_factory) -> Path:
    """400 drawn pictures of 4 classes, 16 x 16 and grey, beside which a classifier of them is kept."""
    folder = tmp_path_factory.mktemp("known") / "shards"
    prepare("shapes", None, folder, resolution=16, channels=1, count=400, shard_size=100, workers=1)
    evaluator_of(config_of(folder, "modes")).prepare()
    return folder


@pytest.fixture
def own_shards(known_shards, tmp_path) -> Path:
    """A copy that a test may change, with the classifier alone beside it."""
    return copied(known_shards, tmp_path / "shards")
