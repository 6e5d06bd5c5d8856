"""Evaluations within a training: when there is one, in which line it stands, and which checkpoint it makes the best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import in_processes
from launching import TINY, lines, without_machine

from distgan.checkpoint import Progress
from distgan.config import load_config
from distgan.data.dataset import open_dataset
from distgan.errors import ConfigError
from distgan.evaluation.crew import Interrupted
from distgan.evaluation.evaluator import Evaluator
from distgan.evaluation.inception import Inception
from distgan.run_folder import RunFolder
from distgan.runtime import Runtime
from distgan.stopping import StopSignals
from distgan.trainer import Trainer

SETTINGS = [
    *("train.precision=fp64", "train.critic_steps=1", "tracking.every=4 steps"),
    *("evaluate.every=6 steps", "evaluate.metrics=[swd]", "evaluate.count=24"),
]


def train(rank: int, shards: Path, folder: Path, settings: list[str]) -> int:
    """The number of evaluations."""
    made = []
    measure = Evaluator.measure

    def counted(self, *args, **kwargs):
        made.append(args)
        return measure(self, *args, **kwargs)

    Evaluator.measure = counted
    config = load_config([TINY], [f"data.shards={shards}", f"run_dir={folder}", *SETTINGS, *settings])
    run = RunFolder(config.run_dir)
    run.create()
    Trainer(config, Runtime(config), open_dataset(config.data), run).fit(StopSignals())
    return len(made)


def evaluated(run: Path) -> dict[int, float]:
    return {line["step"]: line["evaluate/swd"] for line in lines(run) if "evaluate/swd" in line}


@pytest.fixture(scope="module")
def calm(shapes_shards, tmp_path_factory):
    """16 steps without a stop."""
    folder = tmp_path_factory.mktemp("calm")
    in_processes(1, folder, train, shapes_shards, folder / "run", ["train.length=16 steps"])
    return folder / "run"


def test_an_evaluation_has_a_line_and_the_last_step_has_one(calm):
    assert [line["step"] for line in lines(calm)] == [4, 6, 8, 12, 16]
    assert list(evaluated(calm)) == [6, 12, 16]
    assert all(value > 0 for value in evaluated(calm).values())


def test_two_processes_find_the_same(calm, shapes_shards, tmp_path):
    in_processes(2, tmp_path, train, shapes_shards, tmp_path / "run", ["train.length=16 steps"])
    assert evaluated(tmp_path / "run") == pytest.approx(evaluated(calm), rel=1e-6)


def test_a_run_that_was_stopped_finds_the_same(calm, shapes_shards, tmp_path):
    for length in ("10 steps", "16 steps"):  # the end at 10 has an evaluation of its own, which is gone afterwards
        in_processes(1, tmp_path / length, train, shapes_shards, tmp_path / "run", [f"train.length={length}"])
    assert without_machine(tmp_path / "run") == without_machine(calm)


def test_evaluations_change_nothing_of_what_is_learned(calm, shapes_shards, tmp_path):
    in_processes(1, tmp_path, train, shapes_shards, tmp_path / "run", ["train.length=16 steps", "evaluate.every=null"])
    losses = {line["step"]: line for line in without_machine(calm)}
    plain = without_machine(tmp_path / "run")
    assert [line["step"] for line in plain] == [4, 8, 12, 16]
    assert plain[0].items() <= losses[4].items()  # later lines are means since another line
    names = ("generator/ema_distance", "generator/diversity", "critic/gradient_norm")
    assert all(losses[line["step"]][name] == line[name] for line in plain for name in names)


def test_a_finished_run_is_not_evaluated_again(calm, shapes_shards, tmp_path):
    before = (calm / "metrics.jsonl").read_bytes()
    assert in_processes(2, tmp_path, train, shapes_shards, calm, ["train.length=16 steps"]) == [0, 0]
    assert (calm / "metrics.jsonl").read_bytes() == before


def test_every_evaluation_has_a_checkpoint_and_the_best_stays(shapes_shards, tmp_path):
    best = ["checkpoint.best=evaluate/swd", "checkpoint.keep=1", "checkpoint.every=5 steps", "train.length=26 steps"]
    in_processes(1, tmp_path, train, shapes_shards, tmp_path / "run", best)
    found = evaluated(tmp_path / "run")
    judged = {step: value for step, value in found.items() if step % 6 == 0}
    wanted = min(judged, key=judged.get)
    kept = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == sorted({wanted, 26})
    state = json.loads((tmp_path / "run" / "checkpoints" / "00000026" / "state.json").read_text())
    assert state["progress"]["best_step"] == wanted
    assert state["progress"]["best"] == pytest.approx(judged[wanted])


def test_only_the_checkpoint_of_an_evaluation_is_judged_by_it():
    progress = Progress()
    progress.judge_by("evaluate/swd", "lowest", 100)
    progress.step = 6
    progress.note({"step": 6, "evaluate/swd": 3.0})
    progress.step = 8
    progress.note_checkpoint()
    assert progress.best is None
    progress.step = 12
    progress.note({"step": 12, "evaluate/swd": 4.0})
    progress.note_checkpoint()
    assert (progress.best, progress.best_step) == (4.0, 12)
    progress.judge_by("evaluate/swd", "lowest", 100)
    assert progress.best == 4.0
    progress.judge_by("evaluate/swd", "lowest", 50)
    assert progress.best is None and progress.latest is None and progress.is_judged_by_evaluations


def test_what_cannot_be_measured_cannot_choose_the_best(shapes_shards, tmp_path):
    """No weights of Inception: the others would do, but the best checkpoint could never be told."""
    told = in_processes(1, tmp_path, refusal, shapes_shards, tmp_path / "run")
    assert told == ["checkpoint.best: evaluate/fid cannot be measured here: no weights; or use another metric"]


def refusal(rank: int, shards: Path, folder: Path) -> str:
    Inception.prepare = lambda self, crew: "no weights"
    try:
        train(rank, shards, folder, ["evaluate.metrics=[swd,fid]", "checkpoint.best=evaluate/fid"])
    except ConfigError as error:
        return str(error)
    return "trained"


def test_a_stop_does_not_wait_for_a_classifier(shapes_shards, tmp_path):
    """Nobody has the classifier then, and none of the processes waits for another."""
    assert in_processes(2, tmp_path, interrupted, shapes_shards, tmp_path / "run") == ["stopped", "stopped"]


def interrupted(rank: int, shards: Path, folder: Path) -> str:
    settings = ["evaluate.metrics=[swd,fd_own]", "train.length=6 steps"]
    config = load_config([TINY], [f"data.shards={shards}", f"run_dir={folder}", *SETTINGS, *settings])
    signs = []
    evaluator = Evaluator(config, Runtime(config), open_dataset(config.data))
    evaluator.is_to_stop = lambda: rank == 0 and len(signs) > 3
    try:
        evaluator.prepare(lambda: signs.append(None))
    except Interrupted:
        return "stopped" if 3 < len(signs) < 100 else f"after {len(signs)} signs"
    return "made"
