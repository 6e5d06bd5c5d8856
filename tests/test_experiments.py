"""The founding experiments run from archives to tables, on a few drawn digits."""

from __future__ import annotations

import gzip
import json
import struct

import numpy as np
import pytest

from benchmarks.experiments.__main__ import main
from benchmarks.experiments.cases import EXPERIMENTS, SOURCES
from benchmarks.experiments.running import Bench

SMALL = ("train.length=2 steps", "train.batch_size=4", "generator.width=8", "critic.width=8", "samples.count=4")


def _idx(array: np.ndarray) -> bytes:
    return gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def archives(tmp_path):
    """Of 64 digits of noise."""
    folder = tmp_path / "archives" / "mnist"
    folder.mkdir(parents=True)
    digits = np.random.default_rng(0).integers(0, 255, (64, 28, 28), np.uint8)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(_idx(digits))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(_idx(np.arange(64, dtype=np.uint8) % 10))
    return folder.parent


def test_an_experiment_goes_from_archives_to_tables_and_is_not_trained_twice(archives, tmp_path, capsys):
    words = ["mnist_wgan", "--data", archives, "--out", tmp_path / "out", "--processes", 1, "--count", 32, *SMALL]
    words = [str(word) for word in words]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "| `mnist_wgan` | 2 | 0 |" in told
    whole = json.loads((tmp_path / "out" / "results.json").read_text())
    run = whole["runs"]["mnist_wgan"]
    assert run["step"] == 2 and run["late"]["critic/wasserstein"]["std"] >= 0 and whole["machine"]["cores"]
    (evaluation,) = run["evaluations"]
    assert {"swd", "swd_floor", "fd_own", "fd_own_floor", "modes"} <= set(evaluation["metrics"])
    assert evaluation["wasserstein"] == pytest.approx(run["last"]["critic/wasserstein"])
    trained = (tmp_path / "out" / "runs" / "mnist_wgan" / "metrics.jsonl").stat().st_mtime_ns
    assert main(words) == 0
    assert (tmp_path / "out" / "runs" / "mnist_wgan" / "metrics.jsonl").stat().st_mtime_ns == trained
    assert capsys.readouterr().out == told


def test_every_experiment_has_a_config_that_can_run(tmp_path):
    bench = Bench(tmp_path, tmp_path, 2, [])
    for name, case in EXPERIMENTS.items():
        assert bench.config(name).total_steps > 1 and case.source in SOURCES
    assert len({bench.config(name).course.images for name in _compared()}) == 1


def _compared() -> list[str]:
    return [name for name, case in EXPERIMENTS.items() if case.source == "mnist"]


def test_the_bad_config_differs_from_the_good_one_in_latent_and_norm_alone(tmp_path):
    bench = Bench(tmp_path, tmp_path, 2, [])
    good, bad = (bench.config(name).model_dump() for name in ("celeba64", "celeba64_batch_norm"))
    assert (bad["critic"]["norm"], bad["generator"]["latent"]) == ("batch", 10)
    bad["critic"]["norm"], bad["generator"]["latent"] = good["critic"]["norm"], good["generator"]["latent"]
    bad["objective"]["allow_batch_norm"], bad["run_dir"] = False, good["run_dir"]
    assert good == bad


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [(["mnist_gan"], 2, "no such experiment"), (["mnist_dcgan"], 1, "no mnist* in it, of which mnist is made")],
)
def test_a_wrong_name_or_folder_is_one_clear_line(tmp_path, capsys, words, status, told):
    assert main([*words, "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("experiments: ") and told in line
