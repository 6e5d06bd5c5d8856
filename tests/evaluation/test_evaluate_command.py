"""`distgan evaluate`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, options
from small_runs import make_run

from distgan import runtime
from distgan.cli import main
from distgan.evaluation import inception


@pytest.fixture
def run(own_shards, tmp_path) -> Path:
    settings = [f"data.shards={own_shards}", "data.resolution=16", "data.channels=1", "train.device=cpu"]
    return make_run(
        tmp_path / "run", *settings, "evaluate.metrics=[ms_ssim,modes]", "evaluate.count=60", steps=(5, 10, 15)
    )


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """As many as the process of the tests has, which is to keep them."""
    monkeypatch.setattr(runtime, "cores_of_a_process", lambda world_size: 1)


def evaluate(run: Path, *arguments: object) -> dict[int, dict[str, float]]:
    """What is found after each step."""
    file = run.parent / "found.json"
    assert main(["evaluate", *map(str, (run, "--json", file, *arguments))]) == 0
    found = json.loads(file.read_text())
    return {one["step"]: one["metrics"] for one in found["evaluations"]}


def test_the_newest_a_named_and_every_checkpoint(run, capsys):
    newest = evaluate(run)
    assert list(newest) == [15] and set(newest[15]) == {"ms_ssim", "modes", "modes_kl"}
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split()[:3] == ["15", "0.6", f"{newest[15]['ms_ssim']:.4g}"]
    every = evaluate(run, "--all", "--metrics", "ms_ssim")
    assert {step: list(found) for step, found in every.items()} == {step: ["ms_ssim"] for step in (5, 10, 15)}
    assert every[15]["ms_ssim"] == newest[15]["ms_ssim"] != every[5]["ms_ssim"]
    assert evaluate(run, "--step", 5, "--metrics", "ms_ssim") == {5: every[5]}
    assert evaluate(run, "--step", 5, "--metrics", "ms_ssim", "--raw")[5] != every[5]
    assert evaluate(run, "--step", 5, "--metrics", "ms_ssim", "--count", 30)[5] != every[5]


def test_what_the_run_itself_is_judged_by_is_no_matter(run, capsys):
    config = (run / "config.yaml").read_text()
    assert "best: null" in config and "every: null" in config
    judged = config.replace("best: null", "best: evaluate/modes").replace("best_is: lowest", "best_is: highest")
    (run / "config.yaml").write_text(judged.replace("evaluate:\n  every: null", "evaluate:\n  every: 5 steps"))
    assert list(evaluate(run, "--metrics", "ms_ssim")[15]) == ["ms_ssim"]
    assert capsys.readouterr().out.splitlines()[-1] == "60 pictures, averaged weights"
    assert json.loads((run.parent / "found.json").read_text())["count"] == 60


def test_of_every_checkpoint_the_damaged_ones_are_passed_over(run, capsys):
    (run / "checkpoints" / "00000010" / "generator_ema.safetensors").write_bytes(b"")
    assert list(evaluate(run, "--all", "--metrics", "ms_ssim")) == [5, 15]
    assert "00000010/generator_ema.safetensors: damaged" in capsys.readouterr().err


def test_where_nothing_can_be_measured_that_is_an_error(run, monkeypatch, capsys):
    monkeypatch.setattr(inception, "weights", lambda file: inception.Weights(None, "no weights"))
    assert main(["evaluate", str(run), "--metrics", "fid,kid"]) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "distgan: evaluate: fid, kid left out: no weights",
        "distgan: evaluate: nothing of what is asked for can be measured here, as is told above",
    ]


def test_shards_may_have_moved(run, own_shards):
    here = evaluate(run, "--metrics", "modes")
    moved = own_shards.rename(own_shards.with_name("elsewhere"))
    assert evaluate(run, "--metrics", "modes", "--shards", moved) == here


def test_two_processes_print_one_table(run):
    alone = evaluate(run)
    file = run.parent / "two.json"
    launch = ["accelerate.commands.launch", "--config_file", ROOT / "launch" / "cpu.yaml", "--num_processes", 2]
    words = [sys.executable, "-m", *launch, ROOT / "distgan" / "cli.py", "evaluate", run, "--json", file]
    done = subprocess.run([str(word) for word in words], **options())
    assert done.returncode == 0, done.stderr
    assert {one["step"]: one["metrics"] for one in json.loads(file.read_text())["evaluations"]} == alone
    assert done.stdout.count("ms_ssim") == 1


def test_the_table_of_a_training_marks_the_best(run, capsys):
    lines = [
        {"step": 10, "kimg": 0.3, "critic/loss": 1.0},
        {"step": 20, "kimg": 0.6, "evaluate/swd": 9.0, "evaluate/ms_ssim": 1.0, "evaluate/precision": 0.25},
        {"step": 30, "kimg": 0.9, "evaluate/swd": 7.5, "evaluate/ms_ssim": 1.0, "evaluate/precision": 0.5},
        {"step": 40, "kimg": 1.2, "evaluate/swd": 8.0, "evaluate/ms_ssim": 1.0},
    ]
    torn = '{"step": 50, "evaluate/sw'
    (run / "metrics.jsonl").write_text("\n".join([*map(json.dumps, lines), torn]))
    assert main(["evaluate", str(run), "--table"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["step", "kimg", "swd", "ms_ssim", "precision"],
        ["20", "0.6", "9", "1", "0.25"],
        ["30", "0.9", "7.5*", "1", "0.5*"],
        ["40", "1.2", "8", "1", "-"],
        ["*", "the", "best", "of", "its", "column"],
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--step", "7"], 2, "--step 7: the checkpoints of {run} are of steps 5, 10, 15"),
        (["--metrics", "swd,fidd"], 2, "evaluate.metrics.1: 'fidd' is not allowed"),
        (["--metrics", "swd_32"], 2, "'inception_score' or 'precision_recall'; swd tells swd_32 too"),
        (["--metrics", "fd_own_floor"], 2, "; fd_own tells fd_own_floor too"),
        (["--metrics", "label_accuracy"], 2, "; modes tells label_accuracy too"),
        (["--count", "1"], 2, "evaluate.count: 1 is not allowed"),
        (["--shards", "nowhere"], 2, "nowhere: no such folder"),
        (["--metrics", "fid", "--inception", "nowhere.pth"], 2, "evaluate.inception: nowhere.pth: no such file"),
        (["--device", "cuda"], 2, "train.device: cuda, and torch sees no CUDA device here"),
        (["--table", "--raw"], 2, "--raw: has no effect with --table"),
        (
            ["--table"],
            1,
            "{run}: no evaluation in its training yet; set evaluate.every, or leave --table out to make one now",
        ),
        (["--json", "/proc/no/file.json"], 1, "--json /proc/no/file.json: cannot be written"),
    ],
)
def test_what_makes_no_sense_is_one_line(run, capsys, monkeypatch, tmp_path, arguments, status, told):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(run), *arguments]) == status
    errors = capsys.readouterr().err.splitlines()
    assert told.format(run=run) in errors[-1] and not any("Traceback" in line for line in errors)


def test_a_checkpoint_is_refused_with_its_run_and_step(run, capsys, monkeypatch):
    monkeypatch.chdir(run / "checkpoints" / "00000005")
    for place in (run / "checkpoints" / "00000005", "."):
        assert main(["evaluate", str(place)]) == 2
        assert capsys.readouterr().err == f"distgan: {place}: a checkpoint; give its run folder: {run} --step 5\n"


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"distgan: {tmp_path}: no run folder (it has no config.yaml); give one that training wrote\n"
    )
