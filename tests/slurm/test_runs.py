"""`distgan runs`: real trainings, and folders as jobs leave them beside a `squeue` that says what a test wants."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import pty
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone

import pytest
from launching import ROOT, TINY, command, lines, options, train

from distgan import cli
from distgan.config import dump_config, load_config
from distgan.run_folder import RunFolder
from distgan.slurm.history import History

COMMAND = [sys.executable, str(ROOT / "distgan" / "cli.py"), "runs"]


@pytest.fixture(autouse=True)
def queue(tmp_path, monkeypatch):
    """`queue(rows)` is what squeue prints from then on, `queue(None, complaint)` how it fails, as it does without a
    call. `.asked()` is what each call was given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    asked, script = folder / "asked", folder / "squeue"

    def says(rows, complaint=""):
        body = f"echo '{complaint}' >&2; exit 1" if rows is None else "cat <<'END'\n" + "\n".join([*rows, "END"])
        script.write_text(f'#!/bin/bash\necho "$SLURM_TIME_FORMAT $SQUEUE_STATES $*" >>{asked}\n{body}\n')
        script.chmod(0o755)

    says.asked = lambda: asked.read_text().splitlines() if asked.exists() else []
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    says(None, "squeue: error: there is no Slurm here")
    return says


@pytest.fixture
def listed(capsys):
    """The rows of `distgan runs ARGUMENTS --json` by name, in their order."""

    def ask(*arguments) -> dict[str, dict]:
        assert cli.main(["runs", *map(str, arguments), "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        return {row["run"].rpartition("/")[2]: row for row in rows}

    return ask


@pytest.fixture
def table(capsys):
    def ask(*arguments) -> list[str]:
        assert cli.main(["runs", *map(str, arguments)]) == 0
        return capsys.readouterr().out.splitlines()

    return ask


def ago(seconds: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds)).isoformat(timespec="seconds")


def a_run(folder, status=None, steps=0, total=1000, age=0.0, host="elsewhere", lock=True):
    """A run folder as a training of 32 images a step and 0.5 s a step leaves it; everything `age` seconds old."""
    folder.mkdir(parents=True)
    config = load_config([TINY], [f"train.length={total} steps", f"run_dir={folder}"])
    (folder / "config.yaml").write_text(dump_config(config))
    (folder / "environment.json").write_text(json.dumps({"starts": [{"host": host}]}))
    rows = [{"step": s, "kimg": s * 0.032, "seconds": s * 0.5, "critic/loss": -1.0} for s in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if lock:
        (folder / ".lock").touch()
    if status:
        (folder / "status").write_text(f"{status}\n")
    for path in folder.iterdir():
        os.utime(path, (time.time() - age,) * 2)
    return folder


def ended(folder, status, why, again=False):
    (folder / "end.json").write_text(json.dumps({"status": status, "why": why, "again": again, "rank": 0}))
    return folder


def submitted(folder, job, total=1000):
    (folder / "slurm").mkdir(parents=True, exist_ok=True)
    (folder / "slurm" / "config.yaml").write_text(dump_config(load_config([TINY], [f"train.length={total} steps"])))
    History(folder).add_job(job=job, nodes="2", processes=4, script="x")
    return folder


def began(folder, job, restart=0, chain=None, seconds=1000.0):
    """`seconds` ago."""
    History(folder).add_start(
        chain=chain or job, job=job, restart=restart, nodes="n[1-2]", newest=None, time=ago(seconds)
    )


def job_ended(folder, job, following, restart=0, why="preempted by SIGUSR1"):
    History(folder).add_start(
        job=job, restart=restart, ended=ago(0), code=0, status="preempted", next=following, why=why
    )


# ---- real trainings ------------------------------------------------------------------------------------------------


def test_a_training_is_running_while_it_lives_and_stopped_once_it_is_killed(shapes_shards, tmp_path, listed, table):
    run = tmp_path / "runs" / "long"
    words = command("--config", TINY, f"data.shards={shapes_shards}", f"run_dir={run}", "train.length=5000 steps")
    quiet = {**options(), "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for name in ("capture_output", "timeout"):
        quiet.pop(name)
    training = subprocess.Popen(words, **quiet)
    try:
        limit = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or len(lines(run)) < 3:
            assert time.monotonic() < limit and training.poll() is None
            time.sleep(0.1)
        row = listed()["long"]
        assert (row["state"], row["why"], row["total"]) == ("running", None, 5000)
        assert row["step"] >= 3 and row["images_per_second"] > 1 and row["job"] is None
        last = lines(run)[-1]
        assert row["seconds_left"] == pytest.approx((5000 - last["step"]) * last["seconds"] / last["step"], rel=0.9)
    finally:
        training.send_signal(signal.SIGKILL)
        training.wait()
    assert listed()["long"]["state"] == "stopped"
    assert "ended without a word" in table()[1] and "killed" in table()[1]


def test_a_finished_and_a_failed_training(shapes_shards, tmp_path, listed, table):
    common = ("--config", TINY, f"data.shards={shapes_shards}")
    train(*common, "run_dir=runs/good", "train.length=3 steps", cwd=tmp_path)
    bad = ("run_dir=runs/bad", "critic.optimizer.lr=1e30", "generator.optimizer.lr=1e30")
    done = train(*common, *bad, "objective.penalty=none", check=False, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    rows = listed()
    assert list(rows) == ["bad", "good"]
    assert (rows["good"]["state"], rows["good"]["step"], rows["good"]["percent"]) == ("finished", 3, 100.0)
    assert rows["good"]["seconds_left"] is None and rows["good"]["problems"] == []
    assert rows["bad"]["state"] == "failed" and "not finite" in rows["bad"]["why"] and not rows["bad"]["again"]
    assert "not finite" in next(line for line in table() if "failed" in line)


def test_a_bad_config_leaves_no_run(tmp_path, capsys):
    train("--config", TINY, "run_dir=runs/none", "train.batch_size=0", check=False, cwd=tmp_path)
    assert cli.main(["runs"]) == 1
    assert capsys.readouterr().err.startswith("distgan: runs: no such folder; name a run")
    (tmp_path / "runs").mkdir()
    assert cli.main(["runs"]) == 1
    assert capsys.readouterr().err == "distgan: runs: no run there; name another folder: distgan runs FOLDER\n"


# ---- where runs are found ------------------------------------------------------------------------------------------


def test_runs_are_found_at_any_depth_once_and_not_in_runs_or_hidden_folders(tmp_path, listed):
    runs = tmp_path / "runs"
    a_run(runs / "one", "finished")
    a_run(runs / "grid" / "seed-2", "finished")
    a_run(runs / "grid" / "seed-10", "finished")
    a_run(runs / "one" / "checkpoints" / "inner", "finished")
    a_run(runs / ".old" / "hidden", "finished")
    submitted(runs / "waits", "5")
    (runs / "grid" / "slurm").mkdir()
    (runs / "grid" / "slurm" / "elements").write_text("seed-2\nseed-10\n")
    (runs / "grid" / "loop").symlink_to(runs)
    assert list(listed()) == ["seed-2", "seed-10", "one", "waits"]
    assert list(listed(runs, runs / "one", "runs/one")) == ["seed-2", "seed-10", "one", "waits"]
    assert list(listed(runs / "one")) == ["one"]
    (runs / "grid" / "loop").unlink()
    assert list(listed(runs / "grid")) == ["seed-2", "seed-10"]


def test_a_folder_that_is_not_there_is_told(tmp_path, capsys):
    a_run(tmp_path / "runs" / "one", "finished")
    assert cli.main(["runs", "runs", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("distgan: nowhere: no such folder")


# ---- progress ------------------------------------------------------------------------------------------------------


def test_progress_speed_and_time_left_are_those_of_the_last_lines(tmp_path, listed, table):
    run = a_run(tmp_path / "runs" / "one", "preempted", steps=100, total=1000)
    with open(run / "metrics.jsonl", "a") as file:  # twice as fast since
        for extra in range(1, 21):
            row = {"step": 100 + extra, "kimg": (100 + extra) * 0.032, "seconds": 50 + extra * 0.25}
            file.write(json.dumps(row) + "\n")
        file.write('{"step": 500, "kimg": 1')  # being written
    row = listed()["one"]
    assert (row["step"], row["total"], row["percent"]) == (120, 1000, 12.0)
    assert row["images_per_second"] == pytest.approx(128) and row["seconds_left"] == pytest.approx(880 * 0.25)
    assert table() == [
        "run       state          step   done  images/s     left",
        "runs/one  preempted  120/1000  12.0%       128  0:03:40",
    ]


@pytest.mark.parametrize(
    ("length", "steps"), [("20 steps", 20), ("3.2 kimg", 100), ("3.21 kimg", 101)], ids=["steps", "kimg", "rounded up"]
)
def test_the_total_is_that_of_the_config(tmp_path, listed, length, steps):
    run = a_run(tmp_path / "runs" / "one", "finished")
    text = (run / "config.yaml").read_text().replace("length: 1000 steps", f"length: {length}")
    (run / "config.yaml").write_text(text)
    assert listed()["one"]["total"] == steps
    lengthened = submitted(run, "7", total=5000)
    os.utime(lengthened / "slurm" / "config.yaml", (time.time() + 5,) * 2)
    assert listed()["one"]["total"] == 5000


def test_a_run_is_at_100_percent_when_all_is_done_and_not_before(tmp_path, listed):
    for name, steps in (("all", 3000), ("almost", 2999)):
        a_run(tmp_path / "runs" / name, "finished", steps, total=3000)
    assert [row["percent"] for row in listed().values()] == [100.0, 99.9]


def test_a_thousand_long_runs_are_read_in_a_moment(tmp_path, listed, queue):
    queue([])
    first = a_run(tmp_path / "runs" / "0", "finished", steps=1000)
    submitted(first, "1")
    config = (first / "config.yaml").read_text()
    for number in range(1, 1000):
        run = tmp_path / "runs" / str(number)
        (run / "slurm").mkdir(parents=True)
        (run / "config.yaml").write_text(config.replace("length: 1000 steps", f"length: {1000 + number} steps"))
        for name in ("status", "metrics.jsonl", "environment.json"):
            os.link(first / name, run / name)
        os.link(first / "slurm" / "jobs.jsonl", run / "slurm" / "jobs.jsonl")
    began_at = time.process_time()
    assert {row["total"] for row in listed().values()} == set(range(1000, 2000))
    assert time.process_time() - began_at < 4  # about 1.5 s, on a machine that is not busy
    assert len(queue.asked()) == 1


def test_only_the_tail_of_a_long_record_is_read(tmp_path, listed):
    run = a_run(tmp_path / "runs" / "one", "running", steps=5)
    tail = (run / "metrics.jsonl").read_bytes()
    with open(run / "metrics.jsonl", "wb") as file:
        file.truncate(1 << 40)  # a terabyte that takes no room
        file.seek(0, 2)
        file.write(b"\n" + tail)
    assert listed()["one"]["step"] == 5


# ---- state by files alone ------------------------------------------------------------------------------------------


def test_the_cause_of_a_failure_is_told(tmp_path, listed):
    ended(a_run(tmp_path / "runs" / "own", "failed", 3), "failed", "critic/loss is not finite at step 3")
    ended(a_run(tmp_path / "runs" / "outside", "failed", 3), "failed", "process 1 on b has gone", again=True)
    ended(a_run(tmp_path / "runs" / "full", None, 3), "failed", "no space left on device")
    ended(a_run(tmp_path / "runs" / "left", "preempted", 3), "preempted", "train.max_time")
    a_run(tmp_path / "runs" / "old", "failed", 3)
    rows = listed()
    assert [(rows[name]["state"], rows[name]["why"], rows[name]["again"]) for name in sorted(rows)] == [
        ("failed", "no space left on device", False),
        ("preempted", "train.max_time", None),
        ("failed", None, False),
        ("failed", "process 1 on b has gone", True),
        ("failed", "critic/loss is not finite at step 3", False),
    ]


@pytest.mark.parametrize(
    ("what", "state"),
    [
        ({"age": 30}, "running"),  # on another machine: a line half a minute ago
        ({"age": 30, "lock": False}, "running"),
        ({"age": 30, "host": platform.node()}, "stopped"),  # here, and nobody holds the lock
        ({"age": 30, "host": platform.node(), "lock": False}, "running"),  # here, and nothing is known of the lock
        ({"age": 3 * 3600}, "stopped"),
    ],
)
def test_a_run_that_says_running_and_holds_no_lock(tmp_path, listed, what, state):
    a_run(tmp_path / "runs" / "one", "running", 20, **what)
    row = listed()["one"]
    assert row["state"] == state
    assert ("so it seems" if state == "running" else "ended without a word") in row["why"]
    assert (what["age"] < 3600) == ("30 s ago" in row["why"] or "31 s ago" in row["why"])


def test_a_run_whose_lock_is_held_is_running_however_long_it_is_silent(tmp_path, listed):
    run = a_run(tmp_path / "runs" / "one", "running", 20, age=3 * 3600)
    with open(run / ".lock", "rb") as training:
        fcntl.flock(training, fcntl.LOCK_EX)
        row = listed()["one"]
    assert (row["state"], row["why"]) == ("running", "nothing heard for 3 h")


def test_lines_that_come_seldom_are_no_sign_of_an_end(tmp_path, listed):
    run = a_run(tmp_path / "runs" / "one", "running", 1, age=3 * 3600)
    rows = [{"step": s, "kimg": s, "seconds": s * 7200.0} for s in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.utime(run / "metrics.jsonl", (time.time() - 3 * 3600,) * 2)
    assert listed()["one"]["state"] == "running"


def test_a_look_at_a_run_keeps_no_training_out(tmp_path):
    run = a_run(tmp_path / "runs" / "one", "running", 20)
    with open(run / ".lock", "rb") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        over = threading.Timer(0.1, lambda: fcntl.flock(look, fcntl.LOCK_UN))
        over.start()
        training = RunFolder(run)
        training.lock()
        over.join()
    assert training.is_locked()


# ---- state by the queue --------------------------------------------------------------------------------------------


def test_jobs_that_wait_and_run_by_one_question(tmp_path, listed, queue, monkeypatch):
    runs = tmp_path / "runs"
    submitted(runs / "a", "17", total=300)
    submitted(runs / "b_0", "18_0")
    running = submitted(a_run(runs / "b_1", "running", 50), "18_1")
    began(running, "18_1")
    starting = submitted(runs / "c", "19")
    began(starting, "19", seconds=1)
    a_run(runs / "d", "finished", 1000)
    monkeypatch.setenv("SQUEUE_STATES", "CD")
    queue(
        [
            "17|PENDING|Resources|2031-01-02T03:04:05",
            "18_0|PENDING|Priority|N/A",
            "18_1|RUNNING|None|2031-01-02T03:04:05",
            "19|RUNNING|None|2031-01-02T03:04:05",
        ]
    )
    rows = listed()
    assert list(rows) == ["b_1", "c", "a", "b_0", "d"]
    assert (rows["a"]["state"], rows["a"]["job"], rows["a"]["total"], rows["a"]["step"]) == ("queued", "17", 300, 0)
    assert rows["a"]["why"] == "waiting (Resources), start expected 2031-01-02T03:04:05"
    assert rows["a"]["starts_at"] == "2031-01-02T03:04:05"
    assert (rows["b_0"]["state"], rows["b_0"]["why"]) == ("queued", "waiting (Priority)")
    assert (rows["b_1"]["state"], rows["b_1"]["why"], rows["b_1"]["nodes"]) == ("running", None, "n[1-2]")
    assert (rows["b_1"]["job"], rows["b_1"]["job_state"], rows["b_1"]["starts_at"]) == ("18_1", "RUNNING", None)
    assert (rows["c"]["state"], rows["c"]["why"]) == ("running", "starting")
    assert rows["d"]["job"] is None
    assert queue.asked() == ["standard  -h -r -o %i|%T|%r|%S --jobs=17,18,19"]


def test_requeued_runs_say_how_often(tmp_path, listed, table, queue):
    runs = tmp_path / "runs"
    waits = submitted(a_run(runs / "waits", "preempted", 50), "17")
    for restart in (0, 1):
        began(waits, "17", restart)
        job_ended(waits, "17", "requeued", restart)
    goes_on = submitted(a_run(runs / "goes-on", "running", 50), "18")
    began(goes_on, "18", 0)
    job_ended(goes_on, "18", "requeued")
    began(goes_on, "18", 1, seconds=10)
    continued = submitted(a_run(runs / "continued", "preempted", 50), "19")
    began(continued, "19")
    job_ended(continued, "19", "requeued")
    job_ended(continued, "19", "continued as 20")
    anew = submitted(a_run(runs / "anew", "preempted", 50), "3")
    began(anew, "3")
    submitted(anew, "21")
    queue(["17|PENDING|BeginTime|N/A", "18|RUNNING|None|N/A", "20|PENDING|Dependency|N/A", "21|PENDING|Priority|N/A"])
    rows = listed()
    assert [(r["state"], r["requeued"], r["job"], r["why"]) for r in rows.values()] == [
        ("running", 1, "18", None),
        ("queued", 0, "21", "waiting (Priority)"),
        ("requeued", 1, "20", "waiting (Dependency)"),
        ("requeued", 2, "17", "waiting (BeginTime)"),
    ]
    lines_ = table()
    assert lines_[0].split() == ["run", "state", "step", "done", "images/s", "left", "requeued", "job", "remark"]
    assert lines_[4].split() == "runs/waits requeued 50/1000 5.0% 64.0 0:07:55 2 17 waiting (BeginTime)".split()


def test_a_continuation_counts_as_the_same_run(tmp_path, listed, queue):
    run = submitted(a_run(tmp_path / "runs" / "one", "running", 50), "19")
    began(run, "19")
    job_ended(run, "19", "continued as 20")
    queue(["20|PENDING|Dependency|N/A", "19|RUNNING|None|N/A"])
    assert [(r["state"], r["requeued"], r["job"]) for r in listed().values()] == [("running", 0, "19")]
    began(run, "20", chain="19", seconds=5)
    queue(["20|RUNNING|None|N/A"])
    assert [(r["state"], r["requeued"], r["job"]) for r in listed().values()] == [("running", 1, "20")]


def test_a_job_that_is_gone_without_a_word(tmp_path, listed, queue):
    runs = tmp_path / "runs"
    killed = submitted(a_run(runs / "killed", "running", 50, age=20), "17")
    began(killed, "17")
    cancelled = submitted(a_run(runs / "cancelled-again", "preempted", 50), "18")
    ended(cancelled, "preempted", "SIGUSR1")
    began(cancelled, "18")
    job_ended(cancelled, "18", "requeued")
    submitted(runs / "never", "19")
    before = submitted(runs / "before", "20")
    began(before, "20")
    queue(["99|RUNNING|None|N/A"])
    rows = listed()
    assert rows["killed"]["state"] == "stopped" and "job 17 is no longer in the queue" in rows["killed"]["why"]
    assert rows["cancelled-again"]["state"] == "preempted"
    assert rows["cancelled-again"]["why"] == "SIGUSR1; job 18 is no longer in the queue"
    assert rows["never"]["state"] == "stopped" and "job 19 left the queue before it began" in rows["never"]["why"]
    assert rows["before"]["state"] == "stopped" and "before training began" in rows["before"]["why"]


def test_what_a_job_says_at_its_end_counts_until_a_later_start(tmp_path, listed, queue):
    queue([])
    no_progress = submitted(a_run(tmp_path / "runs" / "a", "preempted", 50), "17")
    began(no_progress, "17")
    job_ended(no_progress, "17", "no progress", why="preempted; no newer checkpoint since 3 starts again")
    unbegun = submitted(tmp_path / "runs" / "b", "18")
    began(unbegun, "18")
    job_ended(unbegun, "18", "failed", why="training did not begin; see the output of the nodes")
    rows = listed()
    assert (rows["a"]["state"], rows["b"]["state"]) == ("failed", "failed")
    assert "no newer checkpoint" in rows["a"]["why"] and "did not begin" in rows["b"]["why"]
    (no_progress / "status").write_text("preempted\n")
    os.utime(no_progress / "status", (time.time() + 300,) * 2)
    assert listed()["a"]["state"] == "preempted"


def test_a_job_that_is_about_to_end_or_hangs(tmp_path, listed, queue):
    done = submitted(a_run(tmp_path / "runs" / "done", "finished", 1000), "17")
    began(done, "17")
    hangs = submitted(a_run(tmp_path / "runs" / "hangs", "running", 50, age=3 * 3600), "18")
    began(hangs, "18", seconds=5 * 3600)
    again = submitted(a_run(tmp_path / "runs" / "again", "preempted", 50, age=500), "19")
    began(again, "19", seconds=2)
    held = submitted(a_run(tmp_path / "runs" / "held", "running", 50), "20")
    began(held, "20")
    queue(["17|RUNNING|None|N/A", "18|RUNNING|None|N/A", "19|RUNNING|None|N/A", "20|SUSPENDED|None|N/A"])
    rows = listed()
    assert (rows["done"]["state"], rows["done"]["why"]) == ("finished", "its job is about to end")
    assert (rows["hangs"]["state"], rows["hangs"]["why"]) == ("running", "nothing heard for 3 h")
    assert (rows["again"]["state"], rows["again"]["why"]) == ("running", "starting")
    assert (rows["held"]["state"], rows["held"]["why"]) == ("running", "its job is SUSPENDED")


def test_without_an_answer_of_slurm_the_files_speak(tmp_path, capsys, queue):
    submitted(tmp_path / "runs" / "waits", "17")
    goes_on = submitted(a_run(tmp_path / "runs" / "goes-on", "running", 50, age=20), "18")
    began(goes_on, "18")
    a_run(tmp_path / "runs" / "done", "finished", 1000)
    queue(None, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    assert cli.main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "distgan: squeue: slurm_load_jobs error: Unable to contact slurm controller (connect failure); "
        "what follows is by the files alone"
    ]
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [row[:2] for row in rows] == [
        ["runs/goes-on", "running"],
        ["runs/done", "finished"],
        ["runs/waits", "unclear"],
    ]
    assert "job 17 was submitted; whether it is in the queue is not known" in out


def test_a_job_that_slurm_has_forgotten_is_no_failure_of_slurm(tmp_path, listed, capsys, queue):
    submitted(tmp_path / "runs" / "one", "17")
    queue(None, "slurm_load_jobs error: Invalid job id specified")
    assert listed()["one"]["state"] == "stopped"
    assert capsys.readouterr().err == ""


def test_runs_without_jobs_ask_nothing_of_slurm(tmp_path, listed, queue):
    queue(["1|RUNNING|None|N/A"])
    a_run(tmp_path / "runs" / "one", "finished")
    assert listed()["one"]["state"] == "finished"
    assert queue.asked() == []


def test_a_machine_without_slurm(tmp_path):
    submitted(tmp_path / "runs" / "one", "17")
    done = subprocess.run(COMMAND, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PATH": "/nowhere"})
    assert done.returncode == 0 and "unclear" in done.stdout
    assert "squeue: no such command" in done.stderr and len(done.stderr.splitlines()) == 1


# ---- what is damaged, and how it looks -----------------------------------------------------------------------------


def test_damaged_and_foreign_folders_have_their_row(tmp_path, listed, queue):
    queue([])
    runs = tmp_path / "runs"
    a_run(runs / "good", "finished", 10)
    foreign = runs / "foreign"
    foreign.mkdir()
    (foreign / "config.yaml").write_text("hydra: {x: 1}\n")
    binary = a_run(runs / "binary", "finished")
    for name in ("config.yaml", "metrics.jsonl", "status", "end.json", "environment.json"):
        (binary / name).write_bytes(b"\xff\x00\xfe" * 20_000)
    folders = a_run(runs / "folders", lock=False)
    for name in ("config.yaml", "metrics.jsonl", "status", "end.json", "slurm/jobs.jsonl", "slurm/starts.jsonl"):
        (folders / name).unlink(missing_ok=True)
        (folders / name).mkdir(parents=True)
    odd = submitted(a_run(runs / "odd", "dancing", 10), "17")
    (odd / "slurm" / "jobs.jsonl").write_text('5\n{"job": ["x"]}\n{"job": "--help"}\n{"half')
    (odd / "slurm" / "starts.jsonl").write_text('[]\n{"job": {}, "ended": 5, "next": [], "chain": {}}\n')
    (odd / "metrics.jsonl").write_text('[1]\n{"step": "x", "kimg": 1, "seconds": 1}\n{"step": Infinity, "kimg": 1}\n')
    zeros = a_run(runs / "zeros", "finished", 10)
    with open(zeros / "metrics.jsonl", "ab") as file:  # as a power cut leaves it
        file.write(bytes(300))
    (runs / "dangling").mkdir()
    (runs / "dangling" / "config.yaml").symlink_to("/nowhere/config.yaml")
    rows = listed()
    assert (rows["good"]["state"], rows["good"]["problems"]) == ("finished", [])
    assert rows["foreign"]["state"] == "unclear"
    assert rows["foreign"]["problems"] == ["config.yaml: is not the config of a run"]
    assert rows["binary"]["state"] == "unclear" and len(rows["binary"]["problems"]) == 3
    assert any(p.startswith("config.yaml: cannot be read: Is a directory") for p in rows["folders"]["problems"])
    assert "slurm: cannot be read: Is a directory" in rows["folders"]["problems"]
    assert rows["odd"]["state"] == "stopped" or rows["odd"]["state"] == "unclear"
    assert "status: 'dancing' is none of running, finished, preempted, failed" in rows["odd"]["problems"]
    assert "metrics.jsonl: its end is damaged" in rows["odd"]["problems"] and rows["odd"]["step"] is None
    assert (rows["zeros"]["state"], rows["zeros"]["step"]) == ("finished", 10)
    assert rows["dangling"]["state"] == "unclear"


@pytest.mark.parametrize(
    "section",
    [
        "train: {length: 20 steps, batch_size: 16, critic_steps: 2, key_of_another_version: 3}\nseed: 0\n",
        "train:\n  # of a person\n  length: 20 steps\n\n  batch_size: 16\n",
        "seed: 0\ntrain: {length: 20 steps,\n  batch_size: 16}",
    ],
)
def test_configs_of_other_versions_and_hands_tell_the_total(tmp_path, listed, section):
    run = a_run(tmp_path / "runs" / "one", "finished")
    (run / "config.yaml").write_text(section)
    assert listed()["one"]["total"] == 20


def test_lines_are_cut_to_the_width_of_a_terminal_and_whole_elsewhere(tmp_path):
    why = "the disk\nis full \x1b[31m" + "and so on " * 30
    ended(a_run(tmp_path / "runs" / "one", "failed", 3), "failed", why)
    main, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": "70"}
    subprocess.run(COMMAND, stdout=terminal, cwd=tmp_path, env=environment, check=True, timeout=60)
    os.close(terminal)
    shown = os.read(main, 100_000).decode().splitlines()
    os.close(main)
    assert len(shown) == 2 and len(shown[1]) == 70 and shown[1].endswith("…") and "\x1b" not in shown[1]
    whole = subprocess.run(COMMAND, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60).stdout
    assert "the disk is full ?[31mand so on and so on" in whole and whole.endswith("and so on\n")


def test_the_list_is_made_without_torch(tmp_path):
    a_run(tmp_path / "runs" / "one", "finished", 3)
    code = (
        "import sys\nfrom distgan import cli\n"
        "print(cli.main(['runs']), {'torch', 'accelerate', 'webdataset'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] == "0 set()", done.stderr
