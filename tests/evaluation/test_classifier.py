"""The classifier whose features a run's pictures are compared in."""

from __future__ import annotations

import pytest
import torch
from evaluated import config_of, evaluator_of
from PIL import Image

from distgan.data.prepare import prepare
from distgan.evaluation import classifier
from distgan.evaluation.classifier import FEATURES, Classifier
from distgan.evaluation.store import Store


def test_it_names_drawn_shapes(known_shards):
    store = Store(evaluator_of(config_of(known_shards, "modes"))._reals.dataset)
    [file] = (known_shards / "evaluation").glob("classifier*")
    kept = store.load(file.name)
    assert kept.facts["accuracy"] > 0.9
    assert kept.tensors["classes"].tolist() == [0, 1, 2, 3]


def test_a_long_training_says_how_far_it_is(known_shards, monkeypatch, capfd):
    monkeypatch.setattr(classifier, "_STEPS", 3)
    monkeypatch.setattr(classifier, "_SECONDS_A_LINE", 0.0)
    dataset = evaluator_of(config_of(known_shards, "modes"))._reals.dataset
    classifier.train(dataset, torch.device("cpu"), lambda: None)
    assert capfd.readouterr().err.splitlines() == [
        f"distgan: evaluate: the classifier has had {number} of 3 updates" for number in range(3)
    ]


@pytest.mark.parametrize("resolution", [16, 28, 65, 128])
def test_it_takes_pictures_of_any_size(resolution):
    features, logits = Classifier(3, 5)(torch.zeros(2, 3, resolution, resolution, dtype=torch.uint8))
    assert features.shape == (2, FEATURES) and logits.shape == (2, 5)


def test_unlabelled_shards_have_the_other_metrics(tmp_path, capfd):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(8):
        Image.effect_noise((16, 16), 40).save(pictures / f"{number}.png")
    prepare("images", pictures, tmp_path / "shards", resolution=16, channels=1, workers=1)
    evaluator = evaluator_of(config_of(tmp_path / "shards", "ms_ssim,fd_own,modes"))
    capfd.readouterr()
    evaluator.prepare()
    assert list(evaluator.left_out) == ["fd_own", "modes"]
    assert capfd.readouterr().err == (
        "distgan: evaluate: fd_own, modes left out: a classifier is needed, and the shards have no labels of two "
        "classes or more; prepare the shards with labels, or leave them out of evaluate.metrics\n"
    )
