"""A run folder that is another one on each machine: found before the training begins, and by the doctor."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import in_processes
from launching import TINY

from distgan import shared_folder
from distgan import train as entry
from distgan.config import load_config
from distgan.doctor.checkup import check_start
from distgan.doctor.table import Table
from distgan.errors import RunFolderError
from distgan.stopping import StopSignals

SMALL = ["generator={name: mlp, latent: 8, width: 16, norm: layer}", "critic={name: mlp, width: 16}"]


def elsewhere(rank: int, places: list[Path], call: Callable, *args):
    """What `call` returns in a working folder of this process's own, as on machines that share no file system."""
    places[rank].mkdir(exist_ok=True)
    os.chdir(places[rank])
    shared_folder.PATIENCE = 0.3
    return call(*args)


def trained(words: list[str]) -> str:
    """How a training ends."""
    args = argparse.Namespace(config=[str(TINY)], overrides=words, allow_config_change=False, init_from=None)
    try:
        entry.train(args, StopSignals())
    except RunFolderError as error:
        return str(error)
    return "done"


def examined(words: list[str]) -> tuple[int, list[str]]:
    """Status of the doctor, and what is not fine in run_dir."""
    seen, add = [], Table.add
    Table.add = lambda table, findings: (seen.extend(findings), add(table, findings))[1]
    status = check_start(load_config([TINY], words), "tiny", time.perf_counter())
    return status, [row.text for row in seen if row.what == "run_dir" and row.verdict == "NOT FINE"]


@pytest.fixture
def words(shapes_shards):
    return [f"data.shards={shapes_shards}", "run_dir=run", "train.length=1 steps", "train.device=cpu", *SMALL]


def test_a_folder_of_each_machine_is_refused_before_the_training(words, tmp_path):
    places = [tmp_path / "one", tmp_path / "other"]
    told = in_processes(2, tmp_path / "meeting", elsewhere, places, trained, words)
    assert told[0] == told[1]
    assert told[0].startswith("run_dir run: process 1 on ") and "give a full path" in told[0]
    assert not list(tmp_path.rglob("metrics.jsonl")) and not list(tmp_path.rglob(".seen*"))


def test_one_folder_is_seen_by_all_and_left_as_it_was(words, tmp_path):
    assert in_processes(2, tmp_path / "meeting", elsewhere, [tmp_path] * 2, trained, words) == ["done"] * 2
    assert not list(tmp_path.rglob(".seen*"))


@pytest.mark.parametrize("there", [False, True])
def test_the_doctor_tells_of_it(words, tmp_path, there):
    places = [tmp_path / "one", tmp_path / "other"]
    for place in places if there else ():
        (place / "run").mkdir(parents=True)
    told = in_processes(2, tmp_path / "meeting", elsewhere, places, examined, words)
    assert told[0] == told[1]
    status, (text,) = told[0]
    assert status == 1 and text.startswith("run_dir run: process 1 on ") and "give a full path" in text
    assert [path.name for place in places for path in place.iterdir()] == (["run"] * 2 if there else [])


def test_what_cannot_be_written_tells_nothing_of_who_sees_it(tmp_path):
    (tmp_path / "file").touch()
    assert shared_folder.blind(tmp_path / "file", 0, 2, lambda names: names) == frozenset()
