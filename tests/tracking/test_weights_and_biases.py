"""W&B as it is, without a network: what it writes is read back by its own tool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import wandb
from launching import TINY
from PIL import Image
from recorded import Pictures, recorder_of, tell
from wandb_records import history, lines, segments, summary

from distgan.checkpoint import Progress
from distgan.config.loading import load_config
from distgan.histogram import CELLS, EDGES
from distgan.recorder import _without_secret, _without_secrets
from distgan.run_folder import RunFolder
from distgan.tracking import pictures, wandb_files, wandb_process, weights_and_biases
from distgan.tracking.background import Background
from distgan.tracking.backlog import GRIDS
from distgan.tracking.wandb_files import Unreadable
from distgan.tracking.weights_and_biases import WandbSink, new_run_id

OFFLINE = "tracking.wandb.mode=offline"
COUNTS = [1, *[0] * (CELLS - 3), 2, 4]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run folder, and no account anywhere near."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    found = RunFolder(tmp_path / "run")
    found.create()
    return found


def begin(folder: RunFolder, progress: Progress, step: int, *more: str):
    """A start from `step`, whose recorder writes a line at each step and a grid at every second one."""
    progress.step, progress.images, progress.seconds = step, 32 * step, float(step)
    progress.lines = progress.last_line = step
    recorder, generator = recorder_of(folder.path, progress, overrides=[OFFLINE, *more])
    recorder.start(generator, Pictures(), "a run")
    return recorder, generator


def train(recorder, generator, *steps: int, **metrics) -> None:
    for step in steps:
        tell(recorder, step, **metrics)
        if step % 2 == 0:
            recorder.sample(step, generator)


def test_steps_that_a_resume_trains_again_are_not_given_again(folder):
    """A start that ends after its checkpoint, and one that goes back to a checkpoint of its own."""
    progress = Progress()
    recorder, generator = begin(folder, progress, 0)
    train(recorder, generator, *range(1, 58))
    recorder.close("failed")
    progress.wandb_id = None  # as after a kill before the first checkpoint
    more = ["seed=3", "tracking.wandb.notes=why", "tracking.wandb.tags=[a]", "tracking.wandb.job_type=trial"]
    recorder, generator = begin(folder, progress, 50, *more)
    train(recorder, generator, *range(51, 64), none=None)
    progress.step, progress.images, progress.seconds = 55, 32 * 55, 55.0
    recorder.rewind(55)
    train(recorder, generator, *range(56, 66))
    recorder.close("finished")

    written = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    rows = history(folder.path)
    assert written == list(range(1, 66)) == [row["step"] for row in lines(rows)]
    assert [row["critic/loss"] for row in lines(rows)] == [step / 3 for step in range(1, 66)]
    assert all("kimg" in row and "none" not in row for row in lines(rows))
    assert [row["step"] for row in rows if "samples.path" in row] == list(range(0, 65, 2))
    assert sum("reals.path" in row for row in rows) == 1
    assert [row["step"] for row in rows if "curves.path" in row] == [57, 65]

    first, last = map(summary, segments(folder.path))
    assert last["run_id"] == first["run_id"] == folder.wandb_id.read_text().strip()
    assert (last["state"], last["notes"], last["tags"]) == ("finished", "why", ["a"])
    assert first["state"] == "failed" and first["summary"]["status"] == "failed"
    environment = last["config"]["environment"]
    assert environment["world_size"] == 1 and (environment["git"] is None or len(environment["git"]["commit"]) == 40)
    assert last["summary"]["last"]["critic/loss"] == 65 / 3 and last["summary"]["status"] == "finished"
    assert last["summary"]["best"]["throughput/images_per_second"] == pytest.approx(32)


def test_a_trial_that_is_tracked_late_has_all_its_lines_and_no_secret_gets_out(folder, monkeypatch):
    key, url = "c0ffee" * 7, "https://me:hushhush@host/set/x-{0..3}.tar?X-Signature=hushhush"
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setattr(
        sys, "argv", ["train.py", f"data.shards={url}", f"data.shards=[{url},{url}]", f"[{url},pipe:curl -H hushhush x"]
    )
    progress = Progress()
    recorder, generator = begin(folder, progress, 0, "tracking.wandb.mode=off", f"data.shards={url}")
    train(recorder, generator, 1, 2, 3)
    recorder.close("preempted")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "trial1")  # as the agent of a sweep does
    recorder, generator = begin(folder, progress, 3, f"data.shards={url}")
    train(recorder, generator, 4)
    recorder.close("finished")
    rows = history(folder.path)
    assert [row["step"] for row in lines(rows)] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "samples.path" in row] == [0, 2, 4]
    (segment,) = segments(folder.path)
    assert segment.name == "run-trial1.wandb" and folder.wandb_id.read_text() == "trial1\n"
    assert b"sweep1" in segment.read_bytes()
    files = [path for path in folder.path.rglob("*") if path.is_file() and path != folder.config]
    text = b"".join(path.read_bytes() for path in files)
    assert key.encode() not in text and b"hushhush" not in text and b"https://host/set/x-" in text


def test_no_secret_of_a_url_reaches_weights_and_biases():
    url, seen = "https://me:word@host/set/x-{0..3}.tar?X-Signature=secret", "https://host/set/x-{0..3}.tar"
    config = load_config([TINY])
    for given, told in ((url, seen), (["data/here", url], ["data/here", seen])):
        update = {"shards": given, "holdout": given}
        changed = _without_secrets(config.model_copy(update={"data": config.data.model_copy(update=update)}))
        assert changed.data.shards == changed.data.holdout == told
    assert _without_secrets(config).data.holdout is None


def test_a_url_on_the_command_line_is_known_from_the_config(folder):
    url = "https://me:hush 'hush@host/x.tar?k=1"
    config = load_config([TINY])
    config = config.model_copy(update={"data": config.data.model_copy(update={"shards": ["data/here", url]})})
    assert _without_secret(f"data.shards=[data/here,{url}]", config) == "data.shards=[data/here,https://host/x.tar]"
    assert _without_secret("seed=3", config) == "seed=3"


def sink_of(folder: RunFolder, *more: str, step: int = 0) -> WandbSink:
    config = load_config([TINY], [f"run_dir={folder.path}", OFFLINE, *more])
    return WandbSink(config, folder, new_run_id(), step, {})


def test_the_seeds_of_a_config_share_a_group(folder):
    def group(*more: str) -> str:
        return sink_of(folder, *more)._order["init"]["group"]

    assert group() == group("seed=7") != group("objective.weight=1") and group("tracking.wandb.group=g") == "g"


CHILDREN = {
    "ends at once": "raise SystemExit",
    "refuses": 'print(\'{"problem": "Error: no"}\', flush=True)',
    "ends later": 'print(\'{"begun": true}\', flush=True); sys.stdin.readline(); print(\'{"problem": "E: no"}\')',
    "never answers": "import time; time.sleep(100)",
    "reads nothing": "print('{\"begun\": true}', flush=True); import time; time.sleep(100)",
}


@pytest.mark.parametrize("child", CHILDREN)
def test_whatever_its_process_does_the_run_goes_on(folder, tmp_path, monkeypatch, capfd, child):
    script = tmp_path / "child.py"
    script.write_text(f"import sys; sys.stdin.readline()\n{CHILDREN[child]}\n")
    monkeypatch.setattr(weights_and_biases, "_SCRIPT", script)
    monkeypatch.setattr("distgan.tracking.background.CLOSE_SECONDS", {"failed": 1.0})
    sink = sink_of(folder)
    view, began = Background("W&B", sink, "later"), time.monotonic()
    for step in range(1, 2000):
        view.metrics({"step": step, "seconds": 1.0, "filling": "x" * 100})
    assert time.monotonic() - began < 1
    view.close("failed")
    assert time.monotonic() - began < 4 and sink._process.wait(timeout=5) is not None
    errors = capfd.readouterr().err
    assert errors.count("distgan: W&B:") == 1 and "metrics.jsonl has everything, later" in errors


class TestFollower:
    """The part of the process that calls wandb, in this one."""

    class Run:
        def __init__(self, starting_step: int):
            self.starting_step, self.rows, self.artifacts, self.summary = starting_step, [], [], {}

        def log(self, row, step):
            self.rows.append((step, row))

        def log_artifact(self, artifact):
            self.artifacts.append(artifact)

        def define_metric(self, *arguments, **settings):
            pass

        def finish(self, exit_code):
            self.exit_code = exit_code

    @pytest.fixture
    def follow(self, folder, monkeypatch):
        def make(starting_step: int, step: int, **order):
            run = self.Run(starting_step)
            monkeypatch.setattr(wandb, "init", lambda **settings: run)
            whole = {**sink_of(folder, step=step)._order, **order}
            return wandb_process.Follower(whole), run

        return make

    def test_a_server_that_has_some_lines_gets_the_others(self, folder, follow):
        folder.metrics.write_text("".join(f'{{"step": {step}, "seconds": 1}}\n' for step in range(10, 100, 10)))
        for step in (20, 60):
            pictures.save(pictures.grid(torch.zeros(1, 3, 32, 32), 1), folder.sample(step))
        follower, run = follow(starting_step=51, step=80)
        follower.metrics({"step": 90, "seconds": 1})
        assert [step for step, _ in run.rows] == [60, 60, 70, 80, 90]
        assert [list(row) for step, row in run.rows if step == 60] == [["step", "seconds"], ["samples", "step"]]

    def test_what_the_files_have_is_not_given_again(self, folder, follow, monkeypatch):
        """Real pictures are in the oldest file; the newest has no raw grid, since its start was killed before that."""
        image = "image-file"
        files = {
            "1": [{"step": 0, "samples/raw._type": image, "reals._type": image}, {"step": 2, "seconds": 1}],
            "2": [
                {"step": 4, "seconds": 2},
                {"step": 4, "samples._type": image},
                {"step": 4, "samples/raw._type": image},
            ],
            "3": [{"step": 6, "seconds": 3}, {"step": 6, "samples._type": image}],
        }
        folder.metrics.write_text("".join(f'{{"step": {step}, "seconds": 1}}\n' for step in (2, 4, 6)))
        picture = pictures.grid(torch.zeros(1, 3, 32, 32), 1)
        for path in (
            folder.reals,
            folder.curves,
            *(folder.path / n / f"{s:08d}.png" for n in GRIDS for s in (0, 4, 6)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            pictures.save(picture, path)
        monkeypatch.setattr(wandb_files, "segments", lambda *_: list(files))
        monkeypatch.setattr(wandb_files, "rows", files.get)
        follower, run = follow(0, 6)
        assert [(step, *row) for step, row in run.rows] == [(6, "samples/raw", "step")]
        follower.close("finished")
        assert len(run.rows) == 1, "the row of step 6 is in a file of another start"
        follower, run = follow(0, 6)
        follower.metrics({"step": 7, "seconds": 4})
        follower.close("finished")
        assert [(step, *row) for step, row in run.rows[1:]] == [(7, "step", "seconds"), (7, "curves", "step")]

    def test_a_picture_that_is_too_large_is_left_out_and_the_lines_go_on(self, folder, follow, monkeypatch):
        for step, side in ((1, 32), (2, 128)):
            pictures.save(pictures.grid(torch.zeros(1, 3, side, side), 1), folder.sample(step))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
        follower, run = follow(0, 2)
        follower.metrics({"step": 3, "seconds": 1})
        assert [(step, *row) for step, row in run.rows] == [(1, "samples", "step"), (3, "step", "seconds")]

    def test_a_file_that_is_not_readable_is_named_with_the_way_out(self, folder, follow):
        order = sink_of(folder)._order
        segment = folder.path / "wandb" / f"offline-run-1-{order['run_id']}" / f"run-{order['run_id']}.wandb"
        segment.parent.mkdir(parents=True)
        segment.touch()  # of a start that was killed at once
        follow(0, 0, run_id=order["run_id"])
        segment.write_bytes(b"damaged" * 100)
        with pytest.raises(Unreadable, match=f"{segment.name}: .*; move its folder away, and the next start gives"):
            follow(0, 0, run_id=order["run_id"])

    def test_weights_of_whole_checkpoints_become_artifacts(self, folder, follow):
        for step in (10, 20, 30):
            path = folder.checkpoint(step)
            path.mkdir(parents=True)
            for name in ("generator.safetensors", "state.safetensors", *(["manifest.json"] if step < 30 else [])):
                (path / name).write_text(name)
        for asked, steps in (("none", []), ("last", [20]), ("all", [10, 20])):
            follower, run = follow(0, 0, checkpoints=asked)
            for step in (10, 30, 20):
                follower.checkpoint(str(folder.checkpoint(step)))
            follower.close("finished")
            assert [artifact.metadata["step"] for artifact in run.artifacts] == steps
            assert all(set(artifact.manifest.entries) == {"generator.safetensors"} for artifact in run.artifacts)
        assert run.exit_code == 0 and run.summary["status"] == "finished"

    def test_the_best_values_are_those_of_the_record(self, folder, follow):
        names = ("critic/wasserstein", "critic/penalty", "evaluate/fid", "throughput/images_per_second")
        values = {1: 4.0, 30: 5.0, 60: 3.0, 90: 4.0}
        ends_null = {
            1: {"critic/held_out_gap": 2.0},
            30: {"critic/held_out_gap": 3.0},
            60: {"critic/held_out_gap": None},
        }
        folder.metrics.write_text(
            "".join(
                json.dumps({"step": step, "seconds": 1, **dict.fromkeys(names, value), **ends_null.get(step, {})})
                + "\n"
                for step, value in values.items()
            )
        )
        follower, run = follow(0, 90, best=["critic/penalty", "highest"])
        follower.close("failed")
        assert run.summary["best"] == dict(zip(names[1:], (5.0, 3.0, 5.0), strict=True)), "a distance has no best"
        assert "critic/held_out_gap" not in run.summary["last"], "the older number is not the last one"
        assert run.summary["last"]["critic/wasserstein"] == 4.0 and run.exit_code == 1


STARTER = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdin.write(sys.stdin.buffer.read())
child.stdin.flush()
subprocess.Popen(["sleep", "30"], pass_fds=[child.stdin.fileno()], stdout=2)
print(child.pid, flush=True)
print(child.stdout.readline().decode(), flush=True)
time.sleep(60)
"""


def test_a_process_whose_trainer_was_killed_finishes_and_goes(folder):
    """Although a child of the trainer holds the other end of the pipe."""
    line = {"step": 1, "kimg": 0.1, "seconds": 1.0, "critic/loss": 2.0, "histogram": COUNTS}
    command = [sys.executable, "-c", STARTER, str(weights_and_biases._SCRIPT)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(
        b"".join(json.dumps(item).encode() + b"\n" for item in (sink_of(folder)._order, {"metrics": [line]}))
    )
    process.stdin.close()
    child = Path("/proc", process.stdout.readline().decode().strip())
    assert json.loads(process.stdout.readline()) == {"begun": True}
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while child.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not child.exists()
    found = summary(segments(folder.path)[0])["summary"]
    assert found["status"] == "stopped" and found["critic/loss"] == 2.0
    assert found["histogram"]["values"] == COUNTS and found["histogram"]["bins"][1:-1] == list(EDGES)
