"""Metrics by torch-fidelity. Its file of weights cannot be had everywhere: these tests use one of random weights."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch_fidelity
from evaluated import config_of, copied, evaluated, evaluator_of, runtime_of
from forked import in_processes
from torch_fidelity import feature_extractor_inceptionv3

from distgan.assembly import make_generator
from distgan.errors import ConfigError
from distgan.evaluation import inception
from distgan.evaluation.crew import Crew
from distgan.evaluation.inception import FILE, weights
from distgan.evaluation.shares import drawn

OF_INCEPTION = "fid,kid,inception_score,precision_recall"
COUNT = 10


class Untrained(feature_extractor_inceptionv3.FeatureExtractorInceptionV3):
    """With the weights that its layers begin with."""

    def load_state_dict(self, state):
        pass


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("inception") / "random.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda url, progress: {})
        torch.save(Untrained("random", ["2048"]).state_dict(), file)
    return file


@pytest.fixture
def nothing_there(monkeypatch, tmp_path) -> Path:
    """Where torch.hub keeps files, which holds none, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))

    def refused(*_, **__):
        raise URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    return tmp_path / "hub" / "hub" / "checkpoints"


@pytest.mark.parametrize("layer", [192, pytest.param(2048, marks=pytest.mark.long)])
def test_values_are_those_of_torch_fidelity(known_shards, random_weights, monkeypatch, layer):
    """Of 2,048 features its FID takes half a minute."""
    monkeypatch.setattr(inception, "_LAYERS", [str(layer), "logits_unbiased"])
    monkeypatch.setattr(inception.InceptionExtractor, "width", layer)
    config = config_of(known_shards, OF_INCEPTION, f"evaluate.inception={random_weights}", f"evaluate.count={COUNT}")
    evaluator = evaluator_of(config)
    generator = runtime_of(config).place(make_generator(config)).eval()
    found = evaluator.measure(generator)
    with Crew(evaluator._runtime, 50, lambda: None) as crew:
        fakes = torch.cat(drawn(crew, generator, config.seed, COUNT, None).parts)
        reals = torch.cat(evaluator._reals.compared_share(crew).parts)
    theirs = torch_fidelity.calculate_metrics(
        input1=Pictures(fakes),
        input2=Pictures(reals),
        **{"fid": True, "kid": True, "isc": True, "prc": True, "kid_subset_size": COUNT},
        feature_extractor="inception-v3-compat",  # of precision and recall too
        **{f"feature_layer_{name}": str(layer) for name in ("fid", "kid", "prc")},
        feature_extractor_weights_path=str(random_weights),
        **{"cuda": False, "cache": False, "verbose": False, "batch_size": COUNT, "save_cpu_ram": True},
    )
    names = {
        "fid": "frechet_inception_distance",
        "kid": "kernel_inception_distance_mean",
        "inception_score": "inception_score_mean",
        "precision": "precision",
        "recall": "recall",
    }
    assert found == {ours: pytest.approx(theirs[name], rel=1e-4, abs=1e-9) for ours, name in names.items()}
    assert found["fid"] > 0


class Pictures(torch.utils.data.Dataset):
    """Grey ones as torch-fidelity takes them."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.pixels = pixels.expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.pixels[number]


def test_without_weights_one_line_says_what_is_missing_and_the_rest_goes_on(known_shards, nothing_there, capfd):
    config = config_of(known_shards, f"{OF_INCEPTION},ms_ssim")
    evaluator = evaluator_of(config)
    evaluator.prepare()
    assert list(evaluator.left_out) == OF_INCEPTION.split(",")
    fetching, left_out = capfd.readouterr().err.splitlines()
    assert left_out == (
        "distgan: evaluate: fid, kid, inception_score, precision_recall left out: Inception's weights are needed, "
        f"which could not be fetched (no route); put {FILE} of torch-fidelity's release v0.2.0 into {nothing_there}, "
        "or name it in evaluate.inception"
    )
    assert set(evaluator.measure(make_generator(config))) == {"ms_ssim"}


@pytest.mark.parametrize("content", [None, b"", b"weights", "other"])
def test_a_file_that_is_named_and_does_not_fit_is_refused(known_shards, tmp_path, content, nothing_there):
    file = tmp_path / "file.pth"
    if content == "other":
        torch.save({"weight": torch.zeros(3)}, file)
    elif content is not None:
        file.write_bytes(content)
    evaluator = evaluator_of(config_of(known_shards, "fid", f"evaluate.inception={file}"))
    wrong = "no such file" if content is None else "does not hold Inception's weights"
    with pytest.raises(ConfigError, match=f"evaluate.inception: {file}: {wrong}; give .*{FILE}"):
        evaluator.prepare()


def test_a_damaged_file_of_the_cache_is_told(nothing_there):
    nothing_there.mkdir(parents=True)
    (nothing_there / FILE).write_bytes(b"half")
    found = weights(None)
    assert found.state is None and not found.is_mistake
    assert found.problem.endswith("does not hold Inception's weights; remove it, so that it is fetched again")


def test_too_few_pictures_for_a_metric_are_refused(known_shards):
    with pytest.raises(ConfigError, match="evaluate.count: 9 pictures are too few for inception_score; use 10 or more"):
        evaluator_of(config_of(known_shards, "inception_score", "evaluate.count=9"))


@pytest.mark.long
def test_two_processes_find_what_one_does_to_the_bit(known_shards, random_weights, tmp_path):
    found = []
    for processes in (1, 2):
        shards = copied(known_shards, tmp_path / f"shards {processes}")
        settings = [f"evaluate.inception={random_weights}", "evaluate.count=60"]
        config = config_of(shards, OF_INCEPTION, *settings)
        members = in_processes(processes, tmp_path / str(processes), evaluated, config, seconds=250)
        assert all(member == members[0] for member in members), "processes differ, or gave signs of life unequally"
        found.append(members[0][0])
    assert found[0] == found[1]
