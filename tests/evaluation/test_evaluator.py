"""What an evaluation finds, on however many processes, and what it leaves as it was."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from evaluated import Fixed, config_of, copied, evaluated, evaluator_of, runtime_of
from forked import in_processes
from torch.nn import functional

from distgan.assembly import make_generator
from distgan.errors import ConfigError
from distgan.evaluation import classifier

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


def blurred(pictures: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        pictures = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return pictures


def test_the_more_real_pictures_are_blurred_the_farther_they_are(known_shards, monkeypatch):
    evaluator = evaluator_of(config_of(known_shards, "swd,fd_own,modes"))
    monkeypatch.setattr(evaluator._runtime, "cores", 1)  # the generator below draws in turn
    dataset = evaluator._reals.dataset
    others = dataset.read(evaluator._reals.samples[200:320].astype("int64")).float() / 127.5 - 1
    real, slight, much = (evaluator.measure(Fixed(blurred(others, times))) for times in (0, 1, 3))
    for name in ("swd", "fd_own"):
        assert real[name] < slight[name] < much[name]
        assert real[name] == pytest.approx(real[f"{name}_floor"], rel=0.5)
    assert real["modes"] == 4 and real["modes_kl"] < 0.05


def test_a_set_without_an_index_is_refused(known_shards):
    with pytest.raises(ConfigError, match="evaluate: data.order resampled has no index"):
        evaluator_of(config_of(known_shards, "swd", "data.order=resampled"))
