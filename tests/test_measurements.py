"""What a line says of the step it is written at: against the weights of checkpoints, and pictures of known classes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from forked import in_processes
from launching import TINY, lines, without_machine, worst_difference
from safetensors.numpy import load_file

from distgan.config import load_config
from distgan.data.dataset import open_dataset
from distgan.data.place import Place
from distgan.histogram import CELLS, EDGES
from distgan.objectives.norm_counts import norm_counts
from distgan.run_folder import RunFolder
from distgan.runtime import Runtime
from distgan.stopping import StopSignals
from distgan.trainer import Trainer

EACH = ["tracking.every=1 steps", "checkpoint.every=1 steps", "checkpoint.keep=9", "train.precision=fp64"]
HELD = 'data.holdout="64 images"'


def train(rank: int, shards: Path, folder: Path, settings: list[str]) -> None:
    config = load_config([TINY], [f"data.shards={shards}", f"run_dir={folder}", "train.length=4 steps", *settings])
    run = RunFolder(config.run_dir)
    run.create()
    runtime = Runtime(config)
    torch.set_num_threads(1)
    trainer = Trainer(config, runtime, open_dataset(config.data), run)
    trainer.fit(StopSignals())


def started(processes: int, shards: Path, folder: Path, settings: list[str]) -> None:
    meeting = folder.with_name(f"{folder.name} {len(list(folder.parent.iterdir()))}")  # of no other processes
    meeting.mkdir()
    in_processes(processes, meeting, train, shards, folder, settings)


def weights(run: Path, step: int, name: str) -> np.ndarray:
    """The parameters of a network at a checkpoint, in one row."""
    tensors = load_file(run / "checkpoints" / f"{step:08d}" / f"{name}.safetensors")
    kept = [tensors[key].ravel() for key in sorted(tensors) if "running_" not in key and "num_batches" not in key]
    return np.concatenate(kept).astype(float)


def test_norms_of_updates_and_the_average_are_those_of_the_checkpoints(shapes_shards, tmp_path):
    started(2, shapes_shards, tmp_path / "run", [*EACH, "train.critic_steps=1"])
    run = tmp_path / "run"
    for line in lines(run)[1:]:
        for network in ("critic", "generator"):
            moved = weights(run, line["step"], network) - weights(run, line["step"] - 1, network)
            assert line[f"{network}/update_norm"] == pytest.approx(np.linalg.norm(moved), rel=1e-6)
            assert line[f"{network}/gradient_norm"] > 0
        generator, average = (weights(run, line["step"], name) for name in ("generator", "generator_ema"))
        apart = np.linalg.norm(generator - average) / np.linalg.norm(generator)
        assert line["generator/ema_distance"] == pytest.approx(apart, rel=1e-6)
        assert 0.05 < line["memory/host_gb"] < 100 and "memory/device_gb" not in line


def test_all_but_the_machine_is_the_same_on_one_and_two_processes_and_whether_lines_are_few_or_many(
    shapes_shards, tmp_path
):
    settings = [HELD, "train.precision=fp64", "data.flip=true"]
    for name, processes, every in (("one", 1, 2), ("two", 2, 2), ("often", 2, 1)):
        started(processes, shapes_shards, tmp_path / name, [*settings, f"tracking.every={every} steps"])
    assert worst_difference(tmp_path / "one", tmp_path / "two") < 1e-9
    often, seldom = (without_machine(tmp_path / name)[-1] for name in ("often", "two"))
    for name in ("critic/update_norm", "critic/gradient_norm", "generator/update_norm", "generator/ema_distance"):
        assert often[name] == seldom[name], "measuring changes nothing"


class Brightness(NamedTuple):
    told: dict[str, float]
    shown: list[torch.Tensor]
    """Training pictures, held-out ones, fakes."""
    held_out: torch.Tensor


def see_brightness(rank: int, shards: Path, folder: Path) -> Brightness:
    """A critic that tells how bright a picture is: by what it was shown, what is told of it is known."""
    settings = [f"data.shards={shards}", f"run_dir={folder}", "train.length=2 steps", HELD, "data.flip=false"]
    config = load_config([TINY], settings)
    trainer = Trainer(config, Runtime(config), open_dataset(config.data), RunFolder(config.run_dir))
    shown = []

    def brightness(images, labels, keys):
        assert trainer.critic.training and trainer.generator.training, "what is measured is what the loss sees"
        shown.append(images)
        return images.mean((1, 2, 3))

    with trainer.reader.at(0, 0):
        trainer.reader.read(trainer.phases.noise(0)["critic"][0])
        trainer.critic.forward = brightness
        before = [buffer.clone() for buffer in trainer.generator.buffers()]
        told, waited = trainer.measurements.take(1)
    assert waited >= 0 and len(before) > 0
    assert all(map(torch.equal, before, trainer.generator.buffers())), "running statistics stay as they were"
    held_out = trainer.dataset.held_out(64, 0, 0, Place())
    pictures = next(held_out).pixels / 127.5 - 1
    held_out.close()
    return Brightness(told, shown, pictures)


class TestHeldOut:
    def test_is_absent_where_nothing_is_held_out(self, shapes_shards, tmp_path):
        started(1, shapes_shards, tmp_path / "run", ["tracking.every=2 steps"])
        assert all("critic/held_out_gap" not in line for line in lines(tmp_path / "run"))

    def test_is_the_critic_on_pictures_that_were_never_trained_on(self, shapes_shards, tmp_path):
        (found,) = in_processes(1, tmp_path, see_brightness, shapes_shards, tmp_path / "run")
        seen, unseen, fake = (images.double().mean().item() for images in found.shown)
        assert found.told["critic/held_out_gap"] == pytest.approx(seen - unseen, rel=1e-5)
        assert found.told["critic/wasserstein_held_out"] == pytest.approx(unseen - fake, rel=1e-5)
        held = {_bytes(picture) for picture in found.held_out}
        assert {_bytes(picture) for picture in found.shown[1]} <= held
        assert not {_bytes(picture) for picture in found.shown[0]} & held

    def test_goes_on_where_it_was_after_a_resume(self, shapes_shards, tmp_path):
        settings = [HELD, "tracking.every=2 steps", "train.precision=fp64"]
        started(1, shapes_shards, tmp_path / "whole", settings)
        for length in (2, 4):
            started(1, shapes_shards, tmp_path / "parts", [*settings, f"train.length={length} steps"])
        assert without_machine(tmp_path / "whole") == without_machine(tmp_path / "parts")


def _bytes(picture: torch.Tensor) -> bytes:
    return ((picture + 1) * 127.5).round().to(torch.uint8).contiguous().numpy().tobytes()


class TestHistogram:
    def test_counts_are_those_of_numpy(self):
        norms = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(5).sub(2.5).exp()
        expected = np.histogram(norms.numpy(), [0, *EDGES, np.inf])[0]
        assert norm_counts(norms).tolist() == expected.tolist() and len(expected) == CELLS

    def test_ends_and_edges(self):
        counts = norm_counts(torch.tensor([0.0, 1.0, 16.0, torch.inf, torch.nan]))
        assert counts[0] == 1 and counts[33] == 1 and counts[-1] == 3 and counts.sum() == 5
        assert EDGES[32] == 1.0

    def test_a_line_counts_every_norm_of_its_updates(self, shapes_shards, tmp_path):
        settings = ["tracking.every=2 steps", "train.micro_batch=3", "objective.every=2", "generator.norm=layer"]
        started(2, shapes_shards, tmp_path / "run", settings)
        config = load_config([TINY], [f"data.shards={shapes_shards}", "run_dir=x"])
        updates = 2 * config.train.critic_steps // 2
        for line in lines(tmp_path / "run"):
            counts = line["critic/grad_norm_histogram"]
            assert len(counts) == CELLS and sum(counts) == updates * config.train.batch_size
            edges = [0, *EDGES, np.inf]
            lowest, highest = np.flatnonzero(counts)[[0, -1]]
            assert edges[lowest] <= line["critic/grad_norm_mean"] <= line["critic/grad_norm_max"] * (1 + 1e-6)
            assert line["critic/grad_norm_max"] < edges[highest + 1]
