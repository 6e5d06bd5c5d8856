"""What becomes of a job when a start of it is over."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distgan.run_folder import RunFolder
from distgan.slurm.history import History
from distgan.slurm.job import End, decide

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "distgan" / "slurm" / "job.py"


@pytest.mark.parametrize(
    "end, again, why",
    [
        (End(0, "finished", {}), False, "finished"),
        (End(137, "finished", {}, silent=True), False, "finished"),
        (End(1, "finished", {"status": "failed", "why": "no whole checkpoint"}), False, "no whole checkpoint"),
        (End(0, "preempted", {"why": "SIGUSR1"}), True, "preempted by SIGUSR1"),
        (End(0, "preempted", {"why": "train.max_time"}), True, "preempted by train.max_time"),
        (End(1, "failed", {"why": "process 2 was killed", "again": True}), True, "process 2 was killed"),
        (End(1, "failed", {"why": "critic/loss is not finite", "again": False}), False, "critic/loss is not finite"),
        (End(137, "failed", {"why": "critic/loss is not finite"}, silent=True), False, "critic/loss is not finite"),
        (End(1, "failed", {}), False, "the training has failed; see what it said"),
        (End(1, "running", {"why": "ValueError: x", "again": False}), False, "ValueError: x"),
        (End(137, "running", {}), True, "it was ended without a word"),
        (End(137, "running", {}, silent=True), True, "a node does not answer"),
        (End(137, None, {}, silent=True), True, "a node does not answer"),
        (End(1, None, {}, asked=True), True, "asked to stop before training began"),
        (End(1, None, {}), False, "training did not begin; see the output of the nodes"),
        (End(1, None, {}, complaints=("n2: PYTHON=x is not here",)), False, "n2: PYTHON=x is not here"),
    ],
)
def test_only_what_something_outside_has_ended_goes_on(end, again, why):
    decision = decide(end)
    assert (decision.again, decision.why) == (again, why)
    assert (decision.status == 0) == (again or why == "finished")


def test_a_run_that_is_brought_no_further_does_not_go_on():
    decision = decide(End(0, "preempted", {"why": "SIGTERM"}, fruitless=True))
    assert not decision.again and decision.status == 1
    assert decision.why == "preempted by SIGTERM; no newer checkpoint since 3 starts again, so not once more"


class Place:
    """A run folder and a Slurm of small scripts, whose calls are written down."""

    def __init__(self, folder: Path) -> None:
        self.run, self.bin, self.calls = RunFolder(folder / "run"), folder / "bin", folder / "calls"
        self.run.path.mkdir()
        self.bin.mkdir()
        self.history = History(self.run.path)
        self.history.path.mkdir()
        self.command("scontrol", "[ $1 = write ] && echo '#!/bin/bash' || exit 0")
        self.command("sbatch", "echo 18")

    def command(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.calls}\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def job(self, *words: str, restart: int = 0, **extra: str) -> subprocess.CompletedProcess:
        places = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "RUN_DIR": str(self.run.path),
            "SLURM_JOB_ID": "17",
            "SLURM_RESTART_COUNT": str(restart),
            "SLURM_JOB_NODELIST": "n[1-2]",
            **extra,
        }
        return subprocess.run(
            [sys.executable, JOB, *words], env={**os.environ, **places}, capture_output=True, text=True, timeout=60
        )

    def start(self, status: str | None, note: dict | None = None, **more) -> subprocess.CompletedProcess:
        """A whole start, of which the training says this."""
        self.job("begin", **more)
        if status is not None:
            self.run.write_status(status)
        if note is not None:
            self.run.end.write_text(json.dumps(note))
        return self.job("end", "0", str(self.history.path / ".ended"), **more)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_preempted_job_is_requeued_and_both_ends_are_kept(place):
    (place.run.checkpoints / "00000120").mkdir(parents=True)
    done = place.start("preempted", {"why": "SIGUSR1"}, restart=1)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "distgan: job 17: preempted by SIGUSR1: requeued\n"
    assert place.called() == ["scontrol requeue 17"]
    (start,) = place.history.starts()
    assert start | {"time": "", "ended": ""} == {
        "chain": "17",
        "job": "17",
        "restart": 1,
        "nodes": "n[1-2]",
        "newest": 120,
        "time": "",
        "ended": "",
        "code": 0,
        "status": "preempted",
        "next": "requeued",
        "why": "preempted by SIGUSR1",
    }


def test_an_element_of_an_array_is_requeued_without_the_others(place):
    array = {"SLURM_ARRAY_JOB_ID": "15", "SLURM_ARRAY_TASK_ID": "2"}
    place.start("preempted", **array)
    assert place.called() == ["scontrol requeue 15_2"]
    place.command("scontrol", "[ $1 = write ] && echo '#!/bin/bash' || { echo not allowed >&2; exit 1; }")
    place.start("preempted", restart=1, **array)
    assert [call.rpartition(" ")[0] for call in place.called()[-1:]] == [
        "sbatch --parsable --export=ALL --dependency=afterany:17 --array 2"
    ]
    assert place.history.starts()[-1]["next"] == "continued as 18_2"


def test_where_requeueing_is_forbidden_a_new_job_goes_on(place):
    place.command("scontrol", "[ $1 = write ] && echo '#!/bin/bash' || { echo not allowed >&2; exit 1; }")
    place.command("sbatch", f'echo "$DISTGAN_CHAIN ${{SLURM_JOB_ID:-}}" >>{place.calls}; echo "18;cluster"')
    done = place.start("preempted")
    assert done.returncode == 0, done.stderr
    assert place.called()[-1] == "17 "  # the chain goes on, and the old job's variables do not
    assert done.stderr.splitlines()[-1] == "distgan: job 17: scontrol: not allowed: continued as 18"
    assert place.history.starts()[-1]["next"] == "continued as 18"


def test_a_job_that_can_neither_be_requeued_nor_continued_fails(place):
    place.command("scontrol", "echo not allowed >&2; exit 1")
    done = place.start("preempted")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("scontrol: not allowed; scontrol: not allowed: failed")


def test_a_failure_of_its_own_is_not_requeued(place):
    done = place.start("failed", {"why": "step 7: critic/loss is not finite", "again": False})
    assert done.returncode == 1
    assert done.stderr == "distgan: job 17: step 7: critic/loss is not finite: failed\n"
    assert place.called() == []


def test_the_end_of_the_start_before_says_nothing_of_this_one(place):
    place.run.write_status("failed")
    place.run.note_end("failed", "of yesterday")
    done = place.start(None)
    assert "of yesterday" not in done.stderr and "training did not begin" in done.stderr


def test_after_three_requeues_without_a_newer_checkpoint_it_stops(place):
    for restart in range(3):
        assert place.start("preempted", restart=restart).returncode == 0
    done = place.start("preempted", restart=3)
    assert done.returncode == 1 and "no newer checkpoint since 3 starts again" in done.stderr
    assert place.called() == ["scontrol requeue 17"] * 3
    assert place.history.starts()[-1]["next"] == "no progress"


def test_progress_begins_the_count_again(place):
    for restart in range(8):
        (place.run.checkpoints / f"{restart // 2:08d}").mkdir(parents=True, exist_ok=True)
        assert place.start("preempted", restart=restart).returncode == 0


def test_requeues_by_slurm_itself_count_too(place):
    """A node that fails takes the batch script with it, so that no end is put down."""
    for restart in range(4):
        assert place.job("begin", restart=restart).returncode == 0
    done = place.job("begin", restart=4)
    assert done.returncode == 1 and "no newer checkpoint" in done.stderr
    other = place.job("begin", SLURM_JOB_ID="19")  # submitted again by a person
    assert other.returncode == 0, other.stderr


def test_a_full_disk_is_one_line(place):
    place.history.path.rmdir()
    place.history.path.write_text("in the way")
    done = place.job("begin")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "starts.jsonl: cannot be written" in done.stderr


def test_a_job_beside_a_training_in_its_folder_is_refused_and_changes_nothing(place):
    place.run.write_status("running")
    place.run.lock()
    quick = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from distgan.slurm import job; job._PATIENCE = 0.1"
    done = subprocess.run(
        [sys.executable, "-c", f"{quick}; sys.argv[1:] = ['begin']; sys.exit(job.main())"],
        env={**os.environ, "RUN_DIR": str(place.run.path), "SLURM_JOB_ID": "17"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "a training is running in it" in done.stderr
    assert place.run.read_status() == "running" and place.history.starts() == []


@pytest.mark.parametrize("first", ["asked", "ended"])
def test_a_stop_that_only_follows_from_a_failure_is_nobodys_wish(place, first):
    place.job("begin")
    ended, asked = place.history.path / ".ended", place.history.path / ".ended.asked"
    for mark, age in ((ended, 10 if first == "ended" else 5), (asked, 10 if first == "asked" else 5)):
        mark.touch()
        os.utime(mark, (time.time() - age,) * 2)
    done = place.job("end", "1", str(ended))
    assert (done.returncode == 0) == (first == "asked"), done.stderr
    assert ("requeued" in done.stderr) == (first == "asked") and not ended.exists() and not asked.exists()


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (
            "echo 'JobId=17 StartTime=2026-01-01T00:00:00 EndTime=2026-01-01T01:00:00 Deadline=N/A'",
            "2026-01-01T01:00:00",
        ),
        ("echo 'JobId=17 EndTime=Unknown Deadline=N/A'", None),
        ("exit 1", None),
    ],
)
def test_a_controller_that_does_not_answer_is_no_time_limit(place, answer, end):
    place.command("scontrol", answer)
    text = JOB.with_name("launch.sh").read_text()
    function = text[text.index("time_limit() {") :].partition("\n}\n")[0] + "\n}\ntime_limit"
    places = {**os.environ, "PATH": f"{place.bin}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    found = subprocess.run(["bash", "-c", function], env=places, capture_output=True, text=True, check=True).stdout
    assert int(found) == (99999999999 if end is None else int(time.mktime(time.strptime(end, "%Y-%m-%dT%H:%M:%S"))))
