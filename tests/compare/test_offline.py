"""Runs that W&B wrote without a server, and those of a server."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from launching import ROOT
from recorded import Pictures, recorder_of, tell
from runs import line, make_run

from distgan.compare import server
from distgan.compare.differences import differences
from distgan.compare.history import lines_of
from distgan.compare.run_data import settings_of
from distgan.compare.server import read_server, run_of
from distgan.compare.sources import read_runs
from distgan.config import flatten, load_config
from distgan.errors import UserError
from distgan.histogram import CELLS

WRITE = """
import json, sys
import numpy as np, wandb
from PIL import Image
from distgan.config import load_config
folder, config, first, end, status, lines = sys.argv[1:]
config = load_config([config])
run = wandb.init(project="p", name="first", id="abc12345", resume="allow", mode="offline", dir=folder, tags=["one"],
                 notes="a </script> note", config=config.model_dump(mode="json"),
                 settings=wandb.Settings(console="off", silent=True, x_disable_stats=True))
for line in json.loads(lines)[int(first):int(end)]:
    counts = line.pop("critic/grad_norm_histogram")
    edges = np.arange(len(counts) + 1.0)
    line["critic/grad_norm_histogram"] = wandb.Histogram(np_histogram=(np.array(counts), edges))
    run.log(line, step=line["step"])
Image.new("RGB", (16, 16), (9, 99, 199)).save(folder + "/grid.png")
run.log({"samples": wandb.Image(folder + "/grid.png"), "step": line["step"]}, step=line["step"])
run.log({"samples/raw": wandb.Image(folder + "/grid.png"), "step": 99}, step=100)
run.summary.update({"status": status})
run.finish(exit_code=int(status == 'stopped'))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two starts of a run, the second one from before the end of the first, and the folder of the same run."""
    root = tmp_path_factory.mktemp("written")
    run = make_run(root / "folder", count=10)
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    lines[3]["critic/loss"] = math.nan
    for first, end, status in ((0, 6, "preempted"), (4, 10, "stopped")):
        arguments = [str(run), str(run / "config.yaml"), str(first), str(end), status, json.dumps(lines)]
        done = subprocess.run([sys.executable, "-c", WRITE, *arguments], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    return run


def test_the_starts_of_an_offline_run_are_one_run_equal_to_its_folder(written):
    (offline,), (folder,) = read_runs([str(written / "wandb")]), read_runs([str(written)])
    assert offline.name == "first" and offline.state == "stopped" and offline.environment["starts"] == "2"
    assert (offline.notes, offline.tags) == ("a </script> note", ("one",))
    assert offline.group == folder.group and offline.config == folder.config
    for name, axis in folder.series.axes.items():
        assert offline.series.axes[name].tolist() == pytest.approx(axis.tolist())
    assert set(offline.series.values) == set(folder.series.values)
    loss = offline.series.points("critic/loss", "step")[0]
    assert loss.tolist() == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert offline.series.histogram == folder.series.histogram
    assert list(offline.grids) == pytest.approx([0.24, 0.4]) and all(path.exists() for path in offline.grids.values())


def test_seeds_share_a_group_in_their_folders_and_in_what_wandb_wrote_of_them(tmp_path, monkeypatch):
    """Through the recorder of a training and its W&B process, at other times and of other commands."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for seed in (0, 1):
        monkeypatch.setattr(sys, "argv", ["train.py", f"seed={seed}"])
        overrides = ["tracking.wandb.mode=offline", f"seed={seed}", "train.ema_kimg=2.0"]
        recorder, generator = recorder_of(tmp_path / f"{seed}", overrides=overrides)
        recorder.start(generator, Pictures(), "a run")
        tell(recorder, 1)
        recorder.close("finished")
    runs = read_runs([str(tmp_path / place) for place in ("0", "1", "0/wandb", "1/wandb")])
    assert len(runs) == 4 and len({run.group for run in runs}) == 1
    assert sorted(run.seed for run in runs) == [0, 0, 1, 1]
    assert not any(key.startswith("environment") for run in runs for key in run.config)
    assert not any(key.startswith("environment") for key in differences(runs))
    assert len({json.dumps(run.environment, sort_keys=True) for run in runs}) == 1 and runs[0].environment["torch"]


def test_one_start_alone_is_what_it_was(written):
    first = sorted((written / "wandb").glob("offline-run-*"))[0]
    (run,) = read_runs([str(first)])
    assert run.state == "preempted" and run.series.end("step") == 6


def test_an_offline_file_that_was_cut_short_is_read_to_where_it_ends(written, tmp_path):
    source = next(iter(sorted((written / "wandb").glob("offline-run-*/*.wandb"))))
    for name, size in (("offline-run-1-cut", 0.6), ("offline-run-2-nothing", 0)):
        (tmp_path / name).mkdir()
        data = source.read_bytes()
        (tmp_path / name / f"run-{name[-3:]}.wandb").write_bytes(data[: int(len(data) * size)])
    old = tmp_path / "offline-run-1-cut" / "run-cut.wandb"
    os.utime(old, (time.time() - 3600,) * 2)
    cut, nothing = read_runs([str(tmp_path)])
    assert cut.state == "stopped" and cut.why.startswith("ended without a word 60 min ago")
    assert cut.series.end("step") >= 1
    assert nothing.series.is_empty and any("nothing that can be read" in problem for problem in nothing.problems)


