"""`train.reduce: bf16`: half the bytes, gradients within its rounding, the same on all processes."""

from __future__ import annotations

import pytest
import torch
from forked import in_processes
from launching import TINY

from distgan import reduction
from distgan.config import load_config
from distgan.doctor import parity
from distgan.errors import ConfigError
from distgan.parity.check import BF16_REDUCTION_BOUND, Check, local_means
from distgan.parity.measure import error, gradients_of
from distgan.runtime import Runtime

SETTINGS = ["train.batch_size=12", "objective.every=2", "generator.norm=layer", "train.micro_batch=2"]


def reduced(rank: int, number: str) -> dict[str, tuple[int, int, float, float]]:
    """Of an update of each network: bytes sent, bytes of parameters, error against the mean of what each process has
    alone, and the largest difference between two processes."""
    config = load_config([TINY], [*SETTINGS, f"train.reduce={number}"])
    runtime = Runtime(config)
    check, found = Check(config, runtime), {}
    phases = check.phases
    for phase in phases:
        phases.begin(phase, 0.0)
        inputs, sizes = check._inputs(phase), runtime.count_reductions(phase.objective)
        phases.gradients(phase, inputs, 0)
        own = gradients_of(phase.network)
        assert sum(sizes) == runtime.reduced_bytes(phase.parameters)
        means = local_means(runtime, phase, lambda p=phase, i=inputs: phases.gradients(p, i, 0, reduced=False))
        spread = runtime.spread(torch.cat([gradient.flatten() for gradient in own.values()]))
        size = sum(parameter.nbytes for parameter in phase.network.parameters())
        found[phase.name] = sum(sizes), size, error(own, means)[0], spread
    return found


@pytest.mark.parametrize("processes", [2, 3])
def test_bf16_sends_half_and_rounds_alike_everywhere(tmp_path, processes):
    for found in in_processes(processes, tmp_path, reduced, "bf16"):
        for sent, size, off, spread in found.values():
            assert sent == size / 2 and spread == 0.0
            assert 1e-4 < off < BF16_REDUCTION_BOUND, "rounded, and no more than that"


def test_fp32_sends_all_and_rounds_nothing(tmp_path):
    for sent, size, off, spread in in_processes(2, tmp_path, reduced, "fp32")[0].values():
        assert sent == size and spread == 0.0 and off < 1e-6


def status_of(rank: int, broken: bool) -> int:
    if broken:
        hook = reduction._HOOKS["bf16"]
        reduction._HOOKS["bf16"] = lambda group, bucket: hook(group, bucket).then(lambda done: done.value() * 1.03)
    return parity(load_config([TINY], ["train.batch_size=4", "train.reduce=bf16"]), "here")


@pytest.mark.parametrize(("broken", "status"), [(False, 0), (True, 1)])
def test_the_doctor_holds_it_to_its_own_bound(tmp_path, broken, status):
    assert in_processes(2, tmp_path, status_of, broken) == [status, status]


def sent_alone(rank: int) -> int:
    return Runtime(load_config([TINY], ["train.reduce=bf16"])).reduced_bytes(torch.nn.Linear(2, 2).parameters())


def test_alone_nothing_is_sent(tmp_path):
    assert in_processes(1, tmp_path, sent_alone) == [0]


def test_bf16_is_refused_beside_fp64():
    with pytest.raises(ConfigError, match="train.reduce: bf16 would round the gradients of train.precision fp64"):
        load_config([TINY], ["train.reduce=bf16", "train.precision=fp64"])
