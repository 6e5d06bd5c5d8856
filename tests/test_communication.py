"""What the processes of a training send each other: counted, byte for byte, step for step."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from forked import in_processes
from launching import TINY, lines
from torch import nn

from distgan.config import load_config
from distgan.data.dataset import open_dataset
from distgan.run_folder import RunFolder
from distgan.runtime import Runtime
from distgan.stopping import StopSignals
from distgan.trainer import Trainer

STEPS, CRITIC_STEPS, LINES = 6, 2, 3
SETTINGS = [f"train.length={STEPS} steps", f"tracking.every={LINES} steps", "objective.every=2"]
COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "all_to_all",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "gather_object",
    "monitored_barrier",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "scatter",
)
VOTE = ("all_reduce", 8)
"""Two int32 on the host: does anybody want to stop or to save? Nobody waits for the answer until a step later."""


METERED, MEASURED = 2 * 8 * (6 + 66), 8 * 3
"""Float64 of a line: six metrics and the cells of the histogram, with their weights; waiting, memory of host, of
device."""


class Step(NamedTuple):
    """What one process took part in during a step: bytes of each bucket of the two networks, and all other
    collectives with their bytes."""

    critic: list[int]
    generator: list[int]
    others: list[tuple[str, int]]


def train(rank: int, shards: Path, folder: Path, settings: list[str]) -> tuple[list[Step], dict[str, int]]:
    """The steps of a training, and the bytes of each network's parameters."""
    config = load_config([TINY], [f"data.shards={shards}", f"run_dir={folder}", *SETTINGS, *settings])
    runtime, run = Runtime(config), RunFolder(config.run_dir)
    run.create()
    trainer = Trainer(config, runtime, open_dataset(config.data), run)
    sizes = {phase.name: runtime.count_reductions(phase.objective) for phase in trainer.phases}
    called = _count_collectives()
    steps, step = [], trainer._step

    def marked(*args) -> None:
        """A step's record goes on to the next step's beginning: votes, lines and samples are its own."""
        steps.append(([], [], []))
        for seen in (*sizes.values(), called):
            seen.clear()
        step(*args)
        steps[-1] = (list(sizes["critic"]), list(sizes["generator"]), called)

    def closed(*args) -> None:
        if steps:
            steps[-1] = (*steps[-1][:2], list(called))
        marked(*args)

    trainer._step = closed
    trainer.fit(StopSignals())
    steps[-1] = (*steps[-1][:2], list(called))
    bytes_of = {phase.name: _bytes(phase.network) for phase in trainer.phases}
    return [_without_buckets(Step(*parts)) for parts in steps], bytes_of


def _count_collectives() -> list[tuple[str, int]]:
    """Name and bytes of every collective that Python calls from now on; the buckets' hook is one of the callers."""
    called: list[tuple[str, int]] = []

    def counted(name: str):
        function = getattr(dist, name)

        def call(*args, **kwargs):
            tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
            called.append((name, sum(tensor.nbytes for tensor in tensors)))
            return function(*args, **kwargs)

        return call

    for name in COLLECTIVES:
        setattr(dist, name, counted(name))
    return called


def _without_buckets(step: Step) -> Step:
    others = list(step.others)
    for size in (*step.critic, *step.generator):
        others.remove(("all_reduce", size))
    return step._replace(others=others)


def _bytes(network: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in network.parameters())


@pytest.mark.parametrize("micro", [8, 3])
def test_a_step_reduces_every_parameter_once_an_update_and_nothing_else(shapes_shards, tmp_path, micro):
    settings = ["generator.norm=layer", f"train.micro_batch={micro}"]
    for steps, size in in_processes(2, tmp_path, train, shapes_shards, tmp_path / "run", settings):
        assert len(steps) == STEPS
        for number, step in enumerate(steps, start=1):
            assert sum(step.critic) == CRITIC_STEPS * size["critic"]
            assert sum(step.generator) == size["generator"]
            if number == STEPS:
                continue  # the end has its checkpoint's folding too
            line = [*[("all_reduce", METERED)] * 2, *[("all_reduce", MEASURED)] * 2] if number % LINES == 0 else []
            assert step.others == [VOTE, *line], "sums, maxima"
        assert lines(tmp_path / "run")[0]["throughput/reduced_mb_per_step"] * 1e6 == pytest.approx(
            sum(steps[0].critic) + sum(steps[0].generator)
        )


def test_batch_norm_over_the_global_batch_costs_its_moments_and_nothing_else(shapes_shards, tmp_path):
    for steps, size in in_processes(2, tmp_path, train, shapes_shards, tmp_path / "run", []):
        step = steps[0]
        assert sum(step.critic) == CRITIC_STEPS * size["critic"] and sum(step.generator) == size["generator"]
        moments = [2 * 4 * maps for maps in (32, 16, 8)]  # mean and mean square in float32 of each norm's maps
        forward = [("all_reduce", size) for size in moments]
        assert step.others == [*forward * CRITIC_STEPS, VOTE, *forward, *forward[::-1]]


def test_one_process_calls_no_collective(shapes_shards, tmp_path):
    ((steps, _),) = in_processes(1, tmp_path, train, shapes_shards, tmp_path / "run", [])
    assert steps == [Step([], [], [])] * STEPS
