"""Half precision: a scaled loss whose scale settles, and overflows that all processes skip alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from forked import in_processes
from launching import TINY, assert_same_weights, lines, train
from parity.cases import Subject, batch_of
from parity.processes import make_phase, make_runtime, objective_of, prepared
from torch.amp import GradScaler

from distgan.assembly import make_critic, make_generator
from distgan.config import load_config
from distgan.inputs import Inputs
from distgan.phases import LEAST_SCALE, Phases, gradients
from distgan.runtime import Runtime

HALF = [
    "train.precision=fp16",
    "train.batch_size=8",
    "critic.optimizer={lr: 2e-3}",
    "generator.optimizer={lr: 1e-3}",
]
SCALING = ("critic/skipped_updates", "critic/loss_scale", "generator/skipped_updates", "generator/loss_scale")


def make_phases(runtime: Runtime) -> Phases:
    config = load_config([TINY], ["train.precision=fp16"])
    torch.manual_seed(0)
    generator, critic = runtime.place(make_generator(config)).train(), runtime.place(make_critic(config)).train()
    phases = Phases(config, runtime, generator, critic)
    for phase in phases:
        phase.scaler = GradScaler("cpu", init_scale=1.0)
    return phases


@pytest.fixture
def tiny(shapes_shards, tmp_path):
    def arguments(name: str, *overrides: str) -> list[str]:
        return ["--config", str(TINY), f"data.shards={shapes_shards}", f"run_dir={tmp_path / name}", *overrides]

    return arguments


@pytest.mark.slow
@pytest.mark.long
def test_in_200_steps_the_loss_scale_settles_alike_on_one_process_and_on_two(tiny, tmp_path):
    for processes in (1, 2):
        train(*tiny(f"on {processes}", *HALF, "train.length=200 steps"), processes=processes)
    one, two = lines(tmp_path / "on 1"), lines(tmp_path / "on 2")
    for run in (one, two):
        for phase in ("critic", "generator"):
            skipped, scale = run[-1][f"{phase}/skipped_updates"], run[-1][f"{phase}/loss_scale"]
            assert 0 < skipped <= 16, "65,536 is too much for these networks, and 1 is not needed"
            assert scale == 65536.0 / 2**skipped
            assert skipped - run[99][f"{phase}/skipped_updates"] <= 1, "settled in the first half"
        assert all(value is not None for line in run[100:] for value in line.values())
        norms = [line["critic/grad_norm_mean"] for line in run[-20:]]  # a single one is off by a half now and then
        assert 0.7 < sum(norms) / len(norms) < 1.5, "the penalty does its work"
    for name in ("critic/loss_scale", "generator/loss_scale"):
        assert 0.5 <= one[-1][name] / two[-1][name] <= 2, "what nearly overflows on one may not on the other"


def test_a_stopped_run_goes_on_with_its_loss_scales_to_the_bit(tiny, tmp_path):
    often = [*HALF, "tracking.every=2 steps"]
    train(*tiny("calm", *often, "train.length=16 steps"))
    train(*tiny("stopped", *often, "train.length=8 steps"))
    train(*tiny("stopped", *often, "train.length=16 steps"))
    assert_same_weights(tmp_path / "calm", tmp_path / "stopped", 16)
    ends = [lines(tmp_path / name)[-1] for name in ("calm", "stopped")]
    assert [ends[0][name] for name in SCALING] == [ends[1][name] for name in SCALING]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_other_precisions_have_no_loss_scale(tiny, tmp_path, precision):
    train(*tiny(precision, f"train.precision={precision}", "train.length=1 steps"))
    assert not set(SCALING) & lines(tmp_path / precision)[-1].keys()
    assert not make_runtime(precision).make_scaler().is_enabled()


def test_a_run_whose_every_update_overflows_says_so(tiny, tmp_path):
    """At first the scale is halved once an update; then it is plain that no scale will do."""
    wild = ["train.precision=fp16", "critic.optimizer={lr: 1e4}", "train.length=60 steps"]
    done = train(*tiny("wild", *wild), check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "nearly every update of the critic overflows fp16; use train.precision: bf16" in done.stderr
    assert (tmp_path / "wild" / "status").read_text() == "failed\n"


class TestJudgement:
    """Of updates whose gradients are given, in one phase; the other one's are always finite."""

    @staticmethod
    def judged(overflows: Callable[[int], bool], count: int, every: int) -> tuple[Phases, list[list[str]]]:
        """What is answered every `every` updates of the critic, where update i overflows if `overflows(i)`."""
        phases, answers = make_phases(make_runtime("fp16")), []
        tried = {phase.name: 0 for phase in phases}
        for number in range(count):
            for phase in phases:
                phase.scaler.scale(torch.zeros(()))  # it makes its tensors when first used
                value = float("inf") if phase.name == "critic" and overflows(number) else 1e-3
                for parameter in phase.network.parameters():
                    parameter.grad = torch.full_like(parameter, value)
                phase.scaler.unscale_(phase.optimizer)
                phases.apply(phase)
                tried[phase.name] += 1
            if (number + 1) % every == 0:
                answers.append(phases.hopeless(tried))
        return phases, answers

    def test_overflows_now_and_then_for_good_end_no_run_and_leave_a_loss_scale(self):
        phases, answers = self.judged(lambda number: number % 3 == 0, count=120, every=1)
        assert answers == [[]] * 120
        assert phases.critic_phase.scaler.get_scale() == LEAST_SCALE, "gradients would vanish below"
        assert phases.scaling({"critic": 120, "generator": 120})["critic/skipped_updates"] == 40

    @pytest.mark.parametrize("every", [1, 7, 50])
    @pytest.mark.parametrize("seldom", [10**6, 30])
    def test_updates_that_nearly_all_overflow_end_it_soon(self, every, seldom):
        _, answers = self.judged(lambda number: number % seldom != 5, count=150, every=every)
        first = answers.index(["critic"])
        assert (first + 1) * every <= 100 and not any(answers[:first])

    @pytest.mark.parametrize("every", [1, 5, 10, 25])
    def test_a_scale_that_had_to_fall_all_the_way_is_no_reason(self, every):
        _, answers = self.judged(lambda number: number < 10, count=100, every=every)
        assert not any(answers)


