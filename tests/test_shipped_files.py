"""What is shipped works as it stands: every config, every command of the README, every launch file."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from launching import ROOT, lines, run, train
from PIL import Image

from distgan.config import load_config
from distgan.data.prepare import prepare

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
BAD = sorted((ROOT / "configs" / "bad").glob("*.yaml"))
README = (ROOT / "README.md").read_text()
SHORT = ["train.length=2 steps", "samples.count=4"]


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


def test_there_is_a_config_for_every_experiment_and_the_readme_names_each():
    names = {path.stem for path in CONFIGS}
    assert names >= {
        "quickstart",
        "quickdraw_gan",
        "mnist_dcgan",
        "mnist_wgan",
        "cifar10_wgan",
        "cifar10_resnet",
        "celeba64",
        "celeba128",
    }
    assert all(f"`{name}`" in README for name in names)


@pytest.mark.parametrize("path", CONFIGS + BAD, ids=lambda path: path.stem)
def test_a_shipped_config_opens_with_its_facts_and_trains(path, tmp_path):
    head = path.read_text().split("\nrun_dir")[0]
    for fact in (
        "distgan prepare",
        "accelerate launch",
        str(path.relative_to(ROOT)),
        "# Data",
        "# Hardware",
        "# Time",
        "# Result",
    ):
        assert fact in head, fact
    config = load_config([path])
    assert config.run_dir == f"runs/{path.stem}"
    data = config.data
    prepare(
        "shapes", None, tmp_path / "shards", resolution=data.resolution, channels=data.channels, count=16, workers=1
    )
    small = [f"data.shards={tmp_path / 'shards'}", "generator.width=8", "critic.width=8", "train.batch_size=4"]
    train("--config", path, f"run_dir={tmp_path / 'run'}", *small, *SHORT, "train.length=1 steps")
    assert len(lines(tmp_path / "run")) == 1


def test_every_command_of_the_readme_works(tmp_path):
    """In order, in one folder, as typed; only the trainings are made short and the installation is left out."""
    for name in ("configs", "launch", "distgan"):
        (tmp_path / name).symlink_to(ROOT / name)
    pictures = tmp_path / "path" / "to" / "pictures"
    pictures.mkdir(parents=True)
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (80, 90, 3), np.uint8)
        Image.fromarray(noise).save(pictures / f"{number}.jpg")
    prepare("shapes", None, tmp_path / "path" / "to" / "tars", resolution=16, count=8, workers=1)
    for name in ("index.json", "samples.npy"):
        (tmp_path / "path" / "to" / "tars" / name).unlink()
    commands = [line.partition("#")[0].strip() for block in _blocks("bash") for line in block.splitlines()]
    commands += re.findall(r"`(python distgan/train.py [^`]*)`", README)
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = 0
    for command in filter(None, commands):
        words = shlex.split(command)
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif words[0] in ("distgan", "accelerate", "python"):
            if "distgan/train.py" in words:
                length = [] if any(word.startswith("train.length") for word in words) else ["train.length=2 steps"]
                words = [word.replace("2000 steps", "3 steps") for word in words] + length + ["samples.count=4"]
            run(words, cwd=tmp_path, env=environment)
            ran += 1
        else:
            assert words[0] in ("python3", "pip"), f"no test runs {command!r}"
    assert ran >= 7
    assert [line["step"] for line in lines(tmp_path / "runs" / "quickstart")] == [3]
    assert (tmp_path / "sampled.png").exists() and (tmp_path / "data" / "mine" / "index.json").exists()


def test_the_yaml_of_the_readme_is_valid_config(tmp_path):
    blocks = _blocks("yaml")
    assert len(blocks) >= 2
    for number, block in enumerate(blocks):
        part = tmp_path / f"{number}.yaml"
        part.write_text(block.replace("resolution: 64", "resolution: 32"))  # the quickstart's networks are for 32
        assert load_config([ROOT / "configs" / "quickstart.yaml", part]) != load_config(
            [ROOT / "configs" / "quickstart.yaml"]
        )


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_launch_file_leaves_precision_to_the_config_and_shows_its_command(path):
    text = path.read_text()
    assert yaml.safe_load(text)["mixed_precision"] == "no"
    assert f"launch/{path.name}" in text and "distgan/train.py --config configs/" in text


def test_nothing_shipped_names_a_machine_or_a_registry():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    forbidden = re.compile("/" + "work/|/root" + "/|pypi" + r"\.org|files\.pythonhosted")
    for name in tracked.stdout.split():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", "") and path.is_file():
            assert not forbidden.search(path.read_text(errors="ignore")), name
