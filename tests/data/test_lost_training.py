"""A whole training of which a shard is cut off and another is gone."""

from __future__ import annotations

import os
import shutil

import pytest
from launching import TINY, lines, train, worst_difference


@pytest.fixture
def broken(shapes_shards, tmp_path):
    """The shards with one cut in its middle and one removed."""
    folder = tmp_path / "broken"
    shutil.copytree(shapes_shards, folder)
    cut, gone = sorted(folder.glob("*.tar"))[:2]
    os.truncate(cut, cut.stat().st_size // 2)
    gone.unlink()
    return folder


def test_lost_shards_are_replaced_with_the_same_curve_on_any_number_of_processes(broken, tmp_path):
    arguments = ["--config", TINY, "train.precision=fp64", "train.length=20 steps", f"data.shards={broken}"]
    refused = train(*arguments, f"run_dir={tmp_path / 'refused'}", check=False)
    assert refused.returncode == 2 and "bytes where its index says" in refused.stderr
    replace = ["data.bad_pictures=replace", "data.bad_limit=100000"]
    alone = train(*arguments, *replace, f"run_dir={tmp_path / 'alone'}")
    train(*arguments, *replace, f"run_dir={tmp_path / 'two'}", "data.tier=stream", processes=2)
    assert worst_difference(tmp_path / "alone", tmp_path / "two") < 1e-9
    counts = [lines(run)[-1]["data/replaced_pictures"] for run in (tmp_path / "alone", tmp_path / "two")]
    assert counts[0] == counts[1] > 0
    assert "what cannot be read is replaced" in alone.stdout + alone.stderr