def generated(rank: int, overflows: bool) -> tuple[bool, torch.Tensor, dict]:
    """Whether the gradients were finite in an update of a generator with batch norm, what it makes afterwards of other
    latents, and its statistics. With `overflows` its first layer is too large for fp16 in that update."""
    runtime = make_runtime("fp16")
    phases = make_phases(runtime)
    generator, phase = phases.generator, phases.generator_phase
    first = next(iter(generator.parameters()))
    kept = first.detach().clone()
    with torch.no_grad():
        first.mul_(1e6 if overflows else 1)
    phases.begin(phase, 0.0)
    phases.gradients(phase, Inputs(None, None, phases.keys(phase, 0, 0)), 0)
    finite = all(bool(parameter.grad.isfinite().all()) for parameter in generator.parameters())
    with torch.no_grad():
        first.copy_(kept)
    made = phases.generate(Inputs(None, None, phases.keys(phase, 1, 0)))
    return finite, made, {name: buffer.clone() for name, buffer in generator.named_buffers()}


def test_an_overflow_in_the_generator_is_not_kept_in_its_batch_norm(tmp_path):
    one, other = in_processes(2, tmp_path / "broken", generated, True)
    finite, made, statistics = one
    assert not finite and made.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in statistics.values()) and len(statistics) > 3
    torch.testing.assert_close(statistics, other[2], rtol=0, atol=0)
    assert in_processes(1, tmp_path / "whole", generated, False)[0][0], "it overflows without a cause"


def expected_skips(line: dict, phase: str) -> int:
    """The scale starts at 65,536, is halved by each skip, and grows after 2,000 updates without one."""
    return round(math.log2(65536.0 / line[f"{phase}/loss_scale"]))


@pytest.mark.parametrize("steps", [1, 3])
def test_skipped_updates_are_counted_right_after_the_critic_steps_have_changed(tiny, tmp_path, steps):
    train(*tiny("run", *HALF, "train.length=10 steps"))
    train(*tiny("run", *HALF, "train.length=14 steps", f"train.critic_steps={steps}"), "--allow-config-change")
    for line in lines(tmp_path / "run"):
        for phase in ("critic", "generator"):
            assert line[f"{phase}/skipped_updates"] == expected_skips(line, phase)
    assert line["step"] == 14 and line["critic/skipped_updates"] > 0


def updates(rank: int, broken: int | None) -> list[tuple[float, int, dict]]:
    """After each of three updates: loss scale, steps of the optimiser, weights. In the second, one image of process
    `broken` is too large for fp16."""
    subject = Subject("dcgan", "gp", "fp16", conditional=False, compiled=False)
    runtime, batch = make_runtime("fp16"), batch_of("dcgan", False)
    phase = make_phase(runtime, objective_of(subject), batch, every=1)
    phase.optimizer = torch.optim.Adam(phase.network.parameters(), 1e-3)
    phase.scaler = GradScaler("cpu", init_scale=256.0)
    mine, found = batch.rows(rank * 6, rank * 6 + 6), []
    for number in range(3):
        real = prepared(mine.real, runtime).clone()
        if number == 1 and rank == broken:
            real[0] *= 1e6
        gradients(runtime, phase, Inputs(real, None, mine.keys), 0, 4)
        phase.scaler.step(phase.optimizer)
        phase.scaler.update()
        steps = {int(fields["step"]) for fields in phase.optimizer.state.values()}
        weights = {name: p.detach().clone() for name, p in phase.network.named_parameters()}
        found.append((phase.scaler.get_scale(), steps.pop(), weights))
    return found


@pytest.mark.parametrize("broken", [0, 1])
def test_an_overflow_on_one_process_skips_the_update_on_all(tmp_path, broken):
    ranks = in_processes(2, tmp_path, updates, broken)
    for found in ranks:
        assert [(scale, steps) for scale, steps, _ in found] == [(256.0, 1), (128.0, 1), (128.0, 2)]
        torch.testing.assert_close(found[1][2], found[0][2], rtol=0, atol=0)
    for (_, _, one), (_, _, other) in zip(*ranks, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_without_an_overflow_no_update_is_skipped(tmp_path):
    for found in in_processes(2, tmp_path, updates, None):
        assert [(scale, steps) for scale, steps, _ in found] == [(256.0, 1), (256.0, 2), (256.0, 3)]
