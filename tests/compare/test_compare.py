"""The command, on folders as trainings leave them."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import platform
import shutil
import sys

import pytest
from launching import run
from runs import add_grid, compare, line, make_run, make_run_of

from distgan.compare.sources import read_runs
from distgan.errors import ConfigError, UserError
from distgan.histogram import CELLS


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Two configs, two seeds each."""
    root = tmp_path_factory.mktemp("four")
    for seed in (0, 1):
        make_run(root / f"gp-{seed}", f"seed={seed}", level=1 + seed)
        make_run(root / f"lp-{seed}", f"seed={seed}", "objective.penalty=lp", level=3 + seed)
    return root


def test_a_folder_of_runs_is_a_table_of_runs_groups_and_differences(four):
    text = compare(four)
    runs, groups, config = text.strip().split("\n\n")
    assert [row.split()[0] for row in runs.splitlines()] == ["run", "gp-0", "gp-1", "lp-0", "lp-1"]
    assert "evaluate/fid" in runs and "best evaluate/fid" in runs and "critic/loss" not in runs
    assert len(groups.splitlines()) == 3 and "24 ± 7.1" in groups.splitlines()[1]  # 19 and 29
    assert [row.split() for row in config.splitlines()[1:]] == [["objective.penalty", "gp", "gp", "lp", "lp"]]


def test_a_table_has_neither_floors_nor_single_levels_unless_they_are_named(tmp_path):
    metrics = {"swd": 3, "swd_16": 2, "swd_32": 4, "swd_floor": 1, "fd_own": 7, "fd_own_floor": 5, "modes_kl": 0.5}
    make_run_of(tmp_path / "run", [line(1, 1.0) | {f"evaluate/{name}": value for name, value in metrics.items()}])
    head = compare(tmp_path).splitlines()[0].replace("best ", "best").split()
    told = ["fd_own", "fid", "modes_kl", "swd"]
    assert [word for word in head if "evaluate/" in word] == [
        *(f"evaluate/{name}" for name in told),
        *(f"bestevaluate/{name}" for name in told),
    ]
    assert "evaluate/swd_16" in compare(tmp_path, "--metrics", "evaluate/swd_16,evaluate/swd_floor")
    assert "evaluate/swd_floor" in compare(tmp_path, "--format", "csv")


def test_json_has_everything_with_the_runs_by_group(four):
    told = json.loads(compare(*sorted(four.iterdir()), "--format", "json"))
    assert [run["run"] for run in told["runs"]] == ["gp-0", "gp-1", "lp-0", "lp-1"]
    assert [group["runs"] for group in told["groups"]] == [["gp-0", "gp-1"], ["lp-0", "lp-1"]]
    assert told["differences"] == {"objective.penalty": {"gp-0": "gp", "gp-1": "gp", "lp-0": "lp", "lp-1": "lp"}}
    wasserstein = told["groups"][1]["metrics"]["critic/wasserstein"]
    assert wasserstein["final"] == {"mean": 35.0, "std": pytest.approx(7.0710678), "count": 2}
    assert wasserstein["best"] is None
    run = told["runs"][0]
    assert run["metrics"]["evaluate/fid"]["best"]["step"] == 7 and run["metrics"]["evaluate/fid"]["better"] == "lower"
    assert run["environment"]["devices"] == "2 x H100" and run["environment"]["commit"] == "0123456789 and changes"
    assert (run["images_per_second"], run["data_wait"], run["kimg"], run["hours"]) == (105.5, 0.25, 0.4, 0.1)


def test_csv_has_a_row_for_each_run_and_metric(four):
    text = compare(four / "gp-*", "--format", "csv", "--metrics", "critic/loss,evaluate/fid")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["run"], row["metric"]) for row in rows] == [
        (run, metric) for run in ("gp-0", "gp-1") for metric in ("critic/loss", "evaluate/fid")
    ]
    assert float(rows[0]["final"]) == -10 and rows[0]["best"] == "" and rows[1]["best_step"] == "7"


