"""How many operators a step hands to the device, one after the other: on a GPU each costs the host a launch."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from launching import TINY
from planting import fused
from torch.utils._python_dispatch import TorchDispatchMode

from distgan import phases as phases_module
from distgan import runtime as runtime_module
from distgan.bad_numbers import Guard
from distgan.config import load_config
from distgan.doctor.steps import Steps
from distgan.phases import Phase
from distgan.runtime import Runtime
from distgan.tracking.meter import Meter

VIEWS = {"alias", "as_strided", "chunk", "detach", "expand", "permute", "select", "slice", "split", "squeeze", "t"}
VIEWS |= {"transpose", "unbind", "unsqueeze", "view", "_unsafe_view"}
"""Operators that hand nothing to the device."""
SETTINGS = ["data.resolution=64", "train.critic_steps=5", "train.batch_size=4"]


class Operators(TorchDispatchMode):
    """Counts those that are not inside of compiled code."""

    def __init__(self) -> None:
        super().__init__()
        self.found, self._is_inside = Counter(), False

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        before, self._is_inside = self._is_inside, True
        yield
        self._is_inside = before

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if not self._is_inside and name not in VIEWS:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


def operators_of_a_step(settings: list[str], monkeypatch) -> Counter[str]:
    """As on a GPU: fused optimisers, and a guard that does not wait for the device. With metrics, without reading."""
    operators = Operators()

    def compiled(function: Callable, **_: object) -> Callable:
        @functools.wraps(function)
        def call(*args, **kwargs):
            with operators.inside():
                return function(*args, **kwargs)

        return call

    monkeypatch.setattr(phases_module, "make_optimizer", fused)
    monkeypatch.setattr(runtime_module, "compile_or_fall_back", compiled)
    monkeypatch.setattr(runtime_module, "cores_of_a_process", lambda _: 1)  # what torch's threads are here already
    config = load_config([TINY], ["data.shards=none", "run_dir=none", *SETTINGS, *settings])
    steps = Steps(config, Runtime(config))
    device = steps.phases.runtime.device
    steps.phases.guard, meter = Guard(config.train.bad_numbers, device, lagged=True), Meter(device)
    gradients = steps.phases.gradients

    def measured(phase: Phase, *args) -> None:
        for metrics, share in gradients(phase, *args):
            meter.add(metrics, share)

    monkeypatch.setattr(steps.phases, "gradients", measured)
    steps.take(0)
    with operators:
        steps.take(1)
    return operators.found


@pytest.mark.parametrize(
    ("settings", "most"),
    [([], 1235), (["train.compile=true"], 320), (["critic.norm=layer"], 3050)],
    ids=["eager", "compiled", "by autograd"],
)
def test_a_step_has_no_more_operators_than_it_needs(settings, most, monkeypatch):
    """5 updates of the critic and one of the generator. `most` has a little room, for another torch."""
    found = operators_of_a_step(settings, monkeypatch)
    assert most / 2 < found.total() <= most, found.most_common(30)
