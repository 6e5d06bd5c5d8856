"""What the processes of a run settle between them."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest
import torch
from forked import in_processes
from launching import TINY, command, options

from distgan.config import load_config
from distgan.errors import ConfigError
from distgan.launcher import numbered
from distgan.runtime import Runtime


def told(rank: int, overrides: dict[int, list[str]]) -> str:
    """What a process that has these overrides, by its rank, says when it starts."""
    try:
        Runtime(load_config([TINY], overrides.get(rank, [])))
    except ConfigError as error:
        return str(error)
    return ""


def test_processes_of_different_configs_all_name_each_difference_once(tmp_path):
    overrides = {1: ["seed=5", "generator.norm=layer"], 2: ["seed=6", "critic={name: mlp, width: 8}"]}
    one, *others = in_processes(4, tmp_path, told, overrides)
    assert others == [one] * 3, "they leave together, and only one need tell it"
    head, *differences = one.splitlines()
    assert head == "the processes have different configs; start all with the same one"
    assert "seed: 0 on process 0, 5 on process 1" in differences
    assert "generator.norm: batch on process 0, layer on process 1" in differences
    assert "critic.depth: (not there) on process 0, 3 on process 2" in differences
    assert len({line.split(":")[0] for line in differences}) == len(differences)


@pytest.mark.parametrize(
    "own",
    [
        ["data.shards=elsewhere", "data.threads=5"],
        ["train.micro_batch=8", "train.device=cpu", "train.compile=false"],
    ],
)
def test_machines_may_have_their_own_paths_and_ways_to_compute_the_same(tmp_path, own):
    assert in_processes(2, tmp_path, told, {1: own}) == ["", ""]


def test_machines_that_were_given_different_configs_do_not_train(shapes_shards, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    started = [_start(shapes_shards, tmp_path / "run", rank, place) for rank in range(2)]
    deadline = time.monotonic() + 120
    for process in started:
        _, errors = process.communicate(timeout=deadline - time.monotonic())
        assert process.returncode == 2, errors
        assert errors.splitlines()[-1] == "distgan: critic.optimizer.lr: 0.1 on process 0, 0.2 on process 1"
        assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


def _start(shards: Path, run: Path, rank: int, place: dict[str, str]) -> subprocess.Popen:
    words = command(
        "--config", TINY, f"data.shards={shards}", f"run_dir={run}", f"critic.optimizer.lr={0.1 * (rank + 1)}"
    )
    here = {"RANK": str(rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "ACCELERATE_USE_CPU": "true", **place}
    settings = options(env=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen(words, **{k: v for k, v in settings.items() if k not in ("capture_output", "timeout")})


@pytest.mark.parametrize("given, wanted", [("cuda", "cuda:3"), ("cuda:1", "cuda:1"), ("cpu", "cpu")])
def test_a_device_has_its_number(monkeypatch, given, wanted):
    """Accelerate gives one without, on one process, which no other thread can be told to use."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert numbered(torch.device(given)) == torch.device(wanted)
