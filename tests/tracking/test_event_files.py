"""TensorBoard's files, read by its own reader."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from launching import TINY
from PIL import Image
from recorded import Pictures, recorder_of, tell
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distgan.checkpoint import Progress
from distgan.config import load_config
from distgan.doctor.tracking_key import check_tracking
from distgan.errors import ConfigError
from distgan.histogram import CELLS, EDGES
from distgan.run_folder import RunFolder
from distgan.tracking import pictures
from distgan.tracking.event_files import TensorBoardSink, check_installed

ON = "tracking.tensorboard=true"


def read(run) -> EventAccumulator:
    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    found.Reload()
    return found


def test_after_a_rollback_and_a_resume_it_shows_what_the_record_does(tmp_path):
    progress, run = Progress(), tmp_path / "run"
    recorder, generator = recorder_of(run, progress, overrides=[ON])
    recorder.start(generator, Pictures(), "a run")

    def train(*steps: int, factor: float) -> None:
        for step in steps:
            tell(recorder, step, factor=factor)
            if step % 4 == 0:
                recorder.sample(step, generator)

    train(*range(1, 20), factor=1.0)
    progress.step, progress.images, progress.seconds = 8, 32 * 8, 8.0
    recorder.rewind(8)
    train(*range(9, 15), factor=2.0)
    recorder.close("failed")
    progress.step, progress.lines, progress.last_line = 10, 10, 10
    recorder, generator = recorder_of(run, progress, overrides=[ON])
    recorder.start(generator, Pictures(), "a run")
    train(*range(11, 13), factor=3.0)
    recorder.close("finished")

    events = read(run)
    found = {event.step: event.value for event in events.Scalars("factor")}
    assert [event.step for event in events.Scalars("factor")] == list(range(1, 13))
    assert found == {**dict.fromkeys(range(1, 9), 1.0), 9: 2.0, 10: 2.0, 11: 3.0, 12: 3.0}
    assert [event.step for event in events.Images("samples")] == [0, 4, 8, 12]
    shown = events.Images("samples")[-1]
    assert shown.encoded_image_string == (run / "samples" / "00000012.png").read_bytes() and shown.width > 64
    grids = {event.step: event.wall_time for event in events.Images("samples")}
    assert all(grids[event.step] == event.wall_time for event in events.Scalars("factor") if event.step in grids)
    times = [event.wall_time for event in events.Scalars("factor")]
    assert np.allclose(np.diff(times), 1.0)  # seconds of training
    assert {"kimg", "seconds", "critic/loss"} <= set(events.Tags()["scalars"])


def test_a_histogram_has_the_counts_at_their_cells(tmp_path):
    counts = [0] * CELLS
    counts[0], counts[33], counts[-1] = 1, 5, 2  # the second from 1 to the next edge
    folder = RunFolder(tmp_path)
    sink = TensorBoardSink(folder, 0)
    sink.begin()
    sink.metrics({"step": 7, "seconds": 1.0, "critic/grad_norm_histogram": counts, "none": None, "no": float("inf")})
    sink.close("finished")
    events = read(tmp_path)
    (event,) = events.Histograms("critic/grad_norm_histogram")
    assert event.step == 7 and event.histogram_value.num == 8 and events.Tags()["scalars"] == ["seconds"]
    buckets = dict(zip(event.histogram_value.bucket_limit, event.histogram_value.bucket, strict=True))
    assert {limit: count for limit, count in buckets.items() if count} == {EDGES[0]: 1, EDGES[33]: 5, 2 * EDGES[-1]: 2}


def test_a_picture_that_is_too_large_is_left_out_and_the_lines_go_on(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    for step, side in ((1, 32), (2, 128)):
        folder.sample(step).parent.mkdir(exist_ok=True)
        pictures.save(pictures.grid(torch.zeros(1, 3, side, side), 1), folder.sample(step))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    sink = TensorBoardSink(folder, 2)
    sink.begin()
    sink.metrics({"step": 3, "seconds": 1.0})
    sink.close("finished")
    events = read(tmp_path)
    assert [event.step for event in events.Images("samples")] == [1]
    assert [event.step for event in events.Scalars("seconds")] == [3]


def test_without_tensorboard_it_is_one_line_before_anything_begins(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "tensorboard" else find(name))
    with pytest.raises(ConfigError, match=r'is not installed; pip install "distgan\[tensorboard\]"') as told:
        check_installed()
    (finding,) = check_tracking(load_config([TINY], [ON]))
    assert finding.text == str(told.value)
