"""The check for a GPU runs without one: what needs it says so, and a part that fails stops no other."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import parts
from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check.parts import FAILED, OK, SKIPPED, Options, execute, files_with_marked, outcomes
from benchmarks.gpu_check.training import busy_share


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_or_says_that_it_cannot(tmp_path):
    out = tmp_path / "found.json"
    assert main(["--device", "cpu", "--tiny", "--out", str(out)]) == 0, out.read_text()
    found = json.loads(out.read_text())
    states = {name: part["state"] for name, part in found["parts"].items()}
    assert states == {"tests": SKIPPED, "parity": OK, "step": OK, "sizes": OK, "training": OK}
    assert found["parts"]["tests"]["reason"] == "needs a CUDA device"
    assert found["header"]["device"] == "cpu" and found["header"]["packages"]["torch"]
    assert found["parts"]["step"]["found"]["cases"]["mlp 32 px, batch 4"]["modes"]["textbook"]["right"]
    assert found["parts"]["sizes"]["found"]["measured"]["growing"][0]["seconds a kimg"] > 0
    training = found["parts"]["training"]["found"]
    assert training["status"] == "finished" and training["images_per_second"] > 0
    assert training["busy_share"] == training["waits"] == "needs a CUDA device"


def test_a_part_that_fails_stops_no_other_and_the_status_is_1(tmp_path, monkeypatch, capsys):
    def fails(options, seconds):
        return execute(["-c", "import sys; print('broken'); sys.exit(3)"], seconds).part({})

    def hangs(options, seconds):
        return execute(["-c", "import time; print('half', flush=True); time.sleep(60)"], seconds).part({})

    def works(options, seconds):
        return execute(["-c", "print('fine')"], seconds).part({"seen": 1})

    monkeypatch.setattr(command, "PARTS", {"one": (fails, 10), "two": (hangs, 1), "three": (works, 10)})
    assert main(["--device", "cpu", "--out", str(tmp_path / "found.json")]) == 1
    one, two, three = json.loads((tmp_path / "found.json").read_text())["parts"].values()
    assert (one["state"], one["reason"], one["found"]["output"]) == (FAILED, "status 3", "broken\n")
    assert (
        two["state"] == FAILED and "its time was up after 1 s" in two["reason"] and two["found"]["output"] == "half\n"
    )
    assert (three["state"], three["found"]) == (OK, {"seen": 1})
    assert "one: failed, status 3" in capsys.readouterr().out


def test_what_pytest_told_before_its_time_was_up_is_kept():
    output = """
tests/test_gpu.py::test_trains[false-fp32] PASSED                        [  7%]
[gw0] [ 14%] FAILED tests/test_gpu.py::test_parity[true-bf16] 
tests/test_gpu.py::test_of_which_nothing_is_known
"""
    assert outcomes(output) == {
        "tests/test_gpu.py::test_trains[false-fp32]": "PASSED",
        "tests/test_gpu.py::test_parity[true-bf16]": "FAILED",
    }


@pytest.mark.parametrize("several", [[], ["--numprocesses", "2"]])
def test_what_pytest_tells_is_understood(several):
    """Of tests that are left out here, with the words that the part uses."""
    words = ["-m", "pytest", "-m", "gpu", "-vv", "-p", "no:cacheprovider", "--color=no", *several]
    found = outcomes(execute([*words, "tests/test_randomness.py"], 100).output)
    test = "tests/test_randomness.py::test_a_gpu_draws_the_same_bits"
    assert found[test] == ("PASSED" if torch.cuda.is_available() else "SKIPPED")


def test_files_with_tests_for_a_gpu_are_found():
    files = files_with_marked()
    assert "tests/test_gpu.py" in files and "tests/test_randomness.py" in files and "tests/test_growing.py" not in files


def test_tests_without_pytest_are_left_out_with_a_word(monkeypatch):
    monkeypatch.setattr(parts.importlib.util, "find_spec", lambda name: None if name == "hypothesis" else name)
    found = parts.tests(Options("cuda"), 1)
    assert (found.state, found.reason) == (SKIPPED, "not installed: hypothesis; pip install hypothesis")


def test_the_device_is_busy_where_anything_runs():
    assert busy_share([(0, 4), (2, 6), (3, 5), (8, 10)]) == 0.8
    assert math.isnan(busy_share([]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "no/such/folder/found.json"], "no folder"),
        (["--out", "found.json", "--shards", "nowhere"], "--shards nowhere: no such folder"),
    ],
)
def test_bad_usage_is_told_in_a_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and words in capsys.readouterr().err
