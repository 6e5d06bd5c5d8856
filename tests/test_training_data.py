"""Whole trainings whose data is far away, or not as it should be."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import TINY, command, lines, options, train, worst_difference

sys.path.insert(0, str(Path(__file__).parent / "data"))
from flaky_server import FlakyServer  # noqa: E402

SHORT = ["train.length=24 steps", "train.precision=fp64", "checkpoint.every=4 steps", "data.classes=4"]
WINDOW = ["data.order=window", "data.window=2", "data.partitions=2", "data.holdout=40 images"]


def test_over_http_killed_and_resumed_on_another_world_size_it_is_the_calm_local_run(shapes_shards, tmp_path):
    pytest.importorskip("aiohttp", reason="remote shards need aiohttp: pip install 'distgan[http]'")
    common = ["--config", TINY, *SHORT, *WINDOW]
    train(*common, f"data.shards={shapes_shards}", f"run_dir={tmp_path / 'calm'}")
    faults = ("500", "cut", "short", "no_range")
    with FlakyServer(shapes_shards.parent, seed=5, chance=0.4, at_random=faults) as server:
        for name in ("index.json", "samples.npy"):
            server.always[f"shards/{name}"] = "ok"
        far = [
            f"data.shards={server.url('shards/')}",
            f"data.cache={tmp_path / 'cache'}",
            f"run_dir={tmp_path / 'far'}",
        ]
        piped = {**options(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        piped = {key: value for key, value in piped.items() if key not in ("capture_output", "timeout")}
        process = subprocess.Popen(command(*common, *far, processes=2), **piped)
        metrics, deadline = tmp_path / "far" / "metrics.jsonl", time.monotonic() + 120
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 6):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.01)
        workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        subprocess.run(["kill", "-9", str(process.pid), *workers], check=True)
        process.communicate()
        assert len(lines(tmp_path / "far")) < 24
        train(*common, *far)
        assert {seen.fault for seen in server.seen} & set(faults), "the server has not failed: the test shows nothing"
    assert [line["step"] for line in lines(tmp_path / "far")] == list(range(1, 25))
    assert worst_difference(tmp_path / "calm", tmp_path / "far") < 1e-9


def test_a_run_goes_on_with_copies_as_if_there_were_none(shapes_shards, tmp_path):
    common = ["--config", TINY, "data.tier=stream", f"data.shards={shapes_shards}", "checkpoint.every=2 steps"]
    train(*common, "train.length=8 steps", f"run_dir={tmp_path / 'calm'}")
    train(*common, "train.length=4 steps", f"run_dir={tmp_path / 'run'}")
    copies = ["data.stage=true", f"data.cache={tmp_path / 'disk'}"]
    done = train(*common, *copies, "train.length=8 steps", f"run_dir={tmp_path / 'run'}")
    assert f"copied into {tmp_path / 'disk'} first" in done.stderr + done.stdout
    assert worst_difference(tmp_path / "calm", tmp_path / "run") == 0
    assert len(list((tmp_path / "disk").glob("*.tar"))) == len(list(shapes_shards.glob("*.tar")))


def test_every_tier_gives_the_same_curve_to_the_bit(shapes_shards, tmp_path):
    for tier in ("stream", "memory", "device"):
        where = [f"data.shards={shapes_shards}", f"run_dir={tmp_path / tier}", f"data.tier={tier}"]
        train("--config", TINY, "train.length=6 steps", *where, processes=2 if tier == "memory" else None)
    assert worst_difference(tmp_path / "stream", tmp_path / "device") == 0
    assert worst_difference(tmp_path / "stream", tmp_path / "memory") < 1e-3  # another number of processes, fp32


@pytest.fixture
def spoiled(shapes_shards, tmp_path):
    """The shards with three pictures changed after they were indexed."""
    folder = tmp_path / "spoiled"
    shutil.copytree(shapes_shards, folder)
    for shard in sorted(folder.glob("*.tar"))[:3]:
        data = bytearray(shard.read_bytes())
        data[4000:4004] = bytes(byte ^ 255 for byte in data[4000:4004])
        shard.write_bytes(data)
    return folder


def test_bad_pictures_end_a_run_with_one_line_or_are_replaced_and_counted(spoiled, tmp_path):
    arguments = ["--config", TINY, "train.length=10 steps", f"data.shards={spoiled}"]
    done = train(*arguments, f"run_dir={tmp_path / 'fails'}", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "it has changed since it was indexed" in done.stderr and "data.bad_pictures: replace" in done.stderr
    replace = "data.bad_pictures=replace"
    train(*arguments, replace, f"run_dir={tmp_path / 'alone'}")
    train(*arguments, replace, f"run_dir={tmp_path / 'two'}", "data.tier=stream", processes=2)  # both meet all three
    assert worst_difference(tmp_path / "alone", tmp_path / "two") < 1e-3
    assert [run[-1]["data/replaced_pictures"] for run in (lines(tmp_path / "alone"), lines(tmp_path / "two"))] == [3, 3]
    done = train(*arguments, replace, "data.bad_limit=2", f"run_dir={tmp_path / 'many'}", processes=2, check=False)
    assert done.returncode != 0 and "more than data.bad_limit 2" in done.stderr


def test_resampled_shards_are_trained_on(shapes_shards, tmp_path):
    """No index is needed: webdataset's own pipeline."""
    folder = tmp_path / "plain"
    folder.mkdir()
    for shard in shapes_shards.glob("*.tar"):
        shutil.copy(shard, folder)
    where = [f"data.shards={folder}", f"run_dir={tmp_path / 'run'}"]
    done = train("--config", TINY, "train.length=3 steps", "data.order=resampled", *where, processes=2)
    assert len(lines(tmp_path / "run")) == 3 and "not exact" in done.stderr
    assert not (folder / "index.json").exists()
