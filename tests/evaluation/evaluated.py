"""Small evaluations: of tests/tiny.yaml, over drawn pictures of 16 x 16, grey."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from launching import TINY
from torch import Tensor, nn

from distgan.assembly import make_generator
from distgan.config import Config, load_config
from distgan.data.dataset import open_dataset
from distgan.evaluation.evaluator import Evaluator
from distgan.runtime import Runtime


def config_of(shards: Path, metrics: str, *overrides: str) -> Config:
    """A run over `shards`, evaluated on 120 pictures."""
    settings = [f"data.shards={shards}", "data.resolution=16", "data.channels=1", "run_dir=none", "train.device=cpu"]
    return load_config([TINY], [*settings, f"evaluate.metrics=[{metrics}]", "evaluate.count=120", *overrides])


def copied(shards: Path, to: Path) -> Path:
    """Shards of which nothing but the classifier is known."""
    shutil.copytree(shards, to)
    for kept in (to / "evaluation").iterdir():
        if not kept.name.startswith("classifier"):
            kept.unlink()
    return to


def runtime_of(config: Config) -> Runtime:
    """Of this process, whose threads stay as many as they were."""
    threads = torch.get_num_threads()
    runtime = Runtime(config)
    torch.set_num_threads(threads)
    return runtime


def evaluator_of(config: Config) -> Evaluator:
    return Evaluator(config, runtime_of(config), open_dataset(config.data))


def evaluated(rank: int, config: Config) -> tuple[dict[str, float], int]:
    """What a process of several measures of the generator with its initial weights, and its signs of life."""
    signs = []
    runtime = Runtime(config)
    evaluator = Evaluator(config, runtime, open_dataset(config.data))
    generator = runtime.place(make_generator(config)).train()
    found = evaluator.measure(generator, lambda: signs.append(rank))
    runtime.close()
    return found, len(signs)


class Fixed(nn.Module):
    """A generator that draws the pictures it was given, in turn, whatever the latent."""

    latent = 1

    def __init__(self, pictures: Tensor) -> None:
        """`pictures`: in [-1, 1], [N, C, H, W]."""
        super().__init__()
        self.pictures, self.drawn = nn.Parameter(pictures), 0

    def forward(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        first, self.drawn = self.drawn, self.drawn + len(latent)
        return self.pictures[first : self.drawn]


class ByLabel(nn.Module):
    """A generator that draws one picture for each label, whatever the latent."""

    latent = 1

    def __init__(self, pictures: Tensor) -> None:
        """`pictures`: in [-1, 1], [K, C, H, W]."""
        super().__init__()
        self.pictures = nn.Parameter(pictures)

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        return self.pictures[labels]
