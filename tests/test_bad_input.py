"""What a user can get wrong: one clear line, exit status 2 (or 1), no traceback, nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import ROOT, TINY, command, options, train

from distgan.data.prepare import prepare
from distgan.errors import RunFolderError
from distgan.run_folder import RunFolder


def refused(*arguments: str | Path, status: int = 2, **kwargs) -> str:
    done = train(*arguments, check=False, **kwargs)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def tiny(shapes_shards, tmp_path):
    return ["--config", str(TINY), f"data.shards={shapes_shards}", f"run_dir={tmp_path / 'run'}"]


def test_all_mistakes_of_a_config_are_told_at_once(tiny):
    errors = refused(*tiny, "train.batch_sise=3", "critic.width=wide", "objective.weight=-1", "critic.norm=batch")
    told = errors.strip().splitlines()
    assert len(told) == 4 and all(line.startswith("distgan: ") for line in told)
    assert "nearest: train.batch_size" in errors and "'wide' is not allowed; must be a whole number" in errors
    assert "objective.weight: -1" in errors and "use none, layer, instance or group" in errors


def test_shards_that_are_missing_or_empty_or_do_not_fit_are_named(tiny, shapes_shards, tmp_path):
    assert "nowhere" in refused(*tiny, f"data.shards={tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    assert "no shards" in refused(*tiny, f"data.shards={tmp_path / 'empty'}")
    assert "or data.fit: crop" in refused(*tiny, "data.resolution=64")
    errors = refused(*tiny, "data.resolution=64", "data.channels=1", "data.classes=7")
    assert all(key in errors for key in ("data.resolution", "data.channels", "data.classes"))
    assert "crop" not in errors, "which would not mend them all"
    broken = tmp_path / "broken"
    shutil.copytree(shapes_shards, broken)
    shard = sorted(broken.glob("*.tar"))[0]
    shard.write_bytes(shard.read_bytes()[:5000])
    assert shard.name in refused(*tiny, f"data.shards={broken}")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_more_lost_pictures_than_may_be_replaced_are_told_before_anything_is_trained(tiny, shapes_shards, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(shapes_shards, broken)
    os.truncate(first := sorted(broken.glob("*.tar"))[0], 512)
    words = [*tiny, f"data.shards={broken}", "data.bad_pictures=replace", "train.length=1 steps"]
    errors = refused(*words, "data.bad_limit=63")
    assert errors.count("\n") == 1 and f"distgan: {first}: the shard has 512 bytes" in errors
    told = (
        "64 of 256 pictures are lost, more than data.bad_limit 63; copy it again, or raise data.bad_limit to 64 or more"
    )
    assert told in errors and not (tmp_path / "run").exists()
    train(*words, "data.bad_limit=64")


def test_a_batch_that_the_processes_cannot_share_is_refused(tiny):
    done = train(*tiny, "train.batch_size=15", processes=2, check=False)
    assert done.returncode != 0
    assert done.stderr.count("15 images cannot be shared by 2 processes; use 14 or 16") == 1


def test_batch_norm_is_not_split_into_micro_batches(tiny):
    assert "generator.norm batch needs the statistics of the whole batch" in refused(*tiny, "train.micro_batch=4")


def test_a_launcher_that_started_fewer_processes_than_asked_is_noticed(tiny):
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    script = str(Path(TINY).parent.parent / "distgan" / "train.py")
    done = subprocess.run([*launch, "--mixed_precision", "no", script, *tiny], **options())
    assert done.returncode != 0 and "launch/cpu.yaml" in done.stderr


def test_cuda_without_a_device_is_refused(tiny):
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    assert "torch sees no CUDA device" in refused(*tiny, "train.device=cuda", env=hidden)


def test_a_run_folder_that_cannot_be_written_is_refused(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "run", "/proc/run"):
        errors = refused(*tiny, f"run_dir={place}", status=1)
        assert "cannot be written" in errors and errors.endswith("; choose another run_dir\n"), "room is not what lacks"


def test_a_run_folder_on_a_full_disk_is_left_as_it_was(tmp_path, monkeypatch):
    def full(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunFolderError, match="No space left on device; choose another run_dir or make room"):
        RunFolder(tmp_path / "run").create()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"samples", "checkpoints"}


def test_a_run_of_another_config_is_not_gone_on_with(tiny):
    train(*tiny, "train.length=1 steps")
    errors = refused(*tiny, "train.length=2 steps", "objective.weight=3", "seed=1")
    assert "objective.weight: 10.0 in the run, 3.0 now" in errors and "seed: 0 in the run, 1 now" in errors
    train(*tiny, "train.length=2 steps", "objective.weight=3", "--allow-config-change")


def test_a_picture_that_breaks_while_training_is_named(tiny, shapes_shards, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(shapes_shards, broken)
    for shard in broken.glob("*.tar"):
        shard.write_bytes(shard.read_bytes().replace(b"NUMPY", b"XXXXX").replace(b"\x18\x18\x18", b"\x18\x18\x19"))
    errors = refused(*tiny, f"data.shards={broken}")
    assert "it has changed since it was indexed" in errors and ".tar" in errors and ".npy" in errors
    assert (tmp_path / "run" / "status").read_text() == "failed\n"


def test_a_second_training_in_the_same_run_folder_is_refused(tiny, tmp_path):
    first = subprocess.Popen(
        command(*tiny, "train.length=2000 steps"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert first.poll() is None
            time.sleep(0.05)
        assert "a training is running in it" in refused(*tiny)
    finally:
        first.kill()
        first.wait()


def test_a_length_that_the_run_has_already_passed_is_refused(tiny, tmp_path):
    train(*tiny, "train.length=2 steps")
    told = f"distgan: train.length is 1 steps, and {tmp_path / 'run'} has 2 steps already; give a longer one, or"
    assert told in refused(*tiny, "train.length=1 steps")
    assert "length: 2 steps" in (tmp_path / "run" / "config.yaml").read_text()


def test_other_pictures_under_the_same_config_are_refused(tiny, tmp_path):
    train(*tiny, "train.length=1 steps")
    prepare("shapes", None, tmp_path / "others", resolution=32, count=300, workers=1)
    errors = refused(*tiny, "train.length=2 steps", f"data.shards={tmp_path / 'others'}")
    assert "was trained on other pictures" in errors


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_disk_is_told_in_one_line_and_leaves_no_half_checkpoint(tiny, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        words = [*tiny, f"run_dir={small / 'run'}", "checkpoint.every=2 steps", "generator.width=32"]
        hurried = "from distgan.checkpoint import writer; writer.LAST_SECONDS = 2.0; from distgan.train import main"
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; {hurried}; sys.exit(main())", *words], **options(cwd=ROOT)
        )
        errors = done.stderr
        assert done.returncode == 1 and "Traceback" not in errors
        assert "No space left on device" in errors and "make room and start again" in errors
        assert not list((small / "run" / "checkpoints").iterdir())
        status = small / "run" / "status"
        assert not status.exists() or status.read_text() == "failed\n"
    finally:
        subprocess.run(["umount", small], check=True)
