"""The private cluster behaves as separate machines do, and leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

FREEZER = Path("/sys/fs/cgroup/freezer")


def log(tmp_path: Path) -> list[str]:
    return (tmp_path / "job.out").read_text().splitlines()


def test_every_node_has_its_name_its_address_and_its_processes(cluster, tmp_path):
    said = cluster.call("srun", "--nodes=2", "--label", "sh", "-c", "hostname; hostname -I; ps -e | wc -l").stdout
    words = dict.fromkeys("01")
    for number in words:
        words[number] = [line.split()[1] for line in said.splitlines() if line.startswith(number)]
    assert [words[number][:2] for number in "01"] == [["n1", "10.213.0.11"], ["n2", "10.213.0.12"]]
    assert all(int(words[number][2]) < 20 for number in "01")


def test_an_urgent_job_preempts_and_the_requeued_one_runs_again(cluster, tmp_path):
    body = "trap 'echo told; exit 0' TERM; echo began; for i in $(seq 600); do sleep 0.1; done"
    script = f'srun sh -c "{body}"; scontrol requeue $SLURM_JOB_ID'.replace("$(seq", r"\$(seq")
    number = cluster.submit(script, "--open-mode=append", "-o", tmp_path / "job.out")
    cluster.wait_for(lambda: (tmp_path / "job.out").exists() and log(tmp_path) == ["began"], 20, "the job began")
    cluster.preempt()
    cluster.runs(number, 30, restarts=1)
    cluster.wait_for(lambda: log(tmp_path)[-1] == "began", 20, "it began again")
    assert [line for line in log(tmp_path) if "slurm" not in line] == ["began", "told", "began"]


@pytest.mark.skipif(
    not os.access(FREEZER / "tasks", os.W_OK), reason="no cgroups of version 1: signals reach all processes"
)
def test_a_signal_reaches_the_leader_of_a_task_only(cluster, tmp_path):
    body = "trap 'echo leader told' USR1; sh -c \"trap 'echo child told' USR1; echo up; sleep 1; sleep 1\" & wait; wait"
    (tmp_path / "task.sh").write_text(body)
    number = cluster.submit(f"srun sh {tmp_path}/task.sh", "-o", tmp_path / "job.out")
    cluster.wait_for(lambda: (tmp_path / "job.out").exists() and log(tmp_path) == ["up"], 20, "the job began")
    cluster.call("scancel", "--signal=USR1", number)
    assert cluster.end(number)["JobState"] == "COMPLETED"
    assert log(tmp_path) == ["up", "leader told"]


def test_a_killed_node_is_silent_and_comes_back(cluster, tmp_path):
    script = f"srun sh -c 'while sleep 0.1; do date +%s.%N > {tmp_path}/$(hostname); done'"
    cluster.submit(script, "--nodes=2", "-o", tmp_path / "job.out")
    cluster.wait_for(lambda: {"n1", "n2"} <= set(os.listdir(tmp_path)), 20, "both nodes write")
    knock = ["timeout", "1", "bash", "-c", "</dev/tcp/n2/6818"]
    cluster.call(*knock)
    cluster.kill_node("n2")
    killed = time.time()
    cluster.wait_for(lambda: written(tmp_path / "n1") > killed + 1, 20, "n1 goes on")
    assert written(tmp_path / "n2") <= killed
    assert cluster.call(*knock, check=False).returncode == 124, "it must not even refuse"
    cluster.revive_node("n2")
    cluster.clear()
    assert cluster.call("srun", "--nodelist=n2", "hostname").stdout == "n2\n"


def written(file: Path) -> float:
    return float(file.read_text() or 0)


def test_nothing_is_left_of_a_cluster_whose_owner_was_killed(slurm, tmp_path):
    """Not even of a job that made itself a daemon, whose name is looked for."""
    owner = f"""
import sys, time
from cluster import Cluster
cluster = Cluster(nodes=1)
cluster.submit("setsid --fork sleep 1234.5; sleep 1234.5", "-o", "{tmp_path}/job.out")
print(cluster.folder, flush=True)
time.sleep(100)
"""
    command = [sys.executable, "-c", owner]
    process = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True)
    folder = Path(process.stdout.readline().strip())
    groups = FREEZER / folder.name
    slurm.wait_for(lambda: commands().count("sleep 1234.5") == 2, 20, "the job began")
    assert folder.is_dir()
    process.kill()
    process.communicate()
    slurm.wait_for(lambda: not folder.exists() and not groups.exists(), 20, "files and control groups are gone")
    assert [line for line in commands() if "sleep 1234.5" in line or folder.name in line] == []


def commands() -> list[str]:
    """The command lines of all processes."""
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
