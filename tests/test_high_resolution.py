"""Configs of 256 to 1024 pixels, which no test can run at their size, and the benchmark that tells what they take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launching import ROOT

from benchmarks import high_resolution
from distgan.config import load_config, process_conflicts
from distgan.doctor.room import least

FOLDER = ROOT / "configs" / "high_resolution"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
SETS = ("celebahq256", "celebahq1024", "ffhq256", "lsun256", "afhq512")
FORMS = {"": 1, "_8gpu": 8, "_nodes": 16}
GROWING = ROOT / "tests" / "growing.yaml"


def test_every_set_has_a_config_for_one_gpu_for_eight_and_for_several_machines():
    assert {path.stem for path in CONFIGS} == {name + form for name in SETS for form in FORMS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_can_be_run_on_the_processes_that_it_is_for_and_in_80_gb(path):
    config = load_config([path])
    form = next(form for form in ("_8gpu", "_nodes", "") if path.stem.endswith(form))
    assert process_conflicts(config, FORMS[form]) == []
    assert config.run_dir == f"runs/{path.stem}"
    assert least(config.grown, FORMS[form], eager=False).of(config.grown.train.batch_size // FORMS[form]) < 80e9


def test_on_eight_gpus_each_has_whole_groups_at_every_resolution_from_4_to_1024():
    stages = load_config([FOLDER / "celebahq1024_8gpu.yaml"]).course.stages
    assert [stage.resolution for stage in stages] == [4 * 2**level for level in range(9)]
    assert all(stage.batch_size % (8 * 4) == 0 for stage in stages)


def test_the_benchmark_tells_parameters_and_memory_of_all_configs(capsys):
    assert high_resolution.main([]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + len(CONFIGS)
    assert "| celebahq1024 | 1 | 4 | 4 | bf16 | 23.1 M, 23.1 M |" in "\n".join(rows)


def test_the_time_of_a_run_is_the_sum_over_its_stages(capsys, tmp_path):
    out = tmp_path / "found.json"
    assert high_resolution.main([str(GROWING), "--measure", "--steps", "1", "--json", str(out)]) == 0
    stages = json.loads(out.read_text())["measured"]["growing"]
    assert [(stage["resolution"], stage["batch"], stage["steps"]) for stage in stages] == [
        (8, 16, 4),
        (16, 8, 8),
        (32, 8, 12),
    ]
    hours = sum(stage["steps"] * stage["seconds a step"] for stage in stages) / 3600
    assert f"the whole run takes {hours:.3g} hours" in capsys.readouterr().out


def test_a_run_is_measured_from_its_first_4_pixels_on(tmp_path):
    out, few = tmp_path / "found.json", ["growing.start=4", "data.resolution=16", "train.length=30 steps"]
    assert high_resolution.main([str(GROWING), "--measure", "--json", str(out), "--steps", "1", *few]) == 0
    stages = json.loads(out.read_text())["measured"]["growing"]
    assert [stage["resolution"] for stage in stages] == [4, 8, 16]


def test_a_run_that_grows_is_measured_at_other_resolutions_too(tmp_path):
    out, few = tmp_path / "found.json", ["train.batch_size=4", "growing.batch_sizes={}"]
    told = ["--measure", "--steps", "1", "--resolutions", "16", "64", "--json", str(out)]
    assert high_resolution.main([str(GROWING), *few, *told]) == 0
    stages = json.loads(out.read_text())["measured"]["growing"]
    assert [(stage["resolution"], stage["batch"]) for stage in stages] == [(16, 4), (64, 4)]


def test_a_config_that_is_not_there_is_one_line(capsys):
    assert high_resolution.main([str(Path("no.yaml"))]) == 2
    assert "no.yaml" in capsys.readouterr().err