def test_the_page_is_the_same_for_the_same_runs(four, tmp_path, capsys):
    assert compare(four, "--out", tmp_path / "a.html") == f"{tmp_path / 'a.html'}\n"
    assert json.loads(compare(four, "--out", tmp_path / "b.html", "--format", "json"))["runs"]
    assert capsys.readouterr().err == f"{tmp_path / 'b.html'}\n"
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_runs_that_go_on_or_have_ended_badly_are_marked(tmp_path):
    going = make_run(tmp_path / "going", status="running")
    make_run(tmp_path / "left", "seed=1", status="preempted")
    failed = make_run(tmp_path / "broken", "seed=2", status="failed")
    (failed / "end.json").write_text(json.dumps({"status": "failed", "why": "no memory"}))
    died = make_run(tmp_path / "died", "seed=3", status="running")
    (died / "environment.json").write_text(json.dumps({"starts": [{"host": platform.node()}]}))
    (died / ".lock").touch()
    with open(going / ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = {run.name: run for run in read_runs([str(tmp_path)])}
    assert {name: run.state for name, run in runs.items()} == {
        "going": "running",
        "left": "preempted",
        "broken": "failed",
        "died": "stopped",
    }
    assert runs["broken"].why == "no memory" and "killed" in runs["died"].why
    text = compare(tmp_path)
    assert "broken: failed: no memory" in text and "died: stopped: ended without a word" in text


def test_a_run_without_lines_or_with_damage_is_shown_with_what_is_left(tmp_path):
    make_run_of(tmp_path / "empty", [])
    torn = make_run(tmp_path / "torn", "seed=1")
    with open(torn / "metrics.jsonl", "a") as file:
        file.write('{"step": 11, "kimg": 0.44, "critic/lo\n\x00\x00\n[]\n{"step": 12, "critic/loss": NaN}\n')
    (torn / "environment.json").write_text("[1]")
    (torn / "config.yaml").write_text("train: [\n")
    runs = {run.name: run for run in read_runs([str(tmp_path)])}
    assert any("no lines" in problem for problem in runs["empty"].problems)
    assert runs["torn"].series.end("step") == 12 and runs["torn"].environment == {}
    assert any("config" in problem for problem in runs["torn"].problems)
    assert "not finite" in compare(tmp_path, "--metrics", "critic/loss")


def test_damaged_numbers_are_passed_over_in_every_output(tmp_path):
    for seed in range(3):
        lines = [line(1, 8e307), {"step": 2, "critic/loss": 1, "evaluate/kid": 3}, line(2, 8.5e307)]
        lines[-1]["critic/grad_norm_histogram"] = [math.inf, *[1] * (CELLS - 1)]
        make_run_of(tmp_path / f"{seed}", lines, f"seed={seed}")
    assert "1.7e+308" in compare(tmp_path) and "evaluate/kid" not in compare(tmp_path)
    assert "evaluate/kid" not in compare(tmp_path, "--format", "csv")
    told = json.loads(compare(tmp_path, "--format", "json"), parse_constant=pytest.fail)
    assert told["groups"][0]["metrics"]["critic/wasserstein"]["final"]["count"] == 3
    compare(tmp_path, "--out", tmp_path / "r.html")
    assert (tmp_path / "r.html").exists()


def test_a_config_of_another_version_is_compared_as_it_stands(tmp_path):
    old = make_run(tmp_path / "old")
    make_run(tmp_path / "new")
    config = old / "config.yaml"
    config.write_text(config.read_text() + "forgotten: {key: 3}\n")
    told = json.loads(compare(tmp_path, "--format", "json"))
    assert told["differences"]["forgotten.key"] == {"old": 3, "new": None}


def test_a_foreign_file_among_runs_is_passed_over_and_named(four, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("x")
    assert "gp-0" in compare(tmp_path / "notes.txt", four / "gp-0")
    assert capsys.readouterr().err == f"distgan: {tmp_path / 'notes.txt'}: no run there; passed over\n"


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        ([], ConfigError, "name runs"),
        (["nowhere"], UserError, "nowhere: no such run"),
        (["EMPTY"], UserError, "no run to compare"),
        (["RUN", "--metrics", "critic/los"], ConfigError, "'critic/los'; nearest: critic/loss"),
        (["RUN", "--out", "EMPTY/no/r.html"], UserError, "no/r.html: cannot be written"),
        (["--wandb", "alone"], ConfigError, "write entity/project"),
    ],
)
def test_what_cannot_be_compared_is_one_line(four, tmp_path, words, kind, said):
    words = [word.replace("RUN", str(four / "gp-0")).replace("EMPTY", str(tmp_path)) for word in words]
    with pytest.raises(UserError) as raised:
        compare(*words)
    assert type(raised.value) is kind and said in str(raised.value) and len(str(raised.value).splitlines()) == 1


