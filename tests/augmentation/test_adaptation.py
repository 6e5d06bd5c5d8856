"""Trainings whose strength of augmentation follows the overfitting of the critic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import in_processes
from launching import TINY, assert_same_weights, lines, worst_difference, worst_weight_difference
from PIL import Image

from distgan import randomness
from distgan.assembly import make_generator
from distgan.config import load_config
from distgan.data.dataset import open_dataset
from distgan.data.prepare import prepare
from distgan.run_folder import RunFolder
from distgan.runtime import Runtime
from distgan.stopping import StopSignals
from distgan.trainer import Trainer

SMALL = [
    "data.resolution=16",
    "data.flip=false",
    "generator={name: mlp, latent: 64, width: 64, norm: layer, optimizer: {lr: 1e-9}}",
    "critic={name: mlp, width: 128, optimizer: {lr: 1e-3}}",
    "tracking.watch=false",
    "train.precision=fp64",
]
FREE, SCORES_WITH_ZERO = 'data.holdout="224 images"', ["objective.loss=hinge", "objective.penalty=r1"]


@pytest.fixture(scope="module")
def own_pictures(tmp_path_factory) -> Path:
    """Shards of 256 pictures that the generator of SMALL draws untrained: all that sets them apart from its others is
    which ones they are."""
    folder = tmp_path_factory.mktemp("own")
    generator = make_generator(load_config([TINY], SMALL)).train()
    latent = randomness.normal(randomness.image_keys(99, torch.arange(256)), "latent", (64,))
    pixels = ((generator(latent, None).detach() + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    (folder / "pictures").mkdir()
    for number, picture in enumerate(pixels.numpy()):
        Image.fromarray(picture).save(folder / "pictures" / f"{number:03}.png")
    prepare("images", folder / "pictures", folder / "shards", resolution=16, workers=1)
    return folder / "shards"


def _train(rank: int, shards: Path, folder: Path, settings: list[str], begin_with: float) -> None:
    config = load_config([TINY], [f"data.shards={shards}", f"run_dir={folder}", *SMALL, *settings])
    run = RunFolder(config.run_dir)
    run.create()
    runtime = Runtime(config)
    torch.set_num_threads(1)
    trainer = Trainer(config, runtime, open_dataset(config.data), run)
    if begin_with:
        trainer.adaptation.load({"augmentation": torch.tensor([begin_with, torch.nan])})
    trainer.fit(StopSignals())


@pytest.fixture
def trained(own_pictures, tmp_path) -> Callable:
    """A function that trains, in processes of their own."""

    def start(name: str, *settings: str, processes: int = 1, begin_with: float = 0.0, shards: Path = own_pictures):
        meeting = tmp_path / f"meeting {len(list(tmp_path.iterdir()))}"
        in_processes(processes, meeting, _train, shards, tmp_path / name, list(settings), begin_with, seconds=200)
        return tmp_path / name

    return start


def strengths(run: Path) -> list[float]:
    return [line["augment/strength"] for line in lines(run)]


def test_the_strength_rises_while_the_critic_learns_32_pictures_by_heart(trained):
    settings = ["augment={every: 1, speed: 0.4}", "train.length=12 steps", "train.batch_size=32"]
    run = trained("memorising", FREE, *settings)
    assert strengths(run)[-1] >= 0.5
    assert max(line["augment/overfitting"] for line in lines(run)) > 0.6


def test_it_falls_while_the_critic_learns_what_holds_for_held_out_pictures_too(trained, shapes_shards):
    settings = ["data.resolution=32", "augment={every: 1, speed: 0.8}", "train.length=12 steps"]
    run = trained("sound", 'data.holdout="32 images"', *settings, begin_with=0.5, shards=shapes_shards)
    assert strengths(run)[-1] < 0.2
    assert strengths(run) == sorted(strengths(run), reverse=True)


@pytest.mark.parametrize("settings", [[FREE], SCORES_WITH_ZERO], ids=["held out", "signs"])
def test_one_and_two_processes_give_the_same_strength_and_curve(trained, settings):
    settings = [*settings, "augment={every: 2, speed: 0.5, target: 0.3}", "train.length=8 steps"]
    one = trained("one", *settings)
    two = trained("two", *settings, "train.micro_batch=3", processes=2)
    assert strengths(one) == strengths(two)
    assert len(set(strengths(one))) > 2
    assert worst_difference(one, two) < 1e-9
    assert worst_weight_difference(one, two, 8) < 1e-9


def test_a_run_that_was_ended_goes_on_with_the_same_bits(trained):
    settings = [FREE, "augment={every: 2, speed: 0.5}", "train.precision=fp32"]
    whole = trained("whole", *settings, "train.length=11 steps")
    trained("parts", *settings, "train.length=5 steps")
    parts = trained("parts", *settings, "train.length=11 steps")
    assert_same_weights(whole, parts, 11)
    assert strengths(whole) == strengths(parts)
    assert len(set(strengths(whole))) > 2


def test_a_fixed_strength_trains_and_is_told_by_the_config_alone(trained):
    changed = trained("changed", "augment.strength=0.5", "train.length=2 steps")
    plain = trained("plain", "train.length=2 steps")
    assert not any(name.startswith("augment/") for line in lines(changed) for name in line)
    assert worst_difference(changed, plain) > 1e-3
    none = trained("none", "augment.strength=0", "train.length=2 steps")
    assert_same_weights(none, plain, 2)


def refusal(*overrides: str) -> str:
    with pytest.raises(Exception) as found:
        load_config([TINY], list(overrides))
    return str(found.value)


def test_what_cannot_follow_overfitting_is_refused():
    for loss in ("wasserstein", "relativistic"):
        assert "set data.holdout" in refusal("augment={}", f"objective.loss={loss}")
    for loss in ("nonsaturating", "minimax", "hinge"):
        assert load_config([TINY], ["augment={}", f"objective.loss={loss}"]).augment.strength == "adaptive"
    assert "augment.every: has no effect" in refusal("augment={strength: 0.2, every: 9}")
    assert "augment.strength: 1.5 is not allowed" in refusal("augment.strength=1.5")
    assert load_config([TINY], []).augment is None
