"""What only a GPU can run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from launching import ROOT, TINY, lines, train, worst_difference
from small_runs import make_run

from benchmarks.high_resolution import measured
from distgan.augmentation.geometry import inverse_map
from distgan.augmentation.resampling import resample
from distgan.cli import main
from distgan.config import load_config
from distgan.data.on_device import CopiedAhead
from distgan.data.stream import Batch
from distgan.metrics.gaussians import Gaussian, frechet_distance
from distgan.metrics.neighbours import precision_recall
from distgan.metrics.pyramids import descriptors, sliced_wasserstein
from distgan.metrics.similarity import ms_ssim
from distgan.metrics.spectrum import checkerboard
from distgan.networks.blurring import Blur
from distgan.randomness import image_keys, normal
from distgan.runtime import Runtime

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


def test_an_evaluation_on_cuda_repeats_itself_and_is_near_that_on_the_cpu(shapes_shards, tmp_path):
    names = "swd,ms_ssim,fd_own,precision_recall_own,modes"
    run = make_run(tmp_path / "run", f"data.shards={shapes_shards}", "train.device=auto")
    found = []
    for device in ("cuda", "cuda", "cpu"):  # a process is of one device for good
        file = tmp_path / f"{device}.json"
        options = ["--metrics", names, "--count", 100, "--device", device, "--json", file]
        subprocess.run([sys.executable, "-m", "distgan.cli", "evaluate", *map(str, (run, *options))], check=True)
        found.append(json.loads(file.read_text())["evaluations"][0]["metrics"])
    assert found[0] == found[1] == {name: pytest.approx(value, rel=0.01, abs=0.01) for name, value in found[2].items()}


def test_cuda_follows_the_cpu_in_fp64(shapes_shards, tmp_path):
    common = ["--config", TINY, f"data.shards={shapes_shards}", "train.precision=fp64", "train.length=8 steps"]
    for device in ("cpu", "cuda"):
        train(*common, f"run_dir={tmp_path / device}", f"train.device={device}", "train.compile=false")
    assert worst_difference(tmp_path / "cpu", tmp_path / "cuda") < 1e-8


def test_a_run_begun_on_the_cpu_goes_on_on_cuda(tmp_path, shapes_shards):
    """One that grows, stopped in the middle of a fade-in."""
    common = ["--config", TINY.parent / "growing.yaml", f"data.shards={shapes_shards}", "train.precision=fp64"]
    for name, until in (("whole", {"cpu": 8}), ("halves", {"cpu": 6, "cuda": 8})):
        for device, steps in until.items():
            settings = [f"run_dir={tmp_path / name}", f"train.device={device}", f"train.length={steps} steps"]
            train(*common, *settings, "train.compile=false", "--allow-config-change")
    assert worst_difference(tmp_path / "whole", tmp_path / "halves") < 1e-8


def test_the_doctor_says_that_a_run_will_be_right_on_cuda(shapes_shards, tmp_path, capsys):
    assert Runtime(load_config([TINY], ["train.device=cuda"])).device.index is not None
    settings = [f"data.shards={shapes_shards}", f"run_dir={tmp_path / 'run'}", "train.device=cuda"]
    assert main(["doctor", "--config", str(TINY), *settings]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("compiled", ["false", "true"])
def test_the_doctor_tells_how_busy_the_device_is(shapes_shards, tmp_path, capsys, compiled):
    settings = [f"data.shards={shapes_shards}", f"run_dir={tmp_path / 'run'}", f"train.compile={compiled}"]
    status = main(["doctor", "--profile", "--config", str(TINY), *settings, "train.device=cuda"])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "on cuda" in printed and "the device computes in" in printed and "kernels" in printed


def test_cuda_graphs_follow_training_without_them(shapes_shards, tmp_path):
    common = ["--config", TINY, f"data.shards={shapes_shards}", "train.length=8 steps", "train.device=cuda"]
    for graphs in ("false", "true"):
        settings = [f"run_dir={tmp_path / graphs}", "train.compile=true", f"train.cuda_graphs={graphs}"]
        done = train(*common, *settings, "train.precision=fp64")
        assert "the compiler failed" not in done.stderr
    assert worst_difference(tmp_path / "false", tmp_path / "true") < 1e-8


@pytest.mark.parametrize("settings, error", [([], 1e-6), (["train.tf32=true"], 1e-2)])
def test_fp32_has_the_mantissa_that_the_config_says(settings, error):
    runtime = Runtime(load_config([TINY], ["train.device=cuda", *settings]))
    torch.manual_seed(0)
    one, other = torch.randn(2, 512, 512, device=runtime.device)
    images, weight = torch.randn(8, 64, 16, 16, device=runtime.device), torch.randn(64, 64, 3, 3, device=runtime.device)
    for function, arguments in ((torch.matmul, (one, other)), (torch.conv2d, (images, weight))):
        exact = function(*(argument.double() for argument in arguments))
        found = ((function(*arguments) - exact).norm() / exact.norm()).item()
        has_tf32 = bool(settings) and torch.cuda.get_device_capability() >= (8, 0)
        assert found < error and (found > 1e-5) == has_tf32, function


class _Pinned:
    """Endless batches in pinned memory, each full of its number."""

    wait_seconds, number = 0.0, 0

    def __next__(self):
        self.number += 1
        pixels = torch.full((64, 3, 64, 64), self.number, dtype=torch.uint8).pin_memory()
        return Batch(pixels, torch.full((64,), self.number).pin_memory())

    def close(self):
        pass


def test_batches_are_copied_ahead_on_a_stream_of_their_own():
    """None is seen before it is whole, however busy the device is."""
    source, device = _Pinned(), torch.device("cuda")
    ahead = CopiedAhead(source, device)
    try:
        for number in range(1, 9):
            batch = next(ahead)
            assert batch.pixels.is_cuda and batch.pixels.dtype == torch.uint8
            torch.cuda._sleep(10_000_000)
            different = (batch.pixels != number).sum() + (batch.labels != number).sum()
            assert different.item() == 0
    finally:
        ahead.close()


def _measured(a: torch.Tensor, b: torch.Tensor, device: str) -> list[float]:
    """Every metric of two sets of pictures, with their pixels as features."""
    a, b = a.to(device), b.to(device)
    features = [x.flatten(1)[:, ::9].float() for x in (a, b)]
    keys = image_keys(0, torch.arange(2 * len(a), device=device)).split(len(a))
    levels = zip(descriptors(a, keys[0]), descriptors(b, keys[1]), strict=True)
    distances = [sliced_wasserstein(x, y, a.shape[1], range(64), seed=0).mean().item() for x, y in levels]
    frechet = frechet_distance(*map(Gaussian.of, features))
    return [*distances, frechet, *precision_recall(*features), ms_ssim(a, b).mean().item(), checkerboard(a)]


def test_metrics_on_cuda_are_those_on_the_cpu(monkeypatch):
    """Also where training has switched on TF32 and autocast."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 256, (100, 3, 50, 50), dtype=torch.uint8, generator=generator)
    b = a.roll(1, 0) // 2 + a.roll(1, 3) // 2
    wanted = _measured(a, b, "cpu")
    with torch.autocast("cuda", torch.bfloat16):
        assert _measured(a, b, "cuda") == pytest.approx(wanted, rel=1e-4)


