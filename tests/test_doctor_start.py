"""`distgan doctor --config FILE`: will this run start? Each fault has its row, and hides no other."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import in_processes
from launching import ROOT, TINY, run, train
from PIL import Image

from distgan import checkpoint
from distgan.cli import main
from distgan.config import load_config
from distgan.data.index import open_shards
from distgan.data.index_file import write_index
from distgan.data.prepare import prepare
from distgan.data.verify import targets_of
from distgan.doctor import checkup, disk, processes, room, shards, step_rows, steps
from distgan.doctor.checkup import check_start
from distgan.doctor.table import Finding, Table, amount, merged
from distgan.exit_status import LEFT_BEHIND
from distgan.objectives import critic as critic_module
from distgan.phases import Phases
from distgan.runtime import Runtime
from distgan.tracking import wandb_process

NETWORKS = (checkpoint.GENERATOR, checkpoint.GENERATOR_EMA, checkpoint.CRITIC)
ROW = re.compile(r"^(\w+) +(fine|NOT FINE|remark) +(.+(?:\n {20,}.+)*)", re.MULTILINE)
ALL = ["config", "processes", "code", "run_dir", "disk", "logging", "shards", "pictures", "epochs", "tier"]
STEP = ["memory", "step", "gradients"]


@pytest.fixture
def tiny(shapes_shards, tmp_path):
    return ["--config", str(TINY), f"data.shards={shapes_shards}", f"run_dir={tmp_path / 'run'}"]


def launched(*arguments: object, check: bool = True) -> subprocess.CompletedProcess:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ROOT / "launch" / "cpu.yaml"]
    words = [*launch, "--num_processes", 2, ROOT / "distgan" / "cli.py", "doctor", *arguments]
    return run([str(word) for word in words], check=check)


def table(printed: str) -> dict[str, tuple[str, str]]:
    """Verdict and text of each row."""
    return {what: (verdict, text) for what, verdict, text in ROW.findall(printed)}


def ill(capsys, arguments: list[str], *, but: str, status: int = 1) -> str:
    """The text of the one row that is not fine; all others are there, and fine."""
    assert main(["doctor", *arguments]) == status
    printed = capsys.readouterr().out
    rows = table(printed)
    assert {what for what, (verdict, _) in rows.items() if verdict == "NOT FINE"} == {but}, printed
    assert set(rows) | {but} >= {*ALL, *STEP} - ({"step", "gradients"} if but in STEP else {"epochs", "tier"}), printed
    assert printed.splitlines()[-1].startswith(f"NOT FINE: {but}; looked at in ")
    return rows[but][1]


def contents(folder: Path) -> dict[str, tuple]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in (folder, *folder.rglob("*"))
    }


def copied(shapes_shards: Path, tmp_path: Path) -> tuple[Path, list[Path]]:
    folder = tmp_path / "shards"
    shutil.copytree(shapes_shards, folder)
    return folder, sorted(folder.glob("*.tar"))


def change(folder: Path, picture: int) -> None:
    """Changes a byte of a picture, by its number in the index."""
    row = np.load(folder / "samples.npy")[picture]
    path, at = sorted(folder.glob("*.tar"))[row["shard"]], int(row["offset"] + row["size"] // 2)
    content = bytearray(path.read_bytes())
    content[at] ^= 255
    path.write_bytes(content)


def test_a_healthy_run_is_all_fine_and_leaves_nothing_behind(tiny, capsys, tmp_path):
    assert main(["doctor", *tiny]) == 0
    printed = capsys.readouterr().out
    rows = table(printed)
    assert list(rows) == [*ALL, *STEP] and {verdict for verdict, _ in rows.values()} == {"fine"}
    assert "256 pictures in 4 shards, 32 x 32 x 3" in rows["shards"][1]
    assert "first and last of 4 shards read: 8 raw, all sound" in rows["pictures"][1]
    assert "each of 256 pictures 2.5 times" in rows["epochs"][1]
    assert re.search(r"[\d.]+ s, \d+ images/s \(the first took", rows["step"][1])
    assert printed.splitlines()[-1].startswith("all fine; ")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_print_one_table(tiny, tmp_path):
    done = launched(*tiny, "data.classes=4", "train.micro_batch=4", "generator.norm=layer")
    rows = table(done.stdout)
    assert list(rows) == [*ALL, *STEP] and {verdict for verdict, _ in rows.values()} == {"fine"}, done.stdout
    assert len(ROW.findall(done.stdout)) == len(rows)
    assert rows["processes"][1].startswith("2 on ") and "batch 16, 8 on each process, 4 at a time" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_fault_ends_all_processes_with_its_row_and_without_a_trace(tiny, tmp_path):
    (tmp_path / "run").write_text("")
    done = launched(*tiny, check=False)
    rows = table(done.stdout)
    assert done.returncode == 1 and rows["run_dir"] == (
        "NOT FINE",
        f"{tmp_path / 'run'}: cannot be written: Not a directory; choose another run_dir",
    )
    assert rows["gradients"][0] == "fine" and "distgan/" not in done.stderr.replace("distgan/cli.py", "")


def test_batches_that_cannot_be_shared_and_mistakes_are_status_2(tiny, capsys, monkeypatch):
    assert main(["doctor", *tiny, "train.batch_sise=3", "critic.width=wide"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 2
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr("distgan.cli.leave", lambda status, orderly: status)
    assert main(["doctor", *tiny]) == 2
    assert "16 images cannot be shared by 3 processes" in capsys.readouterr().err


def test_a_device_that_is_not_there_leaves_all_but_the_step_to_be_looked_at(tiny, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["doctor", *tiny, "train.device=cuda"]) == 1
    rows = table(capsys.readouterr().out)
    assert rows["config"] == ("NOT FINE", "train.device: cuda, and torch sees no CUDA device here; use auto or cpu")
    assert rows["pictures"][0] == "fine" and rows["step"] == ("remark", "not tried with this config")


def test_a_run_is_gone_on_with_unless_its_config_has_changed(tiny, capsys, tmp_path):
    train(*tiny, "train.length=2 steps", "checkpoint.every=1 steps")
    before = contents(tmp_path / "run")
    assert main(["doctor", *tiny]) == 0
    assert table(capsys.readouterr().out)["run_dir"][1] == f"{tmp_path / 'run'} goes on from step 2 to 20"
    text = ill(capsys, [*tiny, "objective.weight=3", "seed=1"], but="run_dir")
    assert "objective.weight: 10.0 in the run, 3.0 now" in text and "seed: 0 in the run, 1 now" in text
    assert "has 2 steps already" in ill(capsys, [*tiny, "train.length=1 steps"], but="run_dir")
    assert main(["doctor", *tiny, "train.length=2 steps"]) == 0
    assert table(capsys.readouterr().out)["run_dir"][0] == "remark"
    assert contents(tmp_path / "run") == before
    (tmp_path / "run" / "checkpoints" / "00000002" / "critic.safetensors").write_bytes(b"")
    assert main(["doctor", *tiny]) == 0
    verdict, text = table(capsys.readouterr().out)["run_dir"]
    assert verdict == "remark" and "goes on from step 1 to 20" in text and "critic.safetensors: damaged" in text


def test_a_running_training_is_told_of(tiny, capsys, tmp_path):
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "a training is running in it" in ill(capsys, tiny, but="run_dir")
    assert main(["doctor", *tiny]) == 0


@pytest.mark.parametrize("name", ["run", "run/checkpoints", "run/samples"])
def test_a_file_in_the_way_of_the_folders_is_told_of(tiny, capsys, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    assert f"{tmp_path / name}: cannot be written: Not a directory" in ill(capsys, tiny, but="run_dir")


def test_too_little_room_is_told_in_numbers(tiny, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage(10**9, 10**9, 400_000))
    text = ill(capsys, [*tiny, "checkpoint.every=1 steps"], but="disk")
    assert re.match(r"4 checkpoints of \d+ kB are [\d.]+ MB, samples at most 98 kB; 400 kB are free; make room", text)
    assert "lower checkpoint.keep (3)" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_disk_is_told_of(tiny, capsys, tmp_path):
    (small := tmp_path / "small").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        assert "102 kB are free" in ill(capsys, [*tiny, f"run_dir={small / 'run'}"], but="disk")
        (small / "all").write_bytes(bytes(100 * 1024))
        assert main(["doctor", *tiny, f"run_dir={small / 'run'}"]) == 1
        rows = table(capsys.readouterr().out)
        assert "No space left on device" in rows["run_dir"][1] and rows["disk"][0] == "NOT FINE"
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["train.precision=fp64", "generator.norm=layer"],
        ["critic.optimizer={name: rmsprop}", "data.classes=4", "train.ema_kimg=0"],
        ["generator={name: mlp}", "critic={name: mlp, norm: layer}"],
    ],
)
def test_the_size_of_a_checkpoint_is_what_one_takes(tmp_path, settings):
    config = load_config([TINY], settings)
    taken = steps.Steps(config, Runtime(config))
    taken.take(0)
    networks = dict(zip(NETWORKS, (taken.generator, taken.average.network, taken.critic), strict=True))
    optimizers = {phase.name: phase.optimizer for phase in taken.phases}
    checkpoint.save(tmp_path / "1", checkpoint.TrainState(networks, optimizers, checkpoint.Progress()), {})
    written = sum(path.stat().st_size for path in (tmp_path / "1").iterdir())
    assert abs(disk.checkpoint_bytes(config) - written) <= 0.02 * written + 4096


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (["checkpoint.every=1 steps"], 4),
        (["checkpoint.every=10 steps"], 2),
        (["checkpoint.every=1 steps", "checkpoint.keep=5", "checkpoint.best=critic/loss"], 7),
        (["checkpoint.every=1 steps", "checkpoint.keep_every=6 steps"], 8),
        (["checkpoint.every=1 s", "checkpoint.keep=30"], 31),
    ],
)
def test_all_checkpoints_that_there_can_be_are_counted(settings, count):
    assert disk.checkpoints_at_once(load_config([TINY], settings)) == count


def test_every_bad_shard_is_named(tiny, capsys, shapes_shards, tmp_path):
    folder, tars = copied(shapes_shards, tmp_path)
    change(folder, -1)
    tars[0].write_bytes(tars[0].read_bytes()[:5000])
    tars[2].unlink()
    assert main(["doctor", *tiny, f"data.shards={folder}"]) == 1
    printed = capsys.readouterr()
    rows = table(printed.out)
    assert {what for what, (verdict, _) in rows.items() if verdict == "NOT FINE"} == {"shards", "pictures"}
    text = rows["pictures"][1]
    assert "read: 3 bad" in text and tars[1].name not in text and rows["gradients"][0] == "fine"
    assert f"{tars[0]}: the shard has 5000 bytes" in text and f"{tars[2]}: cannot be read: No such file" in text
    assert re.search(rf"{tars[3]}: \d+\.\w+: ", text) and printed.err == ""


def test_what_training_replaces_is_a_remark_as_far_as_its_limit(tiny, capsys, shapes_shards, tmp_path):
    folder, tars = copied(shapes_shards, tmp_path)
    words = [*tiny, f"data.shards={folder}", "data.bad_pictures=replace"]
    change(folder, 64)
    tars[0].write_bytes(tars[0].read_bytes()[:-20000])
    lost = count_lost(folder)
    assert 1 < lost < 64 and main(["doctor", *words, f"data.bad_limit={lost + 1}"]) == 0
    verdict, text = table(capsys.readouterr().out)["pictures"]
    assert (
        verdict == "remark" and f"read: 2 bad; training takes others for them, {lost + 1} pictures so far, of" in text
    )
    assert f"{lost + 1} pictures are bad, more than data.bad_limit {lost}; " in ill(
        capsys, [*words, f"data.bad_limit={lost}"], but="pictures"
    )
    assert main(["doctor", *words, f"data.bad_limit={lost - 1}"]) == 1
    rows = table(capsys.readouterr().out)
    told = (
        f"{lost} of 256 pictures are lost, more than data.bad_limit {lost - 1}; copy it again, or raise data.bad_limit"
    )
    assert rows["shards"][0] == "NOT FINE" and told in rows["shards"][1] and "remark" not in rows["pictures"][0]
    held_out = [f"data.bad_limit={lost - 1}", f"data.holdout={tars[0].name}"]
    assert main(["doctor", *words, *held_out]) == 0, "nothing of it is trained on"


def count_lost(folder: Path) -> int:
    rows, size = np.load(folder / "samples.npy"), min(path.stat().st_size for path in folder.glob("*.tar"))
    return int(((rows["shard"] == 0) & (rows["offset"].astype(int) + rows["size"] > size)).sum())


def test_all_pictures_are_read_with_the_verdict_of_training(tiny, capsys, shapes_shards, tmp_path):
    folder, tars = copied(shapes_shards, tmp_path)
    words = ["doctor", "--data", *tiny, f"data.shards={folder}"]
    change(folder, 64)
    change(folder, 70)
    assert main(words) == 1
    assert main([*words, "data.bad_pictures=replace"]) == 0
    assert "3; training takes others for them, 2 pictures so far, of data.bad_limit 100" in capsys.readouterr().out
    assert main([*words, "data.bad_pictures=replace", "data.bad_limit=1"]) == 1
    assert "2 pictures are bad, more than data.bad_limit 1; raise it" in capsys.readouterr().out
    tars[2].unlink()
    assert main([*words, "data.bad_pictures=replace"]) == 0, "64 more"
    told = capsys.readouterr()
    assert "66 pictures so far" in told.out and "would refuse" not in told.err


def test_damage_that_leaves_the_size_is_found_at_both_ends(tiny, capsys, shapes_shards, tmp_path):
    folder, tars = copied(shapes_shards, tmp_path)
    change(folder, 64)
    change(folder, 127)
    change(folder, 130)  # between, which `--data` would find
    text = ill(capsys, [*tiny, f"data.shards={folder}"], but="pictures")
    assert re.search(rf"2 bad.*\n.*{tars[1].name}: 00000064\.\w+: .*\n.*{tars[1].name}: 00000127\.\w+: ", text)


def test_a_picture_that_the_index_does_not_count_is_named(tiny, capsys, tmp_path):
    folder = tmp_path / "shards"
    prepare("shapes", None, folder, resolution=32, count=32, shard_size=16, workers=1)
    head, samples = json.loads((folder / "index.json").read_text()), np.load(folder / "samples.npy")
    head["shards"][1]["samples"] -= 1
    head["count"] -= 1
    write_index(folder, head, head["shards"], samples[:-1])
    assert "00000031." in ill(capsys, [*tiny, f"data.shards={folder}"], but="pictures")


def test_shards_of_another_kind_are_refused_in_their_row(tiny, capsys):
    text = ill(capsys, [*tiny, "data.resolution=64", "data.channels=1"], but="shards")
    assert "data.resolution is 64 but the shards have 32" in text and "data.channels is 1" in text


def test_shards_that_are_nowhere_hide_nothing_else(tiny, capsys, tmp_path):
    assert main(["doctor", *tiny, f"data.shards={tmp_path / 'nowhere'}"]) == 1
    rows = table(capsys.readouterr().out)
    assert rows["shards"][0] == "NOT FINE" and "no such folder" in rows["shards"][1]
    assert all(rows[what][0] == "fine" for what in ("run_dir", "disk", *STEP))


def test_of_many_remote_shards_some_are_looked_at(shapes_shards, monkeypatch):
    opened = open_shards(shapes_shards)
    target = targets_of(opened).shards[0]
    far = target._replace(shard=dataclasses.replace(target.shard, place="https://x/a.tar"))
    many = targets_of(opened)._replace(shards=[far] * 1000)
    assert len(shards._some(many).shards) == 64
    monkeypatch.setattr(shards, "REMOTE_BYTES", 5 * target.shard.bytes)
    assert len(shards._some(many).shards) == 5
    near = many._replace(shards=[target] * 1000)
    assert len(shards._some(near).shards) == 1000


def test_resampled_shards_are_looked_at_without_an_index(tiny, capsys, shapes_shards, tmp_path):
    folder, tars = copied(shapes_shards, tmp_path)
    words = [*tiny, f"data.shards={folder}", "data.order=resampled"]
    assert main(["doctor", *words]) == 0
    assert "the first picture of 4 of 4 shards read, all sound" in capsys.readouterr().out
    tars[1].write_bytes(b"no tar" * 1000)
    text = ill(capsys, words, but="pictures")
    assert "1 bad" in text and f"{tars[1]}: not a tar" in text
    assert main(["doctor", *words, "data.bad_pictures=replace"]) == 0
    assert table(capsys.readouterr().out)["pictures"][0] == "remark"


def test_more_images_in_a_batch_than_there_are_is_a_remark(tiny, capsys, tmp_path):
    prepare("shapes", None, tmp_path / "few", resolution=32, count=8, workers=1)
    assert main(["doctor", *tiny, f"data.shards={tmp_path / 'few'}"]) == 0
    verdict, text = table(capsys.readouterr().out)["epochs"]
    assert verdict == "remark" and "a batch of 16 is more than there are" in text


def test_a_key_for_wandb_is_asked_for_only_online(tiny, capsys, monkeypatch):
    monkeypatch.setattr(wandb_process, "has_key", lambda: False)
    assert main(["doctor", *tiny, "tracking.wandb.mode=offline"]) == 0
    capsys.readouterr()
    assert "run `wandb login`" in ill(capsys, [*tiny, "tracking.wandb.mode=online"], but="logging")
    monkeypatch.setattr(wandb_process, "has_key", lambda: [].pop())
    assert "go on offline: IndexError: pop from empty" in ill(
        capsys, [*tiny, "tracking.wandb.mode=online"], but="logging"
    )
    monkeypatch.setattr(wandb_process, "has_key", lambda: True)
    assert main(["doctor", *tiny, "tracking.wandb.mode=online"]) == 0


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("x: can't allocate memory: you tried")]
)
def test_too_little_memory_is_a_row_with_the_way_out(tiny, capsys, monkeypatch, error):
    def fails(self, *arguments):
        raise error

    monkeypatch.setattr(Phases, "gradients", fails)
    assert "a smaller train.batch_size" in ill(capsys, tiny, but="memory"), "batch norm cannot be split"
    text = ill(capsys, [*tiny, "generator.norm=layer", "train.micro_batch=12"], but="memory")
    assert "set train.micro_batch: 6, which changes nothing" in text and "memory" in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            ["train.batch_size=4000000", "generator.norm=layer"],
            r"a step takes \d+ GB at least, \d+ kB of it for the networks, .*; use a smaller train.batch_size or more",
        ),
        (
            ["train.batch_size=1000000", "generator.norm=layer"],
            r"a step takes \d+ GB at least, .*; set train.micro_batch: \d+, which changes nothing",
        ),
        (
            ["generator.width=16384", "generator.latent=8192"],
            r"a step takes \d+ GB at least, \d+ GB of .*; use narrower",
        ),
    ],
)
def test_a_step_that_cannot_fit_is_told_and_not_tried(tiny, capsys, monkeypatch, settings, text):
    monkeypatch.setattr(steps, "available_memory", lambda: 16 * 10**9)
    monkeypatch.setattr(steps, "_take", lambda *_: pytest.fail("it would take all memory"))
    assert main(["doctor", *tiny, *settings]) == 1
    printed = capsys.readouterr().out
    rows = table(printed)
    assert re.match(text, rows["memory"][1]), printed
    assert rows["memory"][0] == "NOT FINE" and rows["step"] == ("remark", "not tried, as it cannot fit")


MEASURED = """
import sys
from distgan.config import load_config
from distgan.data.memory import taken_memory
from distgan.doctor.room import least
from distgan.doctor.steps import Steps
from distgan.runtime import Runtime
config = load_config(sys.argv[1:2], sys.argv[2:])
steps = Steps(config, Runtime(config))
before, _ = taken_memory()
steps.take(0)
_, peak = taken_memory()
print((peak - before) / (config.train.batch_size * least(config, 1, eager=True).image))
"""


@pytest.mark.parametrize(
    "settings",
    [
        ["train.batch_size=1500", "critic.width=16"],
        ["train.batch_size=300", "generator={name: resnet, width: 16}", "critic={name: resnet, width: 16}"],
    ],
)
def test_what_a_step_takes_at_the_least_is_no_more_than_it_takes_and_not_far_from_it(settings):
    done = run([sys.executable, "-c", MEASURED, str(TINY), "train.critic_steps=1", *settings], cwd=ROOT)
    assert 1 < float(done.stdout) < 4


def test_the_least_is_known_for_every_family(tmp_path):
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        config = load_config([path])
        assert 0 < room.least(config, 1, eager=False).image <= room.least(config, 1, eager=True).image
    many = load_config([TINY], ["data.classes=4", "critic.dropout=0.2", "critic.minibatch_std=4"])
    found = room.least(many, 2, eager=True)
    assert found.of(3) == found.networks + found.batch + 3 * found.image and found.batch == 8 * 3 * 32 * 32 * 5


def test_a_step_that_may_fit_and_does_not_kills_nobody(tiny, capsys, monkeypatch):
    monkeypatch.setattr(steps, "available_memory", lambda: 10**8)
    monkeypatch.setattr(checkup, "check_room", lambda *_: [])
    text = ill(capsys, [*tiny, "train.batch_size=4096", "generator.norm=layer"], but="memory")
    assert "too little memory for a step; set train.micro_batch: 2048" in text


STUCK = """
import sys
from distgan.cli import main
from distgan.doctor import steps
steps.PATIENCE = 0.5
sys.exit(main(["doctor", *sys.argv[1:]]))
"""


def test_a_step_in_the_middle_of_which_the_doctor_leaves_spoils_no_exit_status(tiny):
    words = [*tiny, "train.batch_size=2048", "critic.width=64"]
    done = run([sys.executable, "-c", STUCK, *words], cwd=ROOT)
    assert "no end after 0.5 s" in done.stdout and done.stderr == ""


def test_a_step_that_takes_long_is_told_and_given_up(tiny, capsys, monkeypatch):
    monkeypatch.setattr(steps, "TOLD", 0.1)
    monkeypatch.setattr(steps, "PATIENCE", 0.5)
    monkeypatch.setattr(steps, "_measure", lambda *_: time.sleep(2))
    monkeypatch.setattr("distgan.cli.leave", lambda status, orderly: status)
    assert main(["doctor", *tiny]) == 0
    next(thread for thread in threading.enumerate() if thread.name == LEFT_BEHIND).join()
    told = capsys.readouterr()
    assert told.err == "trying a step of training, which takes its time\n"
    text = "no end after 0.5 s: a step takes long here, and how long is not known"
    assert table(told.out)["step"] == ("remark", text) and "memory" not in table(told.out)


def test_a_time_that_leaves_none_to_train_is_a_remark(tiny, capsys, monkeypatch):
    assert main(["doctor", *tiny, "train.max_time=23 h"]) == 0
    assert "max_time" not in table(capsys.readouterr().out)
    assert main(["doctor", *tiny, "train.max_time=59 s"]) == 0
    verdict, text = table(capsys.readouterr().out)["max_time"]
    assert verdict == "remark" and text.startswith("train.max_time 59 s is short: a start takes about")
    taken = steps.Outcome(seconds=[100.0, 90.0])
    short, long = (load_config([TINY], [f"train.max_time={limit}"]) for limit in ("5 min", "6 min"))
    assert list(step_rows.time_rows(short, [taken], 5.0)) and not list(step_rows.time_rows(long, [taken], 5.0))


def test_any_other_failure_of_a_step_is_a_row(tiny, capsys, monkeypatch):
    monkeypatch.setattr(Phases, "apply", lambda self, *arguments: 1 / 0)
    assert main(["doctor", *tiny]) == 1
    printed = capsys.readouterr()
    assert table(printed.out)["step"] == ("NOT FINE", "ZeroDivisionError: division by zero")
    assert "Traceback" in printed.err, "a defect of ours"


def test_gradients_that_are_not_finite_are_named(tiny, capsys, monkeypatch):
    norms = critic_module.image_norms
    monkeypatch.setattr(critic_module, "image_norms", lambda g: norms(g) * float("nan"))
    text = ill(capsys, tiny, but="gradients")
    assert re.match(r"not finite after a step: critic \S+, critic \S+, critic \S+ and \d+ more; try ", text)


def verdict_of(rank: int, fault: str, overrides: list[str]) -> tuple[int, list[Finding]]:
    """Status and rows of a process, with a fault of process 1 alone."""
    if rank == 1 and fault == "code":
        processes.code_hash = lambda: "another"
    if rank == 1 and fault == "memory":
        Phases.gradients = out_of_memory
    if rank == 1 and fault == "config":
        overrides = [*overrides, "objective.weight=3"]
    if rank == 1 and fault == "stuck":
        Runtime.images = never
    kept, real = [], Table.add

    def add(self, rows):
        kept.extend(rows)
        real(self, rows)

    Table.add = add
    return check_start(load_config([TINY], overrides), "here", time.perf_counter()), kept


def out_of_memory(self, *arguments):
    raise torch.OutOfMemoryError("no more")


def never(self, pixels):
    time.sleep(1000)


@pytest.mark.parametrize(
    ("fault", "row", "text"),
    [
        ("code", "code", r"hash of the sources differs: \w+ on process 0 on \S+, another on process 1 on \S+; "),
        ("memory", "memory", r"process 1 on \S+: too little memory for a step; use more processes"),
        ("config", "config", r"the processes have different configs.*\nobjective.weight: 10.0 on process 0, 3.0 on"),
        ("stuck", "step", r"process(es 0,)? 1 on \S+: no end after train.stuck_after 2 s"),
    ],
)
def test_the_fault_of_one_process_is_named_by_all(shapes_shards, tmp_path, monkeypatch, fault, row, text):
    monkeypatch.setattr(steps, "GRACE", 0.5)
    words = [f"data.shards={shapes_shards}", f"run_dir={tmp_path / 'run'}", "train.stuck_after=2 s"]
    first, second = in_processes(2, tmp_path / "meeting", verdict_of, fault, words)
    assert first == second and first[0] == 1
    (found,) = [finding for finding in first[1] if finding.verdict == "NOT FINE"]
    assert found.what == row and re.match(text, found.text), found
    assert {finding.what for finding in first[1]} >= {*ALL}


def test_what_processes_say_is_one_row_where_it_is_the_same():
    hosts = ["a", "a", "b"]
    good, bad, odd = (Finding("x", verdict, verdict) for verdict in ("fine", "NOT FINE", "remark"))
    assert merged([[good], [good], [good]], hosts) == [good]
    assert merged([[bad], [bad], [bad]], hosts) == [bad]
    assert merged([[good], [bad], [bad]], hosts) == [bad._replace(text="processes 1 on a and 2 on b: NOT FINE")]
    assert [row.verdict for row in merged([[odd], [bad], [good]], hosts)] == ["NOT FINE", "remark"]
    assert merged([[bad], [], []], hosts) == [bad], "no other has looked"
    assert merged([[good], [], [bad]], hosts)[0].text == "process 2 on b: NOT FINE"


@pytest.mark.parametrize(
    ("size", "text"), [(400, "0.4 kB"), (162_000_000, "162 MB"), (5.7e10, "57 GB"), (1.24e6, "1.2 MB")]
)
def test_sizes_are_read_at_a_glance(size, text):
    assert amount(size) == text


class TestEvaluations:
    EVERY = "evaluate.every=5 steps"

    def test_there_is_no_row_without_any(self, tiny, capsys):
        assert main(["doctor", *tiny]) == 0
        assert "evaluations" not in table(capsys.readouterr().out)

    def test_what_can_be_measured(self, tiny, capsys):
        assert main(["doctor", *tiny, self.EVERY, "evaluate.metrics=[swd,modes]"]) == 0
        rows = table(capsys.readouterr().out)
        assert rows["evaluations"] == ("fine", "every 5 steps: swd, modes, of 10000 pictures")

    def test_a_best_checkpoint_that_nobody_could_choose(self, tiny, tmp_path, capsys):
        pictures = tmp_path / "pictures"
        pictures.mkdir()
        for number in range(32):
            Image.effect_noise((32, 32), 40).convert("RGB").save(pictures / f"{number}.png")
        prepare("images", pictures, tmp_path / "unlabelled", resolution=32, channels=3, workers=1)
        settings = [*tiny, self.EVERY, "evaluate.metrics=[swd,fd_own]", f"data.shards={tmp_path / 'unlabelled'}"]
        assert main(["doctor", *settings]) == 0
        assert table(capsys.readouterr().out)["evaluations"][0] == "remark"
        told = ill(capsys, [*settings, "checkpoint.best=evaluate/fd_own"], but="evaluations")
        assert told.startswith("fd_own: need labels of two classes or more, and the shards have none; checkpoint.best")

    def test_weights_of_inception(self, tiny, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        settings = [*tiny, self.EVERY, "evaluate.metrics=[fid]"]
        assert main(["doctor", *settings]) == 0
        verdict, told = table(capsys.readouterr().out)["evaluations"]
        assert verdict == "remark" and str(tmp_path / "hub") in told.replace("\n", "").replace(" ", "")
        assert "no such file" in ill(capsys, [*settings, "evaluate.inception=/nope.pth"], but="evaluations")
