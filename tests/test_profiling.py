"""`distgan doctor --profile`: where the time of a step goes, and what of that it says."""

from __future__ import annotations

import contextlib
import io
import re
import time
from types import SimpleNamespace

import pytest
import torch
from forked import in_processes
from launching import TINY
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from distgan.cli import main
from distgan.config import load_config
from distgan.data.shared_pictures import SharedPictures
from distgan.doctor import timed_training
from distgan.doctor.advice import advice
from distgan.doctor.breakdown import breakdown
from distgan.doctor.steps import Outcome
from distgan.doctor.timing import Clock, covered
from distgan.measurements import Measurements
from distgan.objectives.critic import CriticObjective
from distgan.phases import Phases
from distgan.runtime import Runtime

ROW = re.compile(r"^([a-z: ]+?) +(-?[\d.]+) +(-?[\d.]+)%(?: +([\d.]+))?$", re.MULTILINE)
ALONE = [part for part in timed_training.PARTS if part != timed_training.REDUCTION]


@pytest.fixture
def tiny(shapes_shards, tmp_path, monkeypatch):
    monkeypatch.setattr("distgan.runtime.cores_of_a_process", lambda processes: 1)
    monkeypatch.setattr(timed_training, "STEPS", (3, 3))
    monkeypatch.setattr(timed_training, "ROUNDS", (3, 3))
    return ["--config", str(TINY), f"data.shards={shapes_shards}", f"run_dir={tmp_path / 'run'}"]


def table(printed: str) -> dict[str, list[float]]:
    """ms a step, share, and ms of the slowest, of each row."""
    return {part: [float(value) for value in values if value] for part, *values in ROW.findall(printed)}


def largest(rows: dict[str, list[float]]) -> str:
    return max((part for part in rows if part != "a step"), key=lambda part: rows[part][0])


def test_the_parts_of_a_step_add_up_and_nothing_is_left_behind(tiny, capsys, tmp_path):
    assert main(["doctor", "--profile", *tiny]) == 0
    printed = capsys.readouterr().out
    rows = table(printed)
    assert list(rows) == [*ALONE, "a step"]
    whole = rows.pop("a step")[0]
    assert sum(values[0] for values in rows.values()) == pytest.approx(whole, rel=1e-2)
    assert rows["the rest"][0] < 0.2 * whole and all(values[0] >= 0 for values in rows.values())
    assert "mean of 3 steps" in printed and "\n1. " in printed
    assert list(tmp_path.iterdir()) == []


def test_a_step_without_a_penalty_has_no_row_of_it(tiny, capsys):
    assert main(["doctor", "--profile", *tiny, "objective.penalty=clip", "train.micro_batch=8"]) == 2
    in_fp16 = ["generator.norm=layer", "train.precision=fp16"]  # whose loss is scaled, and unscaled once an update
    assert main(["doctor", "--profile", *tiny, "objective.penalty=clip", *in_fp16]) == 0
    assert timed_training.PENALTY not in table(capsys.readouterr().out)


def test_a_slow_stream_is_the_largest_part_and_comes_first(tiny, capsys, monkeypatch):
    read = SharedPictures.read_at_once
    monkeypatch.setattr(SharedPictures, "read_at_once", lambda *a: time.sleep(0.1) or read(*a))
    assert main(["doctor", "--profile", *tiny]) == 0
    printed = capsys.readouterr().out
    assert largest(table(printed)) == timed_training.WAITING
    assert re.search(r"^1\. \d+% of a step waits for pictures: a higher data.threads", printed, re.MULTILINE)


@pytest.mark.parametrize("every", [1, 2])
def test_what_only_a_penalty_takes_stands_in_its_row_as_often_as_it_is_taken(tiny, capsys, monkeypatch, every):
    forward = CriticObjective.forward

    def slow(self, *arguments, **named):
        time.sleep(0.08 + 0.1 * named["penalise"])
        return forward(self, *arguments, **named)

    monkeypatch.setattr(CriticObjective, "forward", slow)
    assert main(["doctor", "--profile", *tiny, f"objective.every={every}"]) == 0
    printed = capsys.readouterr().out
    rows = table(printed)
    wanted = 200 / every
    assert 0.9 * wanted < rows["critic: penalty"][0] < 1.3 * wanted, "two updates of the critic a step"
    assert ("objective.every 4 would save" in printed) == (every == 1)


def test_slow_lines_are_told(tiny, capsys, monkeypatch):
    take = Measurements.take
    monkeypatch.setattr(Measurements, "take", lambda *a: time.sleep(0.2) or take(*a))
    assert main(["doctor", "--profile", *tiny]) == 0
    printed = capsys.readouterr().out
    assert largest(table(printed)) == timed_training.LOGGING, "there is a line at every step of this run"
    assert "goes to metrics: a longer tracking.every than 1 steps" in printed


def profiled(rank: int, words: list[str], plant) -> tuple[int, str]:
    plant(rank)
    timed_training.STEPS = timed_training.ROUNDS = (3, 3)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = breakdown(load_config([TINY], words), "here")
    return status, printed.getvalue()


def nothing(rank: int) -> None:
    pass


