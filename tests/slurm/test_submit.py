"""`distgan submit`, with commands that stand for Slurm's; tests/slurm has it on a cluster too."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, TINY
from small_disks import mounted

from distgan import cli
from distgan.config import dump_config, load_config, read_config

SIZE = ("--nodes", "2", "--processes-per-node", "2")
FAKES = {
    "sbatch": 'cp "${!#}" "$FAKE/script"; env >"$FAKE/env"; echo "$*" >>"$FAKE/asked"; '
    '[ ! -e "$FAKE/refusal" ] || { cat "$FAKE/refusal" >&2; exit 1; }; echo "a word of the site"; echo "17;lab"',
    "squeue": 'echo "$*" >>"$FAKE/asked_queue"; cat "$FAKE/queue" 2>/dev/null; exit 0',
    "sinfo": "printf 'main\\ngpu\\nmain\\n'",
}


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """Folder of what the stand-ins say and were asked; they are all that is on PATH of Slurm."""
    folder = tmp_path / "fake"
    (folder / "bin").mkdir(parents=True)
    for name, line in FAKES.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{line}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE", str(folder))
    return folder


@pytest.fixture
def submit(tmp_path, shapes_shards, monkeypatch, capfd, fake):
    """Runs the command in `tmp_path`, and returns its status, output and complaints."""
    monkeypatch.chdir(tmp_path)

    def act(*words: object, size: tuple = SIZE, config: Path = TINY, shards: str = str(shapes_shards)):
        command = ["submit", "--config", config, *size, f"data.shards={shards}", "run_dir=runs/a b", *words]
        status = cli.main([str(word) for word in command])
        return status, *capfd.readouterr()

    return act


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def finished(folder: Path) -> None:
    """Makes it look as after a training to its end with what was submitted."""
    (folder / "config.yaml").write_text((folder / "slurm" / "config.yaml").read_text())
    (folder / "status").write_text("finished\n")


def test_a_run_is_written_down_queued_and_explained(submit, fake, tmp_path):
    status, out, err = submit("seed=7", "--time", "2:00:00", "--partition", "gpu")
    run = tmp_path / "runs" / "a b"
    assert (status, err) == (0, "")
    assert read_config(run / "slurm" / "config.yaml").seed == 7
    script = (run / "slurm" / "job.sbatch").read_text()
    assert (fake / "script").read_text() == script and "#SBATCH --partition=gpu" in script
    assert (fake / "asked").read_text() == f"--parsable {run}/slurm/job.sbatch\n"
    (job,) = lines(run / "slurm" / "jobs.jsonl")
    assert job.pop("time") and job == {
        "job": "17",
        "nodes": "2",
        "processes": 4,
        "script": str(run / "slurm" / "job.sbatch"),
    }
    told = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert told["job"] == "17" and told["log"] == f"'{run}/slurm/17.out'" and "scancel 17" in told["stop"]
    assert f"tail -F '{run}/slurm/17.out' '{run}/slurm/17-'*.out" in told["watch"] and told["resume"]


def test_a_dry_run_shows_the_script_and_leaves_nothing(submit, fake, tmp_path):
    status, out, err = submit("--dry-run", "--array", "seed=0-1")
    assert (status, err) == (0, "") and not (tmp_path / "runs").exists() and not (fake / "asked").exists()
    assert out.startswith("#!/bin/bash\n") and "--array=0-1" in out
    for name in FAKES:
        (fake / "bin" / name).unlink()
    assert submit("--dry-run", "--array", "seed=0-1") == (status, out, err)


def test_without_slurm_one_line_says_so_and_nothing_is_written(submit, fake, tmp_path):
    (fake / "bin" / "sbatch").unlink()
    path = os.environ["PATH"]
    os.environ["PATH"] = str(fake / "bin")  # a real one may be installed
    try:
        status, out, err = submit()
    finally:
        os.environ["PATH"] = path
    assert (status, out) == (1, "") and err.startswith("distgan: sbatch: no such command") and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_range_is_checked_for_every_number_of_nodes(submit, fake):
    size = ("--nodes", "1-4", "--gpus-per-node", "2")  # batches of 16
    status, out, err = submit(size=size)
    assert (status, out) == (2, "") and not (fake / "asked").exists()
    assert err == "distgan: on 3 nodes: train.batch_size: 16 images cannot be shared by 6 processes; use 12 or 18\n"
    _, _, err = submit(size=("--nodes", "17-99", "--gpus-per-node", "1"))
    assert len(err.splitlines()) == 9 and "more numbers of nodes" in err
    told = submit("train.batch_size=24", "critic.minibatch_std=4", size=size)[2]
    assert "on 2 nodes" in told and "on 4 nodes" in told and "on 1 node:" not in told and "groups" in told
    assert submit("train.batch_size=48", size=size)[0] == 0


def test_all_mistakes_are_told_at_once(submit, tmp_path):
    words = ["train.critic_step=3", "--time", "1-2-3", "--env", "3x=1", "--sbatch=--output=x", "--sbatch=mem"]
    words += ["--at-once", "2", "--nodes", "4-2", "--init-from", "nowhere", "--scratch", "tmp", "--qos", ""]
    status, _, err = submit(*words, size=("--gpus-per-node", "2", "--processes-per-node", "2"))
    assert status == 2 and not (tmp_path / "runs").exists()
    for told in (
        "train.critic_step: 3 is set, but there is no such key; nearest: train.critic_steps",
        "--time 1-2-3: not a time",
        "--env 3x=1: not a variable",
        "--sbatch=--output=x: the launcher relies on",
        "--sbatch=mem: not an option",
        "--at-once 2: is for the runs of an --array",
        "--nodes 4-2: not a number of nodes",
        "--init-from nowhere: neither",
        "--scratch tmp: not a whole path",
        "--qos '': must be one line",
        "both are given; give one",
    ):
        assert f"distgan: {told}" in err or (told.startswith("both") and told in err), told
    assert len(err.splitlines()) == 11


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--time", "5"], "--time 5: 300 s leave no time to train"),
        (["--time", "6:00"], "leave no time"),
        (["--time", "6", "--warn", "x"], "--warn x: not a whole number"),
        (["--time", "UNLIMITED"], "not a time"),
        (["--sbatch=--nodes=3"], "use distgan's own --nodes"),
        (["--sbatch=-p gpu"], "use distgan's own --partition"),
        (["--before", "a\nb"], "must be one line"),
        (["--processes-per-node", "0"], "--processes-per-node 0: not a whole number"),
        (["--nodes", "0"], "--nodes 0"),
        (["train.device=cuda"], "train.device: cuda needs --gpus-per-node"),
        (["data.shards=nowhere"], "nowhere: no such folder"),
        (["data.shards=gone-{0..2}.tar"], "/gone-0.tar is not here (nor are 2 more)"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(submit, fake, words, told):
    status, out, err = submit(*words)
    assert (status, out, len(err.splitlines())) == (2, "", 1) and told in err
    assert not (fake / "asked").exists()


@pytest.mark.parametrize("time", ["7", "6:01", "0:06:01", "0-1", "0-0:7", "0-0:6:01", "2-00:00:00"])
def test_a_time_in_any_of_slurms_forms_is_taken(submit, time):
    status, out, _ = submit("--dry-run", "--time", time)
    assert status == 0 and f"#SBATCH --time={time} " in out


def test_gpus_and_a_config_for_cpus_do_not_go_together(submit):
    size = ("--nodes", "2", "--gpus-per-node", "2")
    assert "makes no use of --gpus-per-node" in submit("train.device=cpu", size=size)[2]
    assert "neither is given" in submit(size=())[2]
    assert "nor type and number" in submit(size=("--gpus-per-node", "a b:2"))[2]
    assert "--gpus-per-node=a100:2 " in submit("--dry-run", size=("--gpus-per-node", "a100:2"))[1]


def test_shards_far_away_are_left_to_the_job(submit):
    assert submit("--dry-run", shards="https://nowhere.invalid/x-{0..3}.tar")[0] == 0


def test_a_run_that_is_in_the_queue_is_not_submitted_twice(submit, fake, tmp_path):
    assert submit()[0] == 0
    (fake / "queue").write_text("17|RUNNING|None|2030-01-01T00:00:00\n")
    status, out, err = submit()
    assert (status, out) == (
        2,
        "",
    ) and "its job 17 is in the queue (running); wait for it, or end it with scancel 17" in err
    (fake / "queue").write_text("18|PENDING|Resources|N/A\n")
    with open(tmp_path / "runs" / "a b" / "slurm" / "starts.jsonl", "w") as file:
        file.write(json.dumps({"chain": "17", "job": "17", "restart": 0, "next": "continued as 18"}) + "\n")
    assert "its job 18 is in the queue (pending)" in submit()[2]
    (fake / "queue").write_text("")
    assert submit()[0] == 0 and len(lines(tmp_path / "runs" / "a b" / "slurm" / "jobs.jsonl")) == 2


def test_a_folder_in_use_or_with_another_run_is_refused(submit, tmp_path):
    run = tmp_path / "runs" / "a b"
    (run / "checkpoints" / "00000010").mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(load_config([TINY], ["seed=1"])))
    with open(run / ".lock", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        status, _, err = submit("seed=2")
    assert status == 2 and "a training is running in it" in err and "seed: 1 in the run, 2 now" in err
    assert "seed: 1 in the run" in submit("seed=2", "--dry-run")[2]
    status, _, _ = submit("seed=2", "--allow-config-change", "--init-from", run)
    assert status == 0
    assert f"--allow-config-change --init-from '{run}'" in (run / "slurm" / "job.sbatch").read_text()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_full_disk_is_one_line_before_anything_is_queued(submit, tmp_path, fake, dry):
    with mounted(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("only root may mount a disk")
        disk.fill(tmp_path)
        status, out, err = submit(f"run_dir={disk.folder / 'run'}", *dry)
        assert (status, out, err.count("\n")) == (1, "", 1) and not (fake / "asked").exists()
        assert f"run_dir {disk.folder / 'run'}: cannot be written: {disk.reason}" in err
        disk.make_room()
        assert submit(f"run_dir={disk.folder / 'run'}", *dry)[0] == 0


def test_a_folder_that_cannot_be_made_is_one_line(submit, tmp_path, fake):
    (tmp_path / "file").touch()
    status, out, err = submit("run_dir=file/run")
    assert (status, out) == (1, "") and not (fake / "asked").exists()
    assert err == "distgan: run_dir file/run: cannot be written: Not a directory; choose another run_dir\n"


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (
            "sbatch: error: invalid partition specified: x\nsbatch: error: Submission failed",
            "invalid partition specified: x; Submission failed; partitions here: gpu, main",
        ),
        ("sbatch: error: Invalid account", "Invalid account"),
    ],
)
def test_a_refusal_of_slurm_is_one_line_and_no_job(submit, fake, tmp_path, refusal, told):
    (fake / "refusal").write_text(f"{refusal}\n")
    assert submit() == (1, "", f"distgan: sbatch: {told}\n")
    assert not (tmp_path / "runs" / "a b" / "slurm" / "jobs.jsonl").exists()


def test_a_job_knows_nothing_of_the_job_that_it_was_submitted_in(submit, fake, monkeypatch):
    for name in (
        "SLURM_RESTART_COUNT",
        "SLURM_CONF",
        "DISTGAN_CHAIN",
        "DISTGAN_CACHE",
        "SBATCH_QOS",
        "SBATCH_TIMELIMIT",
    ):
        monkeypatch.setenv(name, "1")
    submit("--time", "60")
    seen = dict(line.split("=", 1) for line in (fake / "env").read_text().splitlines() if "=" in line)
    assert {"SLURM_CONF", "DISTGAN_CACHE", "SBATCH_QOS"} <= seen.keys()  # of the user
    assert not {"SLURM_RESTART_COUNT", "DISTGAN_CHAIN", "SBATCH_TIMELIMIT"} & seen.keys()


def test_an_array_has_a_folder_a_config_and_a_job_for_each_run(submit, fake, tmp_path):
    words = ["--array", "seed=0-1", "critic.optimizer.lr=1e-4,2e-4", "--at-once", "3"]
    status, out, err = submit(*words, "tracking.every=5 steps")
    base = tmp_path / "runs" / "a b"
    names = ["seed-0_lr-1e-4", "seed-0_lr-2e-4", "seed-1_lr-1e-4", "seed-1_lr-2e-4"]
    assert (status, err) == (0, "") and (base / "slurm" / "elements").read_text().split() == names
    assert "#SBATCH --array=0-3%3" in (fake / "script").read_text() and "17, array 0-3" in out
    for number, name in enumerate(names):
        config = read_config(base / name / "slurm" / "config.yaml")
        assert (config.seed, config.critic.optimizer.lr) == (number // 2, (number % 2 + 1) * 1e-4)
        assert config.tracking.wandb.group is None and Path(config.run_dir) == Path("runs", "a b", name)
        assert [job["job"] for job in lines(base / name / "slurm" / "jobs.jsonl")] == [f"17_{number}"]
    assert not (base / "slurm" / "jobs.jsonl").exists()
    submit(*words, "tracking.wandb.group=mine", "--allow-config-change")
    assert read_config(base / names[0] / "slurm" / "config.yaml").tracking.wandb.group == "mine"


def test_submitted_again_an_array_leaves_out_what_is_finished_or_queued(submit, fake, tmp_path):
    base = tmp_path / "runs" / "a b"
    submit("--array", "seed=0-2")
    finished(base / "seed-1")
    (fake / "queue").write_text("17_2|PENDING|Resources|N/A\n")
    status, out, err = submit("--array", "seed=0-3")
    assert status == 0 and "17, array 0,3" in out and "#SBATCH --array=0,3 " in (fake / "script").read_text()
    assert (
        "runs/a b/seed-1: finished" in err
        and "runs/a b/seed-2: its job 17_2 is in the queue (pending); left out" in err
    )
    assert (base / "slurm" / "elements").read_text().split() == ["seed-0", "seed-1", "seed-2", "seed-3"]
    assert (fake / "asked_queue").read_text().count("\n") == 1  # one question for all
    (fake / "queue").write_text("17_0|RUNNING|None|N/A\n17_2|RUNNING|None|N/A\n17_3|RUNNING|None|N/A\n")
    (fake / "asked").unlink()
    status, out, err = submit("--array", "seed=0-3")
    assert (status, out) == (0, "") and "nothing to submit" in err and not (fake / "asked").exists()
    (fake / "queue").write_text("")
    assert "array 0-3" in submit("--array", "seed=0-3", "train.length=50 steps")[1]  # it goes on further


def test_a_finished_run_is_not_queued_unless_it_is_to_go_on(submit, fake, tmp_path):
    submit()
    finished(tmp_path / "runs" / "a b")
    (fake / "asked").unlink()
    status, out, err = submit()
    assert (status, out) == (0, "") and "finished; with a longer train.length it goes on" in err
    assert submit("train.length=50 steps")[0] == 0 and (fake / "asked").exists()


def test_the_mistakes_of_an_array_are_told_once_or_with_the_run_that_makes_them(submit):
    status, _, err = submit("--array", "train.batch_size=16,18", "train.critic_steps=0", "seed=1")
    assert status == 2 and err.splitlines() == [
        "distgan: train.critic_steps: 0 is not allowed; must be greater than or equal to 1"
    ]
    status, _, err = submit("--array", "train.batch_size=16,18")
    told = "batch_size-18: on 2 nodes: train.batch_size: 18 images cannot be shared by 4 processes; use 16 or 20"
    assert err == f"distgan: {told}\n"
    assert "also a key of --array" in submit("seed=3", "--array", "seed=0,1")[2]


def test_a_job_that_cannot_be_put_down_is_told_with_its_number(submit, fake):
    (fake / "bin" / "sbatch").write_text("#!/bin/bash\nmkdir 'runs/a b/slurm/jobs.jsonl'; echo 17\n")
    status, out, err = submit()
    assert status == 1 and "job 17 is in the queue, but not in the run folder" in err and "scancel 17" in out


def test_it_answers_without_loading_torch(tmp_path, shapes_shards):
    code = "import sys; from distgan import cli; cli.main(sys.argv[1:]); assert 'torch' not in sys.modules"
    words = ["submit", "--config", TINY, *SIZE, f"data.shards={shapes_shards}", "--dry-run"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