def test_the_command_ends_as_it_should(four):
    words = [sys.executable, "-m", "distgan.cli", "compare"]
    done = run([*words, str(four)])
    assert done.stdout == compare(four) and done.stderr == ""
    done = run([*words, str(four / "gp-2")], check=False)
    assert done.returncode == 1 and done.stderr.startswith("distgan: ") and len(done.stderr.splitlines()) == 1


def test_runs_of_the_same_name_keep_apart(tmp_path):
    for place in ("a", "b"):
        make_run(tmp_path / place / "run")
    assert [run.name for run in read_runs([str(tmp_path / "a"), str(tmp_path / "b")])] == ["a/run", "b/run"]
    twice = read_runs([str(tmp_path / "a"), str(tmp_path / "a" / "run")])
    assert [run.name for run in twice] == ["run"]


def test_grids_have_the_kimg_of_their_step(tmp_path):
    run = make_run(tmp_path / "run")
    for step in (0, 5, 10):
        add_grid(run, step, 100)
    (run / "samples" / "other.png").touch()
    (found,) = read_runs([str(run)])
    assert list(found.grids) == pytest.approx([0, 0.2, 0.4])


def test_grids_of_a_run_that_grows_have_the_kimg_of_the_lines_around_them(tmp_path):
    """A step has other images at each resolution: here 100 up to step 10, then 10."""
    told = [line(step, kimg=0.1 * min(step, 10) + 0.01 * max(step - 10, 0)) for step in (5, 10, 15, 20)]
    run = make_run_of(tmp_path / "run", told)
    for step in (0, 4, 10, 12, 20, 21):
        add_grid(run, step, 9)
    (found,) = read_runs([str(run)])
    assert list(found.grids) == pytest.approx([0, 0.4, 1, 1.02, 1.1, 1.11])


def test_the_command_needs_no_torch(four):
    code = (
        "import sys; from distgan.compare.sources import read_runs; from distgan.compare.page import page\n"
        "page(read_runs(sys.argv[1:]), ['critic/loss'], 'kimg'); print({'torch', 'wandb'} & set(sys.modules))"
    )
    assert run([sys.executable, "-c", code, str(four)]).stdout == "set()\n"


def test_a_page_of_many_long_runs_has_a_bounded_size(tmp_path):
    names = [f"critic/metric_{number}" for number in range(20)]
    lines = [line(step, **{name: (step * 7919 % 1000) / 999 for name in names}) for step in range(2000)]
    first = make_run_of(tmp_path / "00", lines)
    for number in range(1, 24):
        other = make_run(tmp_path / f"{number:02d}", f"seed={number % 2}", f"train.batch_size={number // 2}1", count=1)
        shutil.copy(first / "metrics.jsonl", other / "metrics.jsonl")
    compare(tmp_path, "--out", tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < 15e6
