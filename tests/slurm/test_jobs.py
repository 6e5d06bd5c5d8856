"""Real trainings in real jobs of a real Slurm, from `distgan submit` to their end."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from cluster import Cluster
from launching import ROOT, TINY, assert_same_weights, lines, without_machine

from distgan.slurm.history import History

pytestmark = pytest.mark.timeout(600)

SLOW = 200
"""Seconds that a start may take until the first step, where other tests have most of the cores."""


@pytest.fixture
def submit(cluster, shapes_shards) -> Callable:
    """`distgan submit` of a tiny training on the head of the cluster; what it did."""

    def call(*words: str | Path, python: str | Path = sys.executable, check: bool = True):
        command = [python, "-m", "distgan.cli", "submit", "--config", TINY, f"data.shards={shapes_shards}", *words]
        paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return cluster.call(*command, check=check, env=paths, timeout=SLOW)

    return call


@pytest.fixture
def queued(submit) -> Callable[..., str]:
    """The same, of a run; the number of its job."""
    return lambda run, *words: re.match(r"job +(\d+)", submit(f"run_dir={run}", *words).stdout)[1]


def steps(run: Path) -> int:
    """Lines of its curve, one a step."""
    return len(lines(run)) if (run / "metrics.jsonl").exists() else 0


def asked(run: Path) -> int:
    """How often its nodes were asked to stop."""
    return sum(file.read_text().count("asked to stop; saving") for file in (run / "slurm").glob("*-n*.out"))


@contextmanager
def slowed(run: Path) -> Iterator[None]:
    """The training has a tenth of the time, so that it does not end before what is to happen to it."""
    over = threading.Event()

    def send(signal: str) -> None:
        subprocess.run(["pkill", f"-{signal}", "-f", rf"^\S+ -u \S+train\.py --config {run}/"], timeout=20)

    def alternate() -> None:
        while not over.wait(0.1):
            send("STOP")
            over.wait(0.9)
            send("CONT")

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def leaves(cluster: Cluster, job: str, run: Path, starts: int, ask: Callable[[], object]) -> None:
    """The training runs for some steps, is asked to leave, and waits for its next start."""
    before, told = steps(run), asked(run)
    cluster.wait_for(lambda: steps(run) > before + 1 or asked(run) > told, SLOW, f"{run} trains")
    with slowed(run):
        ask()
        cluster.wait_for(lambda: asked(run) > told, 60, f"{run} is asked to stop")
    cluster.waits(job, restarts=starts)


@pytest.mark.parametrize("preemptions", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_job_preempted_and_once_at_its_time_limit_ends_as_one_left_alone(cluster, queued, tmp_path, preemptions):
    alone, run = tmp_path / "alone", tmp_path / "run"
    size = ["--nodes=2", "--processes-per-node=2", "train.length=60 steps"]
    job = queued(run, *size, "--time=10", "--warn=115")
    other = []  # the one left alone is what preempts it first
    urgent = ["--partition=urgent", "--sbatch=--exclusive"]
    leaves(cluster, job, run, 1, lambda: other.append(queued(alone, *size, *urgent)))
    assert cluster.end(other[0], 300)["JobState"] == "COMPLETED"
    for start in range(2, preemptions + 1):
        leaves(cluster, job, run, start, cluster.preempt)
    cluster.limit(job, minutes=2)  # so that the warning is due 5 s after its start; Slurm looks every 30 s
    leaves(cluster, job, run, preemptions + 1, lambda: None)
    cluster.limit(job, minutes=10)
    assert cluster.end(job, 300)["JobState"] == "COMPLETED"

    starts = History(run).starts()
    assert [start["next"] for start in starts] == ["requeued"] * (preemptions + 1) + ["finished"]
    assert [start["restart"] for start in starts] == list(range(preemptions + 2))
    assert [start["status"] for start in starts] == ["preempted"] * (preemptions + 1) + ["finished"]
    assert without_machine(run) == without_machine(alone)
    assert len(without_machine(run)) == 60
    assert_same_weights(run, alone, 60)


def test_a_killed_node_is_done_without(cluster, queued, tmp_path):
    run = tmp_path / "run"
    words = ["--nodes=1-2", "--processes-per-node=1", "checkpoint.every=10 steps", "train.length=60 steps"]
    job = queued(run, *words)
    cluster.wait_for(lambda: any(run.glob("checkpoints/000000?0")), SLOW, "a checkpoint")
    assert cluster.job(job)["NodeList"] == "n[1-2]"
    cluster.kill_node("n2")
    killed = time.time()
    cluster.wait_for(lambda: "ended" in History(run).starts()[0], 70, "the first start is over")
    time.sleep(3)  # Slurm starts it anew at once then, which n1 refuses within the second in which it was ended
    cluster.give_up_node("n2")
    assert cluster.end(job, 300)["JobState"] == "COMPLETED"

    first, second = History(run).starts()
    assert datetime.fromisoformat(first["ended"]).timestamp() - killed < 60
    assert (first["next"], second["next"]) == ("requeued", "finished")
    assert second["nodes"] == "n1" and second["newest"] >= 10
    assert [line["step"] for line in lines(run)] == list(range(1, 61))


def test_an_array_of_three_seeds_runs_at_once_on_one_node(cluster, queued, tmp_path):
    words = ["--nodes=1", "--processes-per-node=1", "--sbatch=--nodelist=n1", "train.length=20 steps"]
    number = queued(tmp_path / "runs", *words, "--array", "seed=0-2")
    jobs = [cluster.end(f"{number}_{element}", 300) for element in range(3)]
    assert [job["JobState"] for job in jobs] == ["COMPLETED"] * 3
    assert {job["NodeList"] for job in jobs} == {"n1"}
    assert max(job["StartTime"] for job in jobs) < min(job["EndTime"] for job in jobs)
    curves = [without_machine(tmp_path / "runs" / f"seed-{seed}") for seed in range(3)]
    assert [len(found) for found in curves] == [20] * 3
    assert curves[0] != curves[1] != curves[2] != curves[0]


def test_a_job_that_may_not_be_requeued_goes_on_in_another_until_it_is_cancelled(cluster, queued, tmp_path):
    run = tmp_path / "run"
    job = queued(run, "--nodes=1", "--processes-per-node=1", "--no-requeue", "train.length=100000 steps")
    cluster.wait_for(lambda: steps(run) > 1, SLOW, "the first job trains")
    cluster.call("scancel", "--signal=USR1", job)
    assert cluster.end(job)["JobState"] == "COMPLETED"
    [start] = History(run).starts()
    other = start["next"].removeprefix("continued as ")
    before = steps(run)
    cluster.wait_for(lambda: steps(run) > before + 1, SLOW, f"job {other} trains")
    cluster.call("scancel", other)
    assert cluster.end(other)["JobState"] == "CANCELLED"
    cluster.wait_for(cluster.is_idle, 60, "nobody trains")
    assert (run / "status").read_text().strip() == "preempted"
    assert (run / "checkpoints" / f"{steps(run):08d}").is_dir()
    assert [start["job"] for start in History(run).starts()] == [job, other]


def test_what_is_missing_is_told_in_one_line(cluster, submit, queued, tmp_path):
    size = ["--nodes=1", "--processes-per-node=1"]
    wrong = submit(f"run_dir={tmp_path}/wrong", *size, "--partition=nights", check=False)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert re.fullmatch(r"distgan: sbatch: .*invalid partition.*\n", wrong.stderr)

    cluster.call("sh", "-c", f"mkdir {cluster.small_disk}/run; cat /dev/zero >{cluster.small_disk}/filler", check=False)
    full = submit(f"run_dir={cluster.small_disk}/run", *size, check=False)
    assert (full.returncode, full.stdout) == (1, "")
    assert re.fullmatch(r"distgan: run_dir \S+: cannot be written: No space left on device.*\n", full.stderr)

    # /dev/shm is each machine's own, so this environment is on the head alone
    cluster.call("ln", "-s", sys.prefix, "/dev/shm/environment")
    python = "/dev/shm/environment/bin/python"
    run = tmp_path / "run"
    job = re.match(r"job +(\d+)", submit(f"run_dir={run}", *size, python=python).stdout)[1]
    assert cluster.end(job)["JobState"] == "FAILED"
    assert cluster.job(job)["Restarts"] == "0"
    said = (run / "slurm" / f"{job}.out").read_text().splitlines()
    assert len(said) == 1 and f"PYTHON={python} is not here" in said[0], said


def test_a_failure_of_its_own_on_two_nodes_is_no_reason_to_go_on(cluster, submit, shapes_shards, tmp_path):
    """srun then asks the other node to stop, as Slurm does before a time limit."""
    shards, run = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(shapes_shards, shards)
    words = [f"run_dir={run}", "--nodes=2", "--processes-per-node=1", "--sbatch=--hold", f"data.shards={shards}"]
    job = re.match(r"job +(\d+)", submit(*words).stdout)[1]
    shards.rename(tmp_path / "elsewhere")
    cluster.call("scontrol", "release", job)
    assert cluster.end(job, 120)["JobState"] == "FAILED"
    assert cluster.job(job)["Restarts"] == "0"
    assert [start["next"] for start in History(run).starts()] == ["failed"]


def test_copies_of_shards_are_on_each_node_while_its_job_lasts(cluster, queued, tmp_path):
    scratch, run = tmp_path / "scratch", tmp_path / "run"
    (scratch / "distgan-results").mkdir(parents=True)
    (scratch / ".distgan-7-n1").mkdir()  # of a job that was killed
    words = ["--nodes=1", "--processes-per-node=2", "--sbatch=--nodelist=n1", "--scratch", scratch]
    job = queued(run, *words, "data.stage=true", "train.length=20 steps")
    cluster.wait_for(lambda: steps(run) > 1, SLOW, "it trains")
    copies = scratch / f".distgan-{job}-n1"
    assert any(copies.rglob("*.tar")) or cluster.job(job)["JobState"] == "COMPLETED"
    assert cluster.end(job, 120)["JobState"] == "COMPLETED"
    assert [path.name for path in scratch.iterdir()] == ["distgan-results"]