def test_rows_of_a_history_become_lines():
    rows = [
        {"_step": 4, "_runtime": 2.5, "a": 1.0, "b": "NaN", "word": "x"},
        {"_step": 9, "step": 5, "_runtime": 3, "h": {"_type": "image-file", "width": 3}, "a": 2.0},
        {"_step": 9, "step": 5, "critic/grad_norm_histogram": {"_type": "histogram", "values": [1], "bins": [0, 1]}},
        {"a": 3},
        {"step": 6, "h": {"_type": "image-file", "path": "x"}},
    ]
    assert lines_of(rows) == [
        {"step": 4, "a": 1.0, "b": None, "seconds": 2.5},
        {"step": 5, "a": 2.0, "seconds": 3, "critic/grad_norm_histogram": [1]},
    ]


def public_run(**more) -> SimpleNamespace:
    """The documented attributes of `wandb.apis.public.Run` that are read."""
    histogram = {"_type": "histogram", "values": [1] * CELLS, "bins": list(range(CELLS + 1))}
    rows = [{"_step": step, **line(step), "critic/grad_norm_histogram": histogram} for step in range(1, 6)]
    about = {"host": "node1", "gpu": "H100", "gpu_count": 4, "git": {"commit": "a" * 40}}
    told = {"id": "xyz", "name": "far", "entity": "we", "project": "p", "state": "finished", "config": {"seed": 3}}
    told |= {"summary": {"status": "finished"}, "metadata": about, "notes": None, "tags": []}
    return SimpleNamespace(**{**told, **more}, scan_history=lambda: iter(rows))


def test_seconds_of_training_are_not_those_of_wandb():
    rows = [{"step": 1, "seconds": 5, "_runtime": 60, "a": 1}, {"step": 1, "_runtime": 90, "b": 2}]
    assert lines_of(rows) == [{"step": 1, "a": 1, "seconds": 5, "b": 2}]


def test_a_run_of_a_server_is_compared_like_any_other():
    run = run_of(public_run())
    assert (run.name, run.place, run.state, run.seed) == ("far", "we/p/xyz", "finished", 3)
    assert run.series.end("step") == 5 and run.series.histogram == [1] * CELLS
    assert run.environment["devices"] == "4 x H100" and run.environment["commit"] == "a" * 10
    assert run_of(public_run(state="crashed")).state == "stopped"
    assert run_of(public_run(summary={"status": "preempted"})).state == "preempted"
    assert run_of(public_run(state="failed", summary={"status": "stopped"})).state == "stopped"
    assert run_of(public_run(state="running", summary={"status": "preempted"})).state == "running"


def test_the_runs_of_a_project_are_asked_for_once(monkeypatch):
    import wandb

    asked = []

    class Api:
        def __init__(self, timeout):
            pass

        def runs(self, path, order):
            asked.append(path)
            return iter([public_run(id="1"), public_run(id="2", name="other")])

        def run(self, path):
            asked.append(path)
            return public_run()

    monkeypatch.setattr(wandb, "Api", Api)
    assert [run.name for run in read_server("we/p")] == ["far", "other"]
    assert [run.name for run in read_server("we/p/xyz")] == ["far"]
    assert asked == ["we/p", "we/p/xyz"]


def test_a_server_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    for name, value in (("BASE_URL", "http://127.0.0.1:9"), ("API_KEY", "0" * 40), ("DIR", str(tmp_path))):
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setattr(server, "_SECONDS", 1)
    with pytest.raises(UserError) as raised:
        read_server("we/p")
    assert str(raised.value).startswith("--wandb we/p: the server did not give its runs (")
    assert "wandb login" in str(raised.value) and len(str(raised.value).splitlines()) == 1


def test_a_run_of_a_server_has_the_group_of_its_folder(tmp_path):
    (folder,) = read_runs([str(make_run(tmp_path / "run"))])
    config = load_config([tmp_path / "run" / "config.yaml"]).model_dump(mode="json")
    start = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"][0]
    run = run_of(public_run(config={**config, "environment": {**start, "time": "now"}}))
    assert run.group == folder.group and run.config == folder.config
    assert run.environment["devices"] == "2 x H100" and run.environment["commit"] == "0123456789 and changes"


def test_a_config_of_another_version_keeps_its_group_through_wandb():
    config = {"forgotten": {"share": 1.0, "betas": [0.0, 0.9], "on": True}, "seed": 0}
    through = json.loads(json.dumps(config).replace(".0,", ","))
    assert json.dumps(settings_of(through)) == json.dumps(settings_of(config))


def test_the_shipped_config_keeps_its_group_through_wandb():
    config = load_config([ROOT / "configs" / "mnist_wgan.yaml"])
    through = json.loads(json.dumps(config.model_dump(mode="json")).replace(".0,", ","))  # W&B drops the point
    assert settings_of({**through, "_wandb": {}}) == flatten(config)
