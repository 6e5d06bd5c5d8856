"""What an evaluation finds, on however many processes, and what it leaves as it was."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from evaluated import ByLabel, Fixed, config_of, copied, evaluated, evaluator_of, runtime_of
from forked import in_processes
from torch.nn import functional

from distgan.assembly import make_generator
from distgan.config import Config
from distgan.errors import ConfigError
from distgan.evaluation import classifier
from distgan.evaluation.evaluator import Evaluator
from distgan.metrics.similarity import ms_ssim

ALL_OF_OURS = "swd,ms_ssim,fd_own,precision_recall_own,modes"


def test_any_number_of_processes_finds_the_same_to_the_bit(known_shards, tmp_path):
    found = {}
    for processes in (1, 2, 3):
        shards = copied(known_shards, tmp_path / f"shards {processes}")  # the reals are measured anew
        config = config_of(shards, ALL_OF_OURS, "data.classes=4", "train.batch_size=6")
        members = in_processes(processes, tmp_path / str(processes), evaluated, config)
        assert all(member == members[0] for member in members), "processes differ, or gave signs of life unequally"
        found[processes] = members[0][0]
    names = "swd swd_16 swd_floor ms_ssim fd_own fd_own_floor precision_own recall_own modes modes_kl label_accuracy"
    assert set(found[1]) == set(names.split())
    assert found[1] == found[2] == found[3]


@pytest.mark.parametrize(("holdout", "count"), [(340, 100), (0, 51)])
def test_a_process_may_have_but_a_part_of_a_block(known_shards, tmp_path, holdout, count):
    """Of 60 pictures the second of two processes has the last 10, and none of the half that the floor is of; of 51 it
    has one, and no pair."""
    found = []
    for processes in (1, 2):
        settings = [f"evaluate.count={count}", *[f"data.holdout={holdout} images"] * bool(holdout)]
        config = config_of(copied(known_shards, tmp_path / f"shards {processes}"), "swd,ms_ssim", *settings)
        found += [metrics for metrics, _ in in_processes(processes, tmp_path / str(processes), evaluated, config)]
    assert found[0] == found[1] == found[2]


def test_the_classifier_is_the_same_for_any_number_of_processes(known_shards, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "_EPOCHS", 2)
    kept = []
    for processes in (1, 2):
        shards = shutil.copytree(known_shards, tmp_path / f"shards {processes}")
        shutil.rmtree(shards / "evaluation")
        in_processes(processes, tmp_path / str(processes), evaluated, config_of(shards, "modes"))
        kept += [path.read_bytes() for path in (shards / "evaluation").glob("classifier*")]
    assert len(kept) == 2 and kept[0] == kept[1]


@pytest.mark.parametrize("training", [True, False])
def test_a_generator_is_left_as_it_was(own_shards, training, monkeypatch):
    monkeypatch.setattr(classifier, "_EPOCHS", 1)
    shutil.rmtree(own_shards / "evaluation")
    config = config_of(own_shards, "ms_ssim,modes")
    generator = runtime_of(config).place(make_generator(config)).train(training)
    list(generator.children())[-1].train(not training)
    generator.requires_grad_(training)
    before, modes = copy.deepcopy(generator.state_dict()), [part.training for part in generator.modules()]
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    first = evaluator_of(config).measure(generator)
    assert torch.equal(torch.get_rng_state(), random) and torch.get_num_threads() == threads
    assert [part.training for part in generator.modules()] == modes
    assert all(parameter.requires_grad is training for parameter in generator.parameters())
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert evaluator_of(config).measure(generator.eval()) == first


def drawing_in_turn(config: Config) -> Evaluator:
    """On one thread, for generators that draw in turn."""
    evaluator = evaluator_of(config)
    evaluator._runtime.cores = 1
    return evaluator


def reals(evaluator: Evaluator, first: int, last: int) -> torch.Tensor:
    """Some of the real pictures in the order of evaluations, in [-1, 1]."""
    samples = evaluator._reals.samples[first:last].astype("int64")
    return evaluator._reals.dataset.read(samples).float() / 127.5 - 1


def blurred(pictures: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        pictures = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return pictures


def test_the_more_real_pictures_are_blurred_the_farther_they_are(known_shards):
    evaluator = drawing_in_turn(config_of(known_shards, "swd,fd_own,modes"))
    others = reals(evaluator, 200, 320)
    real, slight, much = (evaluator.measure(Fixed(blurred(others, times))) for times in (0, 1, 3))
    for name in ("swd", "fd_own"):
        assert real[name] < slight[name] < much[name]
        assert real[name] == pytest.approx(real[f"{name}_floor"], rel=0.5)
    assert real["modes"] == 4 and real["modes_kl"] < 0.05


def test_a_generator_of_other_real_pictures_is_at_the_floor(known_shards):
    """The floor is between the first 200 of the 400 pictures and the other 200."""
    evaluator = drawing_in_turn(config_of(known_shards, "swd,fd_own", "evaluate.count=200"))
    found = evaluator.measure(Fixed(reals(evaluator, 200, 400)))
    assert found["fd_own"] == pytest.approx(found["fd_own_floor"], rel=1e-4)
    assert found["swd"] == pytest.approx(found["swd_floor"], rel=0.1)  # of other patches


def test_a_floor_is_between_the_halves_of_a_set_that_has_not_twice_the_count(known_shards, tmp_path):
    floors = []
    for count in (200, 300):
        shards = copied(known_shards, tmp_path / str(count))  # the reals are measured anew
        evaluator = drawing_in_turn(config_of(shards, "swd,fd_own", f"evaluate.count={count}"))
        found = evaluator.measure(Fixed(reals(evaluator, 0, count)))
        floors.append((found["swd_floor"], found["fd_own_floor"]))
    assert floors[0] == floors[1] and min(floors[0]) > 0


def test_label_accuracy_is_the_share_of_pictures_that_are_of_the_class_asked_for(known_shards):
    evaluator = evaluator_of(config_of(known_shards, "modes", "data.classes=4"))
    labels, pictures = evaluator._reals.labels, reals(evaluator, 0, 120)
    one_each = torch.stack([pictures[labels[:120] == label][0] for label in range(4)])
    shares = [(labels[:120] == label).double().mean().item() for label in range(4)]

    def accuracy(*drawn: int) -> float:
        return evaluator.measure(ByLabel(one_each[list(drawn)]))["label_accuracy"]

    assert accuracy(0, 1, 2, 3) == 1 and accuracy(1, 2, 3, 0) == 0
    assert accuracy(1, 0, 2, 3) == pytest.approx(shares[2] + shares[3])
    assert accuracy(2, 2, 2, 2) == pytest.approx(shares[2])


def test_similarity_is_of_each_even_picture_with_the_next(known_shards):
    evaluator = drawing_in_turn(config_of(known_shards, "ms_ssim", "evaluate.count=101"))
    pictures = reals(evaluator, 0, 101)
    pixels = ((pictures + 1) * 127.5).round().to(torch.uint8)
    wanted = ms_ssim(pixels[0:100:2], pixels[1:100:2]).mean().item()
    assert evaluator.measure(Fixed(pictures)) == {"ms_ssim": pytest.approx(wanted, rel=1e-12)}


def test_a_set_without_an_index_is_refused(known_shards):
    with pytest.raises(ConfigError, match="evaluate: data.order resampled has no index"):
        evaluator_of(config_of(known_shards, "swd", "data.order=resampled"))
