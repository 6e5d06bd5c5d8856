"""What a run leaves behind, on disks that are sound, full and gone."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import in_processes
from launching import TINY, assert_same_weights
from PIL import Image
from planting import run as run_planted
from recorded import Pictures, recorder_of, tell

from distgan.assembly import make_generator
from distgan.checkpoint import Progress
from distgan.config import load_config
from distgan.config.schema import Data
from distgan.data.dataset import open_dataset
from distgan.data.place import Place
from distgan.errors import UserError
from distgan.run_folder import read_lines
from distgan.sampling.fixed import fixed_grid


def steps(run: Path) -> list[int]:
    return [line["step"] for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]


def grids(run: Path) -> list[int]:
    return sorted(int(path.stem) for path in (run / "samples").glob("[0-9]*.png"))


def test_a_disk_that_is_full_for_a_while_costs_no_picture_and_no_line(disk, capsys):
    run = disk.folder / "run"
    recorder, generator = recorder_of(run)
    recorder.start(generator, Pictures(), "a run")
    tell(recorder, 1, 2)
    disk.fill(run / "metrics.jsonl")
    tell(recorder, *range(3, 100))
    for step in (10, 20):
        recorder.sample(step, generator)
    assert not recorder.lines_written(99) and not recorder.sync_lines(99)
    disk.make_room()
    recorder.sample(30, generator)
    tell(recorder, 100)
    assert recorder.sync_lines(100)
    recorder.close("finished")
    assert steps(run) == list(range(1, 101)) and grids(run) == [0, 10, 20, 30]
    assert not list(run.rglob("*.part"))
    told = [line for line in capsys.readouterr().err.splitlines() if "written" in line]
    for name, ending in ((run / "metrics.jsonl", "is written again, with the"), (run / "samples", "is written again")):
        first, last = (line for line in told if str(name) in line)
        assert f"{name}: cannot be written: {disk.reason}; the run goes on and tries again" in first
        assert f"{name}: {ending}" in last
    assert len(told) == 4
    assert (run / "status").read_text() == "finished\n"


def test_what_a_killed_start_left_half_written_goes(tmp_path):
    run = tmp_path / "run"
    recorder, generator = recorder_of(run)
    left = [run / ".metrics.jsonl.other-1.part", run / "samples" / ".00000040.png.other-1.part"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    recorder.start(generator, Pictures(), "a run")
    recorder.close("finished")
    assert not any(path.exists() for path in left)


def test_other_pictures_among_the_samples_are_nobodys_step(tmp_path):
    run = tmp_path / "run"
    recorder, generator = recorder_of(run, Progress(wandb_id="some"))
    (run / "wandb_id").write_text("some")
    others = [run / "samples" / name for name in ("00000000-copy.png", "7 (1).png")]
    for path in others:
        path.write_bytes(b"no picture")
    recorder.start(generator, Pictures(), "a run")
    tell(recorder, 1)
    recorder.sample(1, generator)
    recorder.rewind(0)
    recorder.close("finished")
    assert [path.read_bytes() for path in others] == [b"no picture"] * 2
    assert sorted(path.name for path in (run / "samples").glob("0*.png")) == ["00000000-copy.png", "00000000.png"]
    assert (run / "samples" / "evolution.gif").exists()


def test_a_disk_that_stays_full_ends_the_run_as_failed_and_names_the_lines(disk):
    run = disk.folder / "run"
    recorder, generator = recorder_of(run)
    recorder.start(generator, Pictures(), "a run")
    disk.fill(run / "metrics.jsonl")
    tell(recorder, *range(1, 100))
    with pytest.raises(UserError, match=r"its last \d+ lines are lost \(steps \d+ to 99\)"):
        recorder.close("finished")
    disk.make_room()
    assert not (run / "status").exists() or (run / "status").read_text() == "failed\n"  # where a word has room


def test_after_a_failure_a_full_disk_is_told_and_takes_no_ones_place(disk, capsys):
    run = disk.folder / "run"
    recorder, generator = recorder_of(run)
    recorder.start(generator, Pictures(), "a run")
    disk.fill(run / "metrics.jsonl")
    tell(recorder, *range(1, 100))
    recorder.close("failed")
    assert "lines are lost" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "status", "metrics.jsonl"])
def test_a_start_that_cannot_write_is_an_error_and_nothing_is_lost(tmp_path, name):
    recorder, generator = recorder_of(tmp_path / "run")
    (tmp_path / "run" / name).mkdir()
    with pytest.raises(UserError, match=f"{name}: cannot be written: Is a directory"):
        recorder.start(generator, Pictures(), "a run")


def test_a_run_folder_that_vanished_is_made_again(tmp_path):
    run = tmp_path / "run"
    recorder, generator = recorder_of(run)
    recorder.start(generator, Pictures(), "a run")
    tell(recorder, 1, 2)
    shutil.rmtree(run)
    recorder.sample(2, generator)
    tell(recorder, 3)
    recorder.close("finished")
    assert steps(run) == [1, 2, 3] and grids(run) == [2] and (run / "status").read_text() == "finished\n"


def test_a_standard_error_on_a_full_disk_ends_nothing(tmp_path, monkeypatch):
    recorder, generator = recorder_of(tmp_path / "run")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        recorder.start(generator, Pictures(), "a run")
        tell(recorder, 1, 2)
        recorder.close("finished")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
    assert steps(tmp_path / "run") == [1, 2]


def test_the_raw_grids_go_the_way_of_the_others(tmp_path):
    """Beside them, dropped with them, told to the views with them; the animation is of the average alone."""
    run, progress = tmp_path / "run", Progress()
    recorder, generator = recorder_of(run, progress, overrides=["data.channels=1"])
    raw = make_generator(recorder.config)
    torch.nn.init.normal_(next(raw.parameters()))
    seen = []
    recorder.start(generator, Pictures(torch.zeros(64, 1, 32, 32, dtype=torch.uint8)), "a run", raw)
    recorder._views.picture = lambda name, path, step: seen.append((name, str(path.relative_to(run)), step))
    for step in (10, 20, 30):
        recorder.sample(step, generator, raw)
    assert seen[:2] == [("samples", "samples/00000010.png", 10), ("samples/raw", "samples/raw/00000010.png", 10)]
    one, other = (np.asarray(Image.open(run / place / "00000010.png")) for place in ("samples", "samples/raw"))
    assert one.shape == other.shape == (3 * 66, 3 * 66, 3) and not np.array_equal(one, other)
    progress.step = 10
    recorder.rewind(10)
    assert grids(run) == [0, 10] and sorted(path.name for path in (run / "samples" / "raw").iterdir()) == [
        "00000000.png",
        "00000010.png",
    ]
    with torch.no_grad():
        next(generator.parameters()).mul_(4)  # frames that are alike would be one
    recorder.sample(20, generator, raw)
    recorder.close("preempted")
    again, _ = recorder_of(run, Progress(step=10, images=320, real_diversity=0.0), overrides=["data.channels=1"])
    again.start(generator, None, "a run", raw)
    assert grids(run) == [0, 10] and len(list((run / "samples" / "raw").iterdir())) == 2
    again.sample(20, generator, raw)
    again.close("finished")
    assert Image.open(run / "samples" / "evolution.gif").n_frames == 2  # of three, two alike


@pytest.mark.parametrize("training", [True, False])
def test_a_grid_leaves_the_generator_as_it_was(training):
    config = load_config([TINY], ["run_dir=run", "data.classes=3"])
    generator = make_generator(config).train(training)
    generator.norms[0].eval()  # whatever its parts were in
    before = copy.deepcopy(generator.state_dict())
    state = torch.get_rng_state()
    first = fixed_grid(generator, config)
    assert [part.training for part in generator.modules() if part is not generator.norms[0]][0] is training
    assert not generator.norms[0].training and generator.norms[1].training is training
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(first, fixed_grid(generator.eval(), config))


def test_reals_are_laid_out_as_the_samples_are(shapes_shards, tmp_path):
    """Of each class a row, the pictures of the stream's beginning in their order; black where a class has fewer."""
    for name, overrides in {"plain": [], "classes": ["data.classes=4"]}.items():
        run = tmp_path / name
        recorder, generator = recorder_of(run, overrides=[*overrides, "samples.count=12"])
        dataset = open_dataset(Data(shards=str(shapes_shards), resolution=32, classes=4 if overrides else 0))
        recorder.start(generator, dataset, "a run")
        recorder.close("finished")
        reals, samples = (np.asarray(Image.open(run / place)) for place in ("reals.png", "samples/00000000.png"))
        assert reals.shape == samples.shape
        order = dataset._plan(dataset.split.train, 256, 0, 0, Place()).batch(0)
        if overrides:
            labels = dataset.shards.samples["label"][order]
            order = np.concatenate([order[labels == label][:3] for label in range(4)])
        pictures = dataset.read(order[:12]).permute(0, 2, 3, 1).numpy()
        columns = reals.shape[1] // 66
        for number, picture in enumerate(pictures):
            top, left = 66 * (number // columns), 66 * (number % columns)
            assert np.array_equal(reals[top : top + 64 : 2, left : left + 64 : 2], picture)
    many = dataset.first_of_classes(4, 100, 0)
    counts = np.bincount(dataset.shards.samples["label"], minlength=4)
    shown = many.flatten(1).any(1).view(4, 100)
    assert shown.sum(1).tolist() == np.minimum(counts, 100).tolist() and all(
        row.tolist() == sorted(row.tolist(), reverse=True) for row in shown
    )


def test_other_processes_write_nothing_and_never_wait_for_lines(tmp_path):
    recorder, generator = recorder_of(tmp_path / "run", is_main=False)
    before = sorted(tmp_path.rglob("*"))
    recorder.start(generator, Pictures(), "a run")
    tell(recorder, 1)
    recorder.sample(1, generator)
    recorder.rewind(0)
    recorder.close("finished")
    assert sorted(tmp_path.rglob("*")) == before and recorder.lines_written(1) and recorder.sync_lines(1)


def test_going_back_drops_lines_and_pictures_and_counts_images_from_there(tmp_path):
    progress = Progress()
    recorder, generator = recorder_of(tmp_path / "run", progress)
    recorder.start(generator, Pictures(), "a run")
    tell(recorder, 1, 2, 3, 4, waited=0.5)
    for step in (2, 4):
        recorder.sample(step, generator)
    progress.step, progress.images, progress.seconds = 2, 64, 2.0
    recorder.rewind(2)
    assert steps(tmp_path / "run") == [1, 2] and grids(tmp_path / "run") == [0, 2]
    tell(recorder, 3, 4, waited=0.25)  # by a stream that was opened then
    recorder.close("finished")
    found = list(read_lines(tmp_path / "run" / "metrics.jsonl"))
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    assert {line["throughput/images_per_second"] for line in found} == {32.0}
    assert [line["throughput/data_wait_fraction"] for line in found] == [0.5, 0.0, 0.25, 0.0]


@pytest.mark.parametrize(("beats", "steps_of_lines"), [((5, 4), [5, 10, 12, 16, 20]), ((4, 5), [4, 8, 15, 20])])
def test_a_run_made_longer_with_another_beat_drops_the_line_of_its_early_end_alone(
    shapes_shards, tmp_path, beats, steps_of_lines
):
    for length, beat in zip((10, 20), beats, strict=True):
        settings = [f"train.length={length} steps", f"tracking.every={beat} steps", "tracking.watch=false"]
        in_processes(1, tmp_path / str(length), run_planted, shapes_shards, tmp_path / "run", settings, [])
    assert steps(tmp_path / "run") == steps_of_lines


def test_pictures_change_no_bit_of_the_training(shapes_shards, tmp_path):
    for name, every in (("often", 1), ("never", 100)):
        settings = ["train.length=6 steps", f"samples.every={every} steps", "tracking.watch=false"]
        in_processes(1, tmp_path / f"in {name}", run_planted, shapes_shards, tmp_path / name, settings, [])
    assert len(grids(tmp_path / "often")) == 7 and grids(tmp_path / "never") == [0, 6]
    assert_same_weights(tmp_path / "often", tmp_path / "never", 6)


def test_without_an_average_there_is_one_kind_of_grid(shapes_shards, tmp_path):
    settings = ["train.length=2 steps", "train.ema_kimg=0", "tracking.watch=false"]
    in_processes(1, tmp_path / "in", run_planted, shapes_shards, tmp_path / "run", settings, [])
    assert grids(tmp_path / "run") == [0, 2] and not (tmp_path / "run" / "samples" / "raw").exists()


class TestDiversity:
    def test_it_is_a_function_of_weights_seed_and_pictures(self, tmp_path):
        found = []
        for name in ("one", "other"):
            recorder, generator = recorder_of(tmp_path / name)
            recorder.start(generator, Pictures(), "a run")
            torch.manual_seed(len(found))  # nothing may draw from a generator with a state
            tell(recorder, 1, 2)
            recorder.close("finished")
            found += [line["generator/diversity"] for line in read_lines(tmp_path / name / "metrics.jsonl")]
        assert len(found) == 4 and len(set(found)) == 1 and 0 < found[0] < 1

    def test_the_real_pictures_are_measured_once_in_a_run(self, tmp_path):
        progress = Progress()
        recorder, generator = recorder_of(tmp_path / "run", progress)
        recorder.start(generator, Pictures(), "a run")
        tell(recorder, 1)
        recorder.close("preempted")
        again, _ = recorder_of(tmp_path / "run", Progress(step=1, images=32, real_diversity=progress.real_diversity))
        again.start(generator, None, "a run")  # no data set is asked
        tell(again, 2)
        again.close("finished")
        first, second = read_lines(tmp_path / "run" / "metrics.jsonl")
        assert first["generator/diversity"] == second["generator/diversity"]

    def test_it_is_not_measured_when_nobody_watches(self, tmp_path):
        recorder, generator = recorder_of(tmp_path / "run", overrides=["tracking.watch=false"])
        recorder.start(generator, Pictures(), "a run")
        tell(recorder, 1)
        recorder.close("finished")
        (line,) = read_lines(tmp_path / "run" / "metrics.jsonl")
        assert "generator/diversity" not in line

    def test_labels_take_turns(self, tmp_path):
        recorder, generator = recorder_of(tmp_path / "run", overrides=["data.classes=4"])
        seen = []
        generator.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[1]))
        recorder.start(generator, Pictures(), "a run")
        seen.clear()
        tell(recorder, 1)
        recorder.close("finished")
        assert [labels.tolist() for labels in seen] == [[0, 1, 2, 3] * 4]

    def test_pictures_that_are_all_the_same_have_none(self, tmp_path):
        recorder, generator = recorder_of(tmp_path / "run")
        recorder.start(generator, Pictures(torch.zeros(64, 3, 32, 32, dtype=torch.uint8)), "a run")
        tell(recorder, 1)
        recorder.close("finished")
        (line,) = read_lines(tmp_path / "run" / "metrics.jsonl")
        assert "generator/diversity" not in line


def test_a_symptom_is_told_on_one_line_and_after_a_restart_not_again(tmp_path, capsys):
    progress = Progress()
    recorder, generator = recorder_of(tmp_path / "run", progress)
    recorder.start(generator, Pictures(), "a run")
    tell(recorder, *range(1, 31), **{"critic/grad_norm_mean": 50.0})
    recorder.close("preempted")
    told = [line for line in capsys.readouterr().err.splitlines() if "gradient explodes" in line]
    assert len(told) == 1 and told[0].startswith("distgan: warning: step 9: the critic's gradient explodes")
    assert "(critic/grad_norm_mean 50, where 1 is sound); what usually helps: a higher objective.weight" in told[0]
    again, _ = recorder_of(tmp_path / "run", Progress(step=30, images=30 * 32, real_diversity=progress.real_diversity))
    again.start(generator, Pictures(), "a run")
    tell(again, *range(31, 61), **{"critic/grad_norm_mean": 50.0})
    again.close("finished")
    assert "gradient explodes" not in capsys.readouterr().err
