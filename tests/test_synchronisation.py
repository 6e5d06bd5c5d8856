"""The host asks the device for a number where a line is written, and nowhere in a step."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from forked import in_processes
from launching import TINY
from planting import fused
from torch.utils._python_dispatch import TorchDispatchMode

from distgan import phases as phases_module
from distgan import runtime
from distgan.bad_numbers import Guard
from distgan.compiling import compile_or_fall_back
from distgan.config import load_config
from distgan.data.dataset import open_dataset
from distgan.run_folder import RunFolder
from distgan.runtime import Runtime
from distgan.stopping import StopSignals
from distgan.trainer import Trainer

WAITS = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "is_nonzero")
"""Operators whose result, or its size, the host must know."""
IN_A_STEP = ("reading the batch", "gradients", "applying them", "agreeing with the others to go on")
NETWORKS = ("generator", "critic")
SETTINGS = ["train.length=6 steps", "tracking.every=3 steps", 'data.holdout="64 images"', "objective.every=2"]


class Waits(TorchDispatchMode):
    """What the trainer was doing each time that the host asked for a number."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.doing, self.found = "", set()
        mark = trainer._mark

        def marked(doing: str, *args) -> None:
            self.doing = doing
            mark(doing, *args)

        trainer._mark = marked

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in WAITS:
            self.found.add(self.doing)
        return function(*args, **(kwargs or {}))


def prepared(shards: Path, folder: Path, settings: list[str]) -> Trainer:
    config = load_config([TINY], [f"data.shards={shards}", f"run_dir={folder}", *SETTINGS, *settings])
    runtime, run = Runtime(config), RunFolder(config.run_dir)
    torch.set_num_threads(1)
    run.create()
    return Trainer(config, runtime, open_dataset(config.data), run)


def watch(rank: int, shards: Path, folder: Path, settings: list[str]) -> set[str]:
    """As on a GPU: fused optimisers, and a guard that does not wait for the device."""
    phases_module.make_optimizer = fused
    trainer = prepared(shards, folder, settings)
    trainer.phases.guard = Guard(trainer.config.train.bad_numbers, trainer.runtime.device, lagged=True)
    with Waits(trainer) as waits:
        trainer.fit(StopSignals())
    return waits.found


@pytest.mark.parametrize("settings", [[], ["train.bad_numbers=skip"], ["train.precision=bf16", "data.classes=4"]])
def test_a_step_asks_the_device_for_nothing(shapes_shards, tmp_path, settings):
    for found in in_processes(2, tmp_path, watch, shapes_shards, tmp_path / "run", settings):
        assert not found & set(IN_A_STEP)
        assert "writing a line of metrics" in found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("settings", [[], ["train.precision=bf16"], ["train.compile=true"]])
def test_a_step_does_not_wait_for_cuda(shapes_shards, tmp_path, settings):
    """CUDA itself refuses to be waited for while a step is under way."""
    trainer = prepared(shapes_shards, tmp_path / "run", ["train.device=cuda", *settings])
    mark = trainer._mark

    def marked(doing: str, *args) -> None:
        warmed_up = trainer.steps_taken > 1
        torch.cuda.set_sync_debug_mode("error" if warmed_up and doing in IN_A_STEP else "default")
        mark(doing, *args)

    trainer._mark = marked
    try:
        assert trainer.fit(StopSignals()) == "finished"
    finally:
        torch.cuda.set_sync_debug_mode("default")


def compile_once(rank: int, shards: Path, folder: Path) -> str:
    """A compiled run over lines and held-out pictures, in which nothing may be compiled a second time."""
    torch._dynamo.reset()  # of what other tests of the process that was forked have compiled
    torch._dynamo.config.error_on_recompile = True
    torch._dynamo.config.suppress_errors = False
    runtime.compile_or_fall_back = partial(compile_or_fall_back, backend="aot_eager")  # code of its own takes longer
    settings = ["train.compile=true", "objective.every=1", *(f"{part}={{name: mlp, width: 8}}" for part in NETWORKS)]
    trainer = prepared(shards, folder, settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "train.compile")
        return trainer.fit(StopSignals())


@pytest.mark.slow
def test_nothing_is_compiled_anew_in_a_run(shapes_shards, tmp_path):
    found = in_processes(1, tmp_path, compile_once, shapes_shards, tmp_path / "run", seconds=200)
    assert found == ["finished"]
