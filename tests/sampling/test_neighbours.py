"""The nearest training pictures of samples, on a set that holds them and on others."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import make_run

from distgan.cli import main
from distgan.config.schema import Data
from distgan.data.dataset import Indexed, open_dataset
from distgan.sampling.neighbours import compare, nearest


def opened(shards: Path, **settings: object) -> Indexed:
    return open_dataset(Data(shards=str(shards), resolution=32, **settings))


def all_of(dataset: Indexed) -> torch.Tensor:
    return dataset.read(np.arange(dataset.shards.count))


class TestEachOnce:
    @pytest.mark.parametrize(
        "settings",
        [{}, {"order": "window", "window": 2}, {"partitions": 2}, {"holdout": "40 images"}, {"stage": True}],
        ids=lambda settings: str(settings),
    )
    def test_every_picture_that_is_trained_on_comes_once_as_itself(self, shapes_shards, tmp_path, settings):
        dataset = opened(shapes_shards, cache=str(tmp_path), **settings)
        pictures, seen = all_of(dataset), []
        for numbers, pixels in dataset.each_once(30, threads=2):
            assert len(numbers) == len(pixels) <= 30
            assert torch.equal(pixels, pictures[torch.from_numpy(numbers)])
            seen += numbers.tolist()
        assert sorted(seen) == dataset.split.train.tolist()

    def test_one_may_stop_before_the_end(self, shapes_shards):
        assert len(list(islice(opened(shapes_shards).each_once(30, threads=2), 2))) == 2


class TestNearest:
    def test_it_is_what_a_plain_comparison_finds(self, shapes_shards):
        dataset = opened(shapes_shards)
        pictures = all_of(dataset)
        queries = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
        found = nearest(dataset, queries, 7, np.full(5, -1))
        real, drawn = (images.double() / 127.5 - 1 for images in (pictures, queries))
        for query in range(5):
            distances = (real - drawn[query]).square().sum((1, 2, 3)).sqrt()
            wanted = distances.sort(stable=True)
            assert torch.allclose(found.distances[query], wanted.values[:7], rtol=1e-12, atol=0)
            assert torch.allclose(distances[found.numbers[query]], wanted.values[:7], rtol=1e-12, atol=0)
        assert not found.mirrored.any()

    def test_a_copy_is_at_distance_zero_and_mirrored_only_where_training_mirrors(self, shapes_shards):
        copies = all_of(opened(shapes_shards))[[3, 100]]
        copies[1] = copies[1].flip(-1)
        plain, flipping = (
            nearest(opened(shapes_shards, flip=flip), copies, 1, np.full(2, -1)) for flip in (False, True)
        )
        assert flipping.distances.flatten().tolist() == [0, 0] and flipping.numbers.flatten().tolist() == [3, 100]
        assert flipping.mirrored.flatten().tolist() == [False, True]
        assert plain.distances[0, 0] == 0 and plain.distances[1, 0] > 1

    def test_held_out_pictures_are_the_measure_and_else_the_others(self, shapes_shards):
        samples = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        held = compare(opened(shapes_shards, holdout="40 images"), samples, 1)
        rest = compare(opened(shapes_shards), samples, 1)
        assert held.held_out and len(held.measures.distances) == 40
        assert not rest.held_out and len(rest.measures.distances) == 256
        assert (rest.measures.numbers.flatten() != torch.arange(256)).all()  # none is its own neighbour
        trained = opened(shapes_shards, holdout="40 images").split.train
        assert np.isin(held.measures.numbers.numpy(), trained).all()


class TestCommand:
    def test_a_sheet_and_the_distances(self, shapes_shards, tmp_path, capsys):
        run = make_run(tmp_path / "run", f"data.shards={shapes_shards}", "data.holdout=40 images")
        assert main(["sample", str(run), "--seeds", "4,9", "--neighbours", "3"]) == 0
        said = capsys.readouterr().out.splitlines()
        assert re.fullmatch(r"seed 4: (\d+\.\d\d ?){3}", said[0]) and said[1].startswith("seed 9: ")
        assert said[4].startswith("  40 held-out pictures ") and said[5].startswith("0 of 2 samples are nearer")
        assert said[6] == str(run / "neighbours.png")
        sheet = np.asarray(Image.open(run / "neighbours.png"))
        assert sheet.shape == (2 * 66, 4 * 66, 3)
        assert main(["sample", str(run), "--seeds", "4,9", "--out", f"{tmp_path}/p/"]) == 0
        dataset = opened(shapes_shards, holdout="40 images", flip=True)
        for row, name in enumerate(("seed0004.png", "seed0009.png")):
            picture = torch.from_numpy(np.array(Image.open(tmp_path / "p" / name))).permute(2, 0, 1)
            shown = torch.from_numpy(sheet.copy()).unflatten(0, (2, 66))[row][:64:2].unflatten(1, (4, 66))[:, :, :64:2]
            shown = shown.permute(1, 3, 0, 2)
            assert torch.equal(shown[0], picture)
            found = nearest(dataset, picture[None], 3, np.full(1, -1))
            neighbours = dataset.read(found.numbers[0].numpy())
            assert torch.equal(
                shown[1:],
                torch.stack([p.flip(-1) if m else p for p, m in zip(neighbours, found.mirrored[0], strict=True)]),
            )
            wanted = " ".join(f"{d:.2f}" for d in found.distances[0].tolist())
            assert said[row].endswith(f": {wanted}")

    def test_a_generator_that_repeats_a_picture_is_found_out(self, shapes_shards, tmp_path, capsys):
        """One that draws a training picture whatever its latent is."""
        from safetensors.torch import load_file, save_file

        from distgan import checkpoint

        run = make_run(tmp_path / "run", f"data.shards={shapes_shards}", "generator={name: mlp, width: 8, depth: 1}")
        folder = run / "checkpoints" / "00000005"
        tensors = load_file(folder / "generator_ema.safetensors")
        picture = all_of(opened(shapes_shards))[17].float() / 127.5 - 1
        tensors["output.weight"].zero_()
        tensors["output.bias"].copy_(picture.clamp(-0.999999, 0.999999).flatten().atanh())
        save_file(tensors, folder / "generator_ema.safetensors")
        checkpoint.seal(folder, 5)
        assert main(["sample", str(run), "--count", "3", "--neighbours", "2"]) == 0
        said = capsys.readouterr().out.splitlines()
        assert [line.split()[2] for line in said[:3]] == ["0.00"] * 3
        assert "3 of 3 samples are nearer than the nearest 5 % of these reals" in said

    def test_the_pictures_may_have_moved(self, shapes_shards, tmp_path, capsys):
        run = make_run(tmp_path / "run", "data.shards=gone")
        assert main(["sample", str(run), "--count", "1", "--neighbours", "1"]) == 2
        assert "gone: no such folder" in capsys.readouterr().err
        assert main(["sample", str(run), "--count", "1", "--neighbours", "1", "--shards", str(shapes_shards)]) == 0

    def test_a_file_by_itself_does_not_say_what_it_was_trained_on(self, shapes_shards, tmp_path, capsys):
        run = make_run(tmp_path / "run", f"data.shards={shapes_shards}")
        alone = tmp_path / "alone.safetensors"
        (run / "checkpoints" / "00000005" / "generator_ema.safetensors").rename(alone)
        assert main(["sample", str(alone), "--neighbours", "1"]) == 2
        assert "does not say what it was trained on; name it with --config FILE" in capsys.readouterr().err
        words = ["--config", str(run / "config.yaml"), "--count", "2", "--out", str(tmp_path / "x.png")]
        assert main(["sample", str(alone), "--neighbours", "1", *words]) == 0