def test_the_gradient_of_augmentation_on_cuda_is_that_on_the_cpu_and_has_the_same_bits_each_time():
    keys = image_keys(5, torch.arange(16))
    shown, by_samples = (normal(keys, name, (3, 64, 64)) for name in ("shown", "gradient"))
    maps = inverse_map(*(normal(keys, f"map {i}") for i in range(4)), normal(keys, "shift", (2,)))
    found = []
    for device in ("cuda", "cuda", "cpu"):
        pictures = shown.to(device).requires_grad_()
        seen = resample(pictures, maps.to(device))
        found.append(torch.autograd.grad(seen, pictures, by_samples.to(device))[0].cpu())
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], found[2], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("compiled", ["false", "true"])
@pytest.mark.parametrize("precision", ["fp64", "bf16"])
def test_the_doctor_finds_equal_gradients_with_augmentation_on_cuda(precision, compiled, capsys):
    settings = [f"train.precision={precision}", f"train.compile={compiled}", "train.device=cuda"]
    found = main(["doctor", "--parity", "--config", str(TINY), *settings, "augment.strength=0.6"])
    assert found == 0, capsys.readouterr().out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_a_blur_of_many_values_on_cuda_is_that_on_the_cpu(dtype, error, stride):
    x, blur = torch.randn(2, 64, 256, 256).to(memory_format=torch.channels_last), Blur(64, stride)
    found, wanted = blur.cuda()(x.to("cuda", dtype)).float().cpu(), blur.cpu()(x)
    assert found.shape == wanted.shape and (found - wanted).norm() < error * wanted.norm()


@pytest.mark.parametrize("config", ["celebahq1024", "ffhq256"])
def test_a_step_at_1024_pixels_with_four_pictures_fits_into_80_gb(config):
    path = ROOT / "configs" / "high_resolution" / f"{config}.yaml"
    few = ["growing=null", "data.resolution=1024", "train.batch_size=4", "train.compile=false", "train.device=cuda"]
    rows = measured(loaded := load_config([path], few), loaded.course.stages, 1)
    assert rows[0]["most bytes"] < 80e9
