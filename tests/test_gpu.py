"""What only a GPU can run."""

from __future__ import annotations

import pytest
import torch
from launching import TINY, lines, train, worst_difference

from distgan.cli import main

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("compiled", ["false", "true"])
def test_every_precision_trains_on_cuda(shapes_shards, tmp_path, precision, compiled):
    settings = [f"train.precision={precision}", f"train.compile={compiled}", "train.device=cuda"]
    done = train("--config", TINY, f"data.shards={shapes_shards}", f"run_dir={tmp_path / 'run'}", *settings)
    assert "on cuda" in done.stderr and "the compiler failed" not in done.stderr
    assert all(value == value for value in lines(tmp_path / "run")[-1].values())


@pytest.mark.parametrize("precision", ["fp64", "fp32", "bf16", "fp16"])
@pytest.mark.parametrize("compiled", ["false", "true"])
def test_the_doctor_finds_equal_gradients_on_cuda(precision, compiled, capsys):
    settings = [f"train.precision={precision}", f"train.compile={compiled}", "train.device=cuda", "data.classes=4"]
    assert main(["doctor", "--parity", "--config", str(TINY), *settings]) == 0, capsys.readouterr().out


def test_in_200_steps_the_loss_scale_of_fp16_settles_on_cuda(shapes_shards, tmp_path):
    settings = ["train.precision=fp16", "train.device=cuda", "train.length=200 steps", "critic.optimizer={lr: 2e-3}"]
    train("--config", TINY, f"data.shards={shapes_shards}", f"run_dir={tmp_path / 'run'}", *settings)
    skipped = [line["critic/skipped_updates"] for line in lines(tmp_path / "run")]
    assert skipped[-1] - skipped[99] <= 1


def test_cuda_follows_the_cpu_in_fp64(shapes_shards, tmp_path):
    common = ["--config", TINY, f"data.shards={shapes_shards}", "train.precision=fp64", "train.length=8 steps"]
    for device in ("cpu", "cuda"):
        train(*common, f"run_dir={tmp_path / device}", f"train.device={device}", "train.compile=false")
    assert worst_difference(tmp_path / "cpu", tmp_path / "cuda") < 1e-8


@pytest.mark.parametrize("compiled", ["false", "true"])
def test_the_doctor_tells_how_busy_the_device_is(shapes_shards, tmp_path, capsys, compiled):
    settings = [f"data.shards={shapes_shards}", f"run_dir={tmp_path / 'run'}", f"train.compile={compiled}"]
    assert main(["doctor", "--profile", "--config", str(TINY), *settings, "train.device=cuda"]) == 0
    printed = capsys.readouterr().out
    assert "on cuda" in printed and "the device computes in" in printed and "kernels" in printed