def slow_reduction(rank: int) -> None:
    wrap = Runtime.wrap

    def slow(_, bucket):
        time.sleep(0.1)
        return allreduce_hook(None, bucket)

    def wrapped(self, objective):
        made = wrap(self, objective)
        made.register_comm_hook(None, slow)
        return made

    Runtime.wrap = wrapped


def slow_process(rank: int) -> None:
    generate = Phases.generate
    if rank == 1:
        Phases.generate = lambda *arguments: time.sleep(0.1) or generate(*arguments)


@pytest.mark.parametrize("plant", [nothing, slow_reduction, slow_process])
def test_two_processes_print_one_table(tiny, tmp_path, plant):
    words = [*tiny[2:], "generator.norm=layer"]  # a batch norm waits for the others in its forward
    (status, printed), (other, silence) = in_processes(2, tmp_path / "processes", profiled, words, plant)
    rows = table(printed)
    assert (status, other, silence) == (0, 0, "") and list(rows) == [*timed_training.PARTS, "a step"]
    assert all(len(values) == 3 and values[2] >= values[0] for values in rows.values())
    assert sum(values[0] for part, values in rows.items() if part != "a step") == pytest.approx(
        rows["a step"][0], rel=0.01
    )
    assert not (tmp_path / "run").exists()
    if plant is slow_reduction:
        assert largest(rows) == timed_training.REDUCTION and rows["reduction"][0] > 250, "three updates a step"
        assert re.search(
            r"1\. \d+% of a step is reduction over 2 processes: more images .* train.reduce: bf16", printed
        )
    elif plant is slow_process:
        assert rows["making fakes"][2] > 200 and "is reduction over" not in printed
        assert re.search(r"1\. process 1 on \S+ takes \d+% longer than the mean, and all wait for it", printed)


@pytest.mark.parametrize(
    ("error", "row"),
    [
        (ZeroDivisionError("division by zero"), "step       NOT FINE  ZeroDivisionError: division by zero"),
        (torch.OutOfMemoryError("out"), "memory     NOT FINE  too little memory for a step; set train.micro_batch: 8"),
    ],
)
def test_steps_that_fail_are_told_as_the_other_checks_tell_them(tiny, capsys, monkeypatch, error, row):
    def fails(*arguments):
        raise error

    monkeypatch.setattr(Phases, "apply", fails)
    assert main(["doctor", "--profile", *tiny, "generator.norm=layer"]) == 1
    assert row in capsys.readouterr().out


def test_what_cannot_be_profiled_is_one_line(tiny, capsys):
    assert main(["doctor", "--profile", *tiny, "data.shards=/nowhere"]) in (1, 2)
    assert capsys.readouterr().err.startswith("distgan: ")
    assert main(["doctor", "--profile", "--parity", *tiny]) == 2
    assert "--parity and --profile are two commands" in capsys.readouterr().err


def test_a_part_inside_another_is_not_counted_twice():
    clock = Clock(torch.device("cpu"))
    clock.running = True
    with clock.part("outer"):
        time.sleep(0.02)
        with clock.part("inner"):
            time.sleep(0.05)
    assert 0.05 <= clock.seconds["inner"] < 0.07 and 0.02 <= clock.seconds["outer"] < 0.05
    clock.running = False
    with clock.part("outer"):
        time.sleep(0.02)
    assert clock.seconds["outer"] < 0.05


def test_what_overlaps_is_covered_once():
    assert covered([(4, 6), (0, 2), (1, 3), (1, 2)]) == 5 and covered([]) == 0


def on_cuda(settings: list[str], **facts: float) -> list[str]:
    """What is said of one process on CUDA whose step is nearly all arithmetic."""
    shares = {timed_training.WAITING: 0.01, timed_training.SCORES: 0.55, timed_training.PENALTY: 0.4}
    parts = {**dict.fromkeys(ALONE, 0.0), **shares, timed_training.STEP: 1.0}
    config = load_config([TINY], settings)
    runtime = SimpleNamespace(device=torch.device("cuda"), world_size=1, compiles=config.train.compile is True)
    facts = {timed_training.PLAIN: 0.8, timed_training.PLAIN_WAITING: 0.0, **facts}
    return advice(config, runtime, [Outcome(parts=parts, facts=facts, room=1)], ["here"])


def test_on_cuda_precision_launches_and_waiting_have_their_thresholds():
    half = ["train.precision=bf16"]
    assert "train.precision: bf16" in on_cuda([])[0]
    assert "nothing stands out" in on_cuda(half, busy=0.95)[0] and "another objective" in on_cuda(half, busy=0.95)[1]
    assert "objective.every" not in str(on_cuda([*half, "objective.every=4"]))
    assert "computes in 60% of a step, in 900 kernels: train.compile: true" in on_cuda(half, busy=0.6, launches=900)[0]
    compiled = on_cuda([*half, "train.compile=true"], busy=0.6, launches=90)[0]
    assert "train.cuda_graphs: true, or a larger train.batch_size" in compiled
    waits = on_cuda(half, busy=0.6, launches=9, **{timed_training.PLAIN_WAITING: 0.4})
    assert "50% of a step waits for pictures" in waits[0] and "kernels" not in str(waits)
