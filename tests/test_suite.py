"""What the tests rely on: processes that can be forked from, tests that cost themselves alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import in_processes
from leftovers import put_back, state

HERE = Path(__file__).parent


def gradient(rank: int) -> float:
    x = torch.full((1,), 3.0, requires_grad=True)
    (x * x).sum().backward()
    return x.grad.item()


def test_processes_forked_after_compiled_code_can_differentiate(tmp_path):
    x = torch.ones(3, requires_grad=True)
    torch.compile(lambda x: x.sin().sum(), backend="aot_eager")(x).backward()
    assert in_processes(2, tmp_path, gradient) == [6.0, 6.0]


SUITE = """
import os, signal, pytest
@pytest.mark.parametrize("number", range(12))
def test_it(number):
    if number in {dies}:
        os.kill(os.getpid(), signal.SIGKILL)
"""
CONFTEST = """
def pytest_xdist_make_scheduler(config, log):
    from scheduling import OneByOne
    return OneByOne(config, log)
"""


@pytest.mark.parametrize("dies", [(3, 4, 5), (10, 11)], ids=["in the middle", "at the end"])
def test_a_process_that_dies_costs_the_test_that_it_was_in(tmp_path, dies):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(SUITE.replace("{dies}", str(set(dies))))
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--numprocesses", "2", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout
    found = sorted(int(number) for number in re.findall(r"FAILED \S+::test_it\[(\d+)\]", done.stdout))
    assert found == list(dies) and f"{len(dies)} failed, {12 - len(dies)} passed" in done.stdout


def test_what_a_test_leaves_behind_is_named_and_put_back(tmp_path, monkeypatch):
    before = state()
    monkeypatch.setenv("DISTGAN_LEFT", "1")
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    found = put_back(before)
    assert [line.partition(":")[0] for line in found] == [
        "environment",
        "working directory",
        "torch's threads",
        "torch's default dtype",
    ]
    assert "DISTGAN_LEFT=None became 1" in found[0] and state() == before
