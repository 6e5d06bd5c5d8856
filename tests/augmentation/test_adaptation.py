"""Trainings whose strength of augmentation follows the overfitting of the critic."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forked import in_processes
from launching import ROOT, TINY, assert_same_weights, lines, worst_difference, worst_weight_difference
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from distgan import randomness
from distgan.adaptation import Adaptation
from distgan.assembly import make_generator
from distgan.config import load_config
from distgan.data.dataset import open_dataset
from distgan.data.prepare import prepare
from distgan.inputs import Inputs
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
FREE = 'data.holdout="224 images"'


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


def test_one_and_two_processes_give_the_same_strength_and_curve(trained):
    settings = [FREE, "augment={every: 2, speed: 0.5, target: 0.3}", "train.length=8 steps"]
    one = trained("one", *settings)
    two = trained("two", *settings, "train.micro_batch=3", processes=2)
    assert strengths(one) == strengths(two)
    assert len(set(strengths(one))) > 2
    assert worst_difference(one, two) < 1e-9
    assert worst_weight_difference(one, two, 8) < 1e-9


def test_a_run_that_was_ended_goes_on_with_the_same_bits(trained):
    settings = [FREE, "augment={every: 2, speed: 0.5}", "train.precision=fp32"]
    whole = trained("whole", *settings, "train.length=9 steps", begin_with=0.5)
    trained("parts", *settings, "train.length=5 steps", begin_with=0.5)
    parts = trained("parts", *settings, "train.length=9 steps")
    assert_same_weights(whole, parts, 9)
    assert strengths(whole) == strengths(parts)
    assert strengths(whole)[4] > 0 and len(set(strengths(whole))) > 2


def test_a_fixed_strength_trains_and_is_told_by_the_config_alone(trained):
    run = trained("changed", "augment.strength=0.5", "train.length=2 steps")
    assert not any(name.startswith("augment/") for line in lines(run) for name in line)


def test_a_look_leaves_nothing_behind(trained):
    """At a strength next to none: batch norm's statistics, and the order of the pictures, are as without a look."""
    settings = [FREE, "generator.norm=batch", "train.length=3 steps"]
    looked = trained("looked", *settings, "augment={every: 1, speed: 1e9}")
    plain = trained("plain", *settings)
    assert all("augment/overfitting" in line for line in lines(looked))
    for name in ("generator", "generator_ema", "critic"):
        one, other = (load_file(run / "checkpoints" / "00000003" / f"{name}.safetensors") for run in (looked, plain))
        assert all(torch.equal(one[key], other[key]) for key in one | other), name


class Doubled(nn.Module):
    """An augmentation: reals are doubled, fakes get two more."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("strength", torch.zeros(()))

    def forward(self, pictures: Tensor, keys: Tensor, role: str) -> Tensor:
        return 2 * pictures if role == "real" else pictures + 2


def adaptation_of(
    *settings: str, file: Path = TINY, seen: Tensor | None = None, unseen: float = 0.0, begins: float = 0.0
) -> tuple[Adaptation, Doubled, list[int]]:
    """Of a critic that scores a picture by its mean, on `seen`, held-out pictures of `unseen` and fakes of 1; its
    augmentation; and where the held-out pictures have been opened."""
    config, opened = load_config([file], [*settings]), []
    batch, augmentation = config.train.batch_size, Doubled()
    augmentation.strength.fill_(begins)
    real, keys = torch.zeros(batch) if seen is None else seen, torch.arange(batch)

    def shown(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1).expand(-1, 3, 4, 4)

    def held_out(size: int, seed: int, position: int, place: object) -> Iterator[Tensor]:
        opened.append(position)
        return (torch.full((batch,), unseen) for _ in range(99))

    phases = SimpleNamespace(
        generator=nn.Identity(),
        critic_phase=SimpleNamespace(network=lambda x, labels, keys: x.mean((1, 2, 3))),
        augmentation=augmentation,
        generate=lambda part, as_in_updates: torch.ones_like(part.real),
        positions=keys,
        micro_batch=3,
        stage=config.course.stage(0),
    )
    phases.critic_phase.network.buffers = list
    reader = SimpleNamespace(
        newest=Inputs(shown(real), None, keys), prepare=lambda batch, keys: Inputs(shown(batch), None, keys)
    )
    runtime = SimpleNamespace(
        device=torch.device("cpu"),
        gather=lambda rows: rows,
        autocast=contextlib.nullcontext,
        rank=0,
        world_size=1,
        local_rank=0,
        local_size=1,
        cores=1,
        share_on_machine=None,
        union=None,
    )
    return Adaptation(config, runtime, phases, reader, SimpleNamespace(held_out=held_out)), augmentation, opened


HELD_OUT = 'data.holdout="16 images"'


@pytest.mark.parametrize(
    ("target", "begins", "ends"),
    [(0.66, 0.5, 0.5 + 0.064), (0.67, 0.5, 0.5 - 0.064), (0.66, 0.99, 1.0), (0.67, 0.01, 0.0)],
)
def test_with_held_out_pictures_it_is_r_v_of_what_the_critic_sees(target, begins, ends):
    """3, 2 and 1 are to it 6, 4 and 3. A move is 2 steps of 2 batches of 16 images, of a thousand."""
    settings = [HELD_OUT, f"augment={{every: 2, speed: 1, target: {target}}}"]
    adaptation, augmentation, _ = adaptation_of(*settings, seen=torch.full((16,), 3.0), unseen=2.0, begins=begins)
    with adaptation.at(0):
        adaptation.after(1)
        assert augmentation.strength == pytest.approx(begins) and "augment/overfitting" not in adaptation.metrics()
        adaptation.after(2)
    assert adaptation.metrics() == pytest.approx({"augment/strength": ends, "augment/overfitting": 2 / 3})


@pytest.mark.parametrize("seen", [0.5, 1.0, -3.0])
def test_it_is_none_where_training_pictures_are_no_better_than_fakes(seen):
    adaptation, *_ = adaptation_of(HELD_OUT, "augment={every: 1}", seen=torch.full((16,), seen), unseen=-9.0)
    with adaptation.at(0):
        adaptation.after(1)
    assert adaptation.metrics() == {"augment/strength": 0.0, "augment/overfitting": 0.0}


def test_without_them_it_is_the_mean_sign_of_training_scores():
    seen = torch.tensor([9.0, 0.1, 5.0, -0.1] * 4)
    adaptation, *_ = adaptation_of("objective.loss=hinge", "augment={every: 1, target: 0.4, speed: 1}", seen=seen)
    with adaptation.at(0):
        adaptation.after(1)
    assert adaptation.metrics() == pytest.approx({"augment/strength": 0.032, "augment/overfitting": 0.5})


@pytest.mark.parametrize("every", [1, 3, 5])
def test_held_out_pictures_go_on_where_the_looks_before_ended_also_through_growth(every):
    settings = (HELD_OUT, f"augment={{every: {every}}}")
    course = load_config([ROOT / "tests" / "growing.yaml"], [*settings]).course
    adaptation, _, opened = adaptation_of(*settings, file=ROOT / "tests" / "growing.yaml")
    for step in range(course.steps + 1):
        with adaptation.at(step):
            looked = [course.stage(done - 1).batch_size for done in range(every, step + 1, every)]
        assert opened[-1] == sum(looked)
    assert {stage.batch_size for stage in course.stages} == {8, 16}


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
