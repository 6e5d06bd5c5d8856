"""Points in the plane: WGAN-GP finds the modes, and the command trains, measures and draws."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.optim import SGD

from distgan.cli import main
from distgan.errors import Diverged
from distgan.toys import commands, plane, plane_report, points
from distgan.toys.plane import METHODS, Training
from distgan.toys.points import DISTRIBUTIONS

BRIEF = Training(steps=3, seed=0)


class TestTraining:
    @pytest.mark.slow
    def test_wgan_gp_finds_all_eight_gaussians(self):
        found = plane_report.measure_all("8gaussians", ["wgan-gp"], Training(steps=800, seed=0))
        match = found.panels[0].match
        assert (match.found, match.touched) == (8, 8) and match.near > 0.3

    @pytest.mark.long
    def test_wgan_gp_finds_all_25_gaussians(self):
        """All are touched; with other rounding two have had less than a tenth of their share."""
        match = plane_report.measure_all("25gaussians", ["wgan-gp"], Training(steps=4000, seed=1)).panels[0].match
        assert match.touched == 25 and match.found >= 23 and match.near > 0.45

    @pytest.mark.parametrize("name", METHODS)
    def test_the_same_seed_gives_the_same_networks_and_another_seed_others(self, name):
        def values(seed: int) -> list[float]:
            trained = plane.train(METHODS[name], DISTRIBUTIONS["25gaussians"], Training(steps=3, seed=seed))
            drawn = trained.points(torch.arange(5))
            return [*drawn.flatten().tolist(), *trained.values(drawn).tolist()]

        first = values(0)
        torch.rand(7)
        assert values(0) == first and values(1) != first

    def test_each_step_is_told_and_trains_both_networks(self):
        told, networks = [], []
        for steps in (1, 2):
            training = Training(steps=steps, seed=0)
            networks.append(plane.train(METHODS["gan"], DISTRIBUTIONS["8gaussians"], training, lambda: told.append(1)))
        assert len(told) == 3
        for one, other in zip(*networks, strict=True):
            pairs = zip(one.parameters(), other.parameters(), strict=True)
            assert all(not torch.equal(a, b) for a, b in pairs)

    def test_the_clipped_critic_is_clipped_and_the_others_are_not(self):
        for name, method in METHODS.items():
            critic = plane.train(method, DISTRIBUTIONS["8gaussians"], BRIEF).critic
            largest = max(parameter.abs().max().item() for parameter in critic.parameters())
            assert largest == pytest.approx(0.01) if name == "wgan" else largest > 0.1

    def test_the_plain_gan_differs_from_wgan_gp_in_loss_and_penalty_alone(self):
        penalised, plain = METHODS["wgan-gp"], METHODS["gan"]
        assert plain.optimizer is penalised.optimizer and plain.decay == penalised.decay and plain.clip is None

    def test_a_critic_does_not_begin_as_a_cone_over_the_origin(self):
        networks, drawn = plane._networks(seed=0), DISTRIBUTIONS["25gaussians"].draw(torch.arange(50))
        ratios = networks.values(2 * drawn) / networks.values(drawn)
        assert (ratios - 2).abs().median() > 0.05

    def test_a_training_that_diverges_is_an_error_and_no_number(self):
        method = METHODS["wgan-gp"]._replace(optimizer=partial(SGD, lr=1e30))
        with pytest.raises(Diverged, match="WGAN-GP: the training diverged"):
            plane.train(method, DISTRIBUTIONS["8gaussians"], BRIEF)

    def test_generated_points_are_those_of_the_latents_on_the_scale_of_the_real_ones(self):
        trained = plane.train(METHODS["wgan-gp"], DISTRIBUTIONS["8gaussians"], BRIEF)
        keys = torch.arange(50)
        drawn = trained.points(keys)
        pictures = trained.generator(plane.randomness.normal(keys, "latent", (plane.LATENT,)))
        assert drawn.shape == (50, 2) and torch.equal(drawn, pictures.detach().flatten(1) * points.REACH)
        assert torch.allclose(trained.values(drawn), trained.critic(pictures).detach(), atol=1e-6)


class TestTheCommand:
    @pytest.fixture
    def run(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(plane, "EVALUATION", 250)
        monkeypatch.setattr(plane_report, "EVALUATION", 250)
        return lambda *words: main(["toy", "plane", "--steps", "3", *map(str, words)])

    def test_it_prints_a_row_for_the_floor_and_each_method_and_the_picture_last(self, run, tmp_path, capsys):
        out = tmp_path / "new" / "folder" / "toy.png"
        assert run("--method", "wgan-gp,gan", "--out", out) == 0
        printed = capsys.readouterr()
        head, *rows = printed.out.splitlines()
        assert head.split() == ["W1", "near", "found", "touched"] and printed.err == ""
        found = plane_report.measure_all("25gaussians", ["wgan-gp", "gan"], BRIEF)
        matches = [found.floor, *(panel.match for panel in found.panels)]
        for row, name, match in zip(rows, ["other real points", "WGAN-GP", "plain GAN"], matches, strict=False):
            assert row.strip().startswith(name)
            cells = row.strip().removeprefix(name).split()
            counts = f"{match.found} of 25 {match.touched} of 25".split()
            assert cells == [f"{match.wasserstein:.4f}", f"{match.near:.1%}", *counts]
        assert "between 250 points" in rows[3] and rows[-1] == str(out)

    def test_it_draws_a_panel_for_each_method_under_the_default_name(self, run, tmp_path):
        sizes = []
        for methods in ("wgan-gp", "wgan-gp,gan,wgan"):
            assert run("--method", methods) == 0
            assert [path.name for path in tmp_path.iterdir()] == ["plane.png"]
            with Image.open(tmp_path / "plane.png") as picture:
                sizes.append(picture.size)
                panels = np.array_split(np.asarray(picture.convert("RGB")).astype(int), methods.count(",") + 1, axis=1)
            for panel in panels:
                red, green, blue = panel.transpose(2, 0, 1)
                assert ((red > 200) & (green < 210) & (blue < 160)).sum() > 100  # the orange of the real points
        assert sizes[1] == (3 * sizes[0][0], sizes[0][1])

    def test_a_roll_has_no_modes_to_count(self, run, capsys):
        assert run("--data", "swissroll") == 0
        head, floor, *_ = capsys.readouterr().out.splitlines()
        assert head.split() == ["W1", "near"] and float(floor.split()[-1].rstrip("%")) > 98

    def test_a_method_named_twice_is_trained_once(self, run, capsys):
        assert run("--method", "gan,gan") == 0
        assert capsys.readouterr().out.count("plain GAN") == 1

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--data", "9gaussians"), "--data 9gaussians: must be one of 8gaussians, 25gaussians, swissroll"),
            (("--method", "dragan"), "--method dragan: must be one or more, with commas, of wgan-gp, gan, wgan"),
            (("--method", "gan,"), "--method gan,: must be one or more"),
            (("--method", ""), "--method : must be one or more"),
            (("--steps", "0"), "--steps 0: must be 1 or more"),
        ],
    )
    def test_a_bad_value_is_one_clear_line_and_status_2(self, run, tmp_path, capsys, words, message):
        assert run(*words) == 2
        errors = capsys.readouterr().err
        assert errors.startswith(f"distgan: {message}") and errors.count("\n") == 1
        assert not list(tmp_path.iterdir())

    def test_a_picture_that_cannot_be_written_is_one_clear_line_before_any_training(self, run, tmp_path, capsys):
        assert run("--out", ".", "--steps", 10**9) == 1
        errors = capsys.readouterr().err
        assert errors.startswith("distgan: --out .: cannot be written: ") and errors.count("\n") == 1

    def test_in_a_file_a_line_now_and_then_says_how_far_it_is(self, run, capsys, monkeypatch):
        monkeypatch.setattr(plane_report, "SECONDS_A_LINE", 0.0)
        assert run("--method", "gan,wgan-gp") == 0
        assert capsys.readouterr().err.splitlines() == [f"plane: {n} of 6 steps" for n in range(1, 7)]

    def test_it_offers_every_distribution_and_method(self):
        assert (list(commands.DISTRIBUTIONS), list(commands.METHODS)) == (list(DISTRIBUTIONS), list(METHODS))
