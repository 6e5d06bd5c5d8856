"""The batch script: what a shell and sbatch make of it, and the ones that are shipped for people."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distgan.errors import ConfigError
from distgan.slurm import script as scripts
from distgan.slurm.options import Request
from distgan.slurm.script import LAUNCHER, Job, batch_script, ranges

ROOT = Path(__file__).resolve().parent.parent.parent
SHIPPED = sorted((ROOT / "slurm").glob("*.sbatch"))
NEEDED = ("--ntasks-per-node=1", "--signal=USR1@", "--requeue", "--open-mode=append", "--output=", "--nodes=")
"""What launch.sh relies on."""
ODD = 'my run\'s #1 $HOME 50% "new" é'
"""A folder that people make."""


def request(**changes) -> Request:
    plain = {
        "at_once": None,
        "nodes": (2, 2),
        "processes": 4,
        "gpus": "4",
        "cores": None,
        "time": None,
        "warn": 300,
        "words": {},
        "interface": None,
        "scratch": None,
        "env": {},
        "before": (),
        "requeue": True,
        "more": (),
    }
    return Request(**plain | changes)


def job(folder: Path, **changes) -> Job:
    return Job(**{"folder": folder, "python": "/env/bin/python", "start": folder.parent} | changes)


EVERYTHING = request(
    at_once=2,
    nodes=(2, 4),
    cores=16,
    time="1-00:00:00",
    words={"partition": "gpu", "account": "p1", "qos": "long", "constraint": "a100&nvlink"},
    interface="ib0",
    scratch="/scratch/me",
    env={"NCCL_DEBUG": "INFO"},
    before=("module load cuda",),
    more=("--mem=64G",),
)


def options(text: str) -> list[str]:
    return re.findall(r"^#SBATCH (\S+)", text, re.MULTILINE)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_script_has_what_the_launcher_needs(path):
    text = path.read_text()
    subprocess.run(["bash", "-n", path], check=True)
    assert all(any(option.startswith(need) for option in options(text)) for need in NEEDED)
    assert "B:" not in "".join(options(text)) and f"sbatch slurm/{path.name}" in text
    (config,) = re.findall(r"^CONFIG=(\S+)", text, re.MULTILINE)
    assert (ROOT / config).exists() and len(text.splitlines()) <= 32


def test_the_shipped_scripts_share_the_launcher_of_the_package():
    assert {path.stem for path in SHIPPED} == {"single_node", "multi_node", "array"}
    link = ROOT / "slurm" / "launch.sh"
    assert link.is_symlink() and not link.readlink().is_absolute() and link.resolve() == LAUNCHER.resolve()


def complaint(text: str, folder: Path) -> str:
    """What sbatch, on a machine without a cluster, says of a script."""
    if not shutil.which("sbatch"):
        pytest.skip("no sbatch; apt-get install slurm-client")
    conf, path = folder / "slurm.conf", folder / "asked.sbatch"
    conf.write_text(
        "ClusterName=x\nAuthType=auth/none\nSlurmctldHost=localhost\nSlurmctldPort=1\nMessageTimeout=1\n"
        "SlurmctldTimeout=1\nGresTypes=gpu\nNodeName=n1\nPartitionName=p Nodes=n1\n"
    )
    path.write_text(text)
    environment = {"SLURM_CONF": str(conf), "PATH": os.environ["PATH"]}
    done = subprocess.run(["sbatch", "--test-only", path], env=environment, capture_output=True, text=True, timeout=60)
    return done.stderr


def test_sbatch_understands_every_option(tmp_path):
    written = [
        batch_script(job(tmp_path / ODD, indexes=(0, 1)), EVERYTHING),
        batch_script(job(tmp_path), request(gpus="a100:2", requeue=False)),
        batch_script(job(tmp_path), request(gpus=None, time="90")),
    ]
    for text in (*written, *map(Path.read_text, SHIPPED)):
        assert "Unable to contact slurm controller" in complaint(text, tmp_path)
        assert "unrecognized option" in complaint(text.replace("--nodes", "--knots"), tmp_path)
        assert "valid" in complaint(text.replace("--signal=USR1", "--signal=USR9"), tmp_path)


def run_script(text: str, tmp_path: Path, **environment) -> dict:
    """What the launcher is given by a script that a shell runs; a mistake of the shell fails."""
    path = tmp_path / "job.sbatch"
    path.write_text(text)
    done = subprocess.run(["bash", path], env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True)
    assert not done.stderr, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """One that says what it was given, in a folder of an odd name."""
    path = tmp_path / ODD / "launch.sh"
    path.parent.mkdir()
    python = shlex.quote(sys.executable)
    path.write_text(f"{python} -c 'import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))' \"$@\"\n")
    monkeypatch.setattr(scripts, "LAUNCHER", path)
    return path


def test_a_shell_hands_everything_to_the_launcher_as_it_was_given(tmp_path, launcher):
    python = tmp_path / ODD / "bin" / "python"
    text = batch_script(
        job(tmp_path / ODD, python=str(python), arguments=("--init-from", f"/x/{ODD}")),
        request(env={"WORDS": ODD}, interface="ib0", scratch=f"/{ODD}", before=("export LOADED=1; A=' # '",)),
    )
    words, seen = run_script(text, tmp_path)
    assert words == ["--config", f"{tmp_path}/{ODD}/slurm/config.yaml", "--init-from", f"/x/{ODD}"]
    wanted = {"RUN_DIR": f"{tmp_path}/{ODD}", "PYTHON": str(python), "PROCESSES": "4", "LOADED": "1", "WORDS": ODD}
    wanted |= {"DISTGAN_INTERFACE": "ib0", "DISTGAN_SCRATCH": f"/{ODD}"}
    assert {name: seen.get(name) for name in wanted} == wanted
    assert seen["PATH"].startswith(f"{python.parent}:") and "DISTGAN_CPU" not in seen


def test_without_gpus_the_launcher_is_told_so_and_the_cores_are_asked_for(tmp_path, launcher):
    text = batch_script(job(tmp_path), request(gpus=None, cores=4))
    assert run_script(text, tmp_path)[1]["DISTGAN_CPU"] == "1"
    assert "--cpus-per-task=4" in options(text) and "--gpus" not in text


def test_an_element_of_an_array_finds_its_folder_by_its_number(tmp_path, launcher):
    folder = tmp_path / ODD
    (folder / "slurm").mkdir(parents=True)
    (folder / "slurm" / "elements").write_text("seed-0\nseed-1\n")
    text = batch_script(job(folder, indexes=(0, 1)), request(at_once=1))
    assert "--array=0-1%1" in options(text) and "%A_%a.out" in text
    words, seen = run_script(text, tmp_path, SLURM_ARRAY_TASK_ID="1")
    assert seen["RUN_DIR"] == f"{folder}/seed-1" and words[1] == f"{folder}/seed-1/slurm/config.yaml"
    done = subprocess.run(
        ["bash", tmp_path / "job.sbatch"],
        env={"SLURM_ARRAY_TASK_ID": "2", "PATH": "/usr/bin:/bin"},
        capture_output=True,
    )
    assert done.returncode and b"no such line in slurm/elements" in done.stderr and not done.stdout


def test_what_slurm_reads_is_quoted_for_it(tmp_path):
    """In an #SBATCH line a # begins a comment, and in --output % a pattern."""
    text = batch_script(job(tmp_path / "my #1 50%"), request(words={"constraint": 'a|"b"'}))
    assert f'#SBATCH --output="{tmp_path}/my #1 50%%/slurm/%j.out"' in text
    assert '#SBATCH --job-name="my #1 50%"' in text and '#SBATCH --constraint="a|\\"b\\""' in text


def test_every_line_of_slurm_says_what_it_is_for(tmp_path):
    text = batch_script(job(tmp_path), request(time="60"))
    lines = [line for line in text.splitlines() if line.startswith(("#SBATCH", "export"))]
    assert len(lines) > 10 and all(" # " in line for line in lines)


def test_a_folder_that_slurm_cannot_be_given_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="Slurm takes no"):
        batch_script(job(tmp_path / "a\\b"), request())


def test_numbers_are_written_as_ranges():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8" and ranges([3]) == "3"
