"""Where W1 is known, WGAN-GP's critic finds it, the clipped one does not, and the plain GAN's cannot."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from distgan.cli import main
from distgan.errors import Diverged
from distgan.toys import lines, report
from distgan.toys.lines import Training

WEIGHT = 10.0
TRAINING = Training(steps=600, weight=WEIGHT, seed=0)
BRIEF = Training(steps=20, weight=WEIGHT, seed=0)


class TestThePoints:
    def test_they_are_on_two_lines_with_heights_of_their_own(self):
        real, fake = lines.draw(-0.5, torch.arange(4000))
        assert real.shape == fake.shape == (4000, 2, 1, 1)
        assert (real[:, 0] == -0.5).all() and (fake[:, 0] == 0).all()
        heights = torch.stack([real[:, 1], fake[:, 1]]).flatten(1)
        assert heights.min() >= 0 and heights.max() < 1
        assert torch.allclose(heights.mean(1), torch.tensor(0.5), atol=0.02)
        assert abs(torch.corrcoef(heights)[0, 1]) < 0.05


class TestPenalised:
    @pytest.mark.parametrize("theta", [0.25, 0.5, 1.0, 2.0, -1.0])
    def test_its_critic_finds_w1_and_its_raw_value_is_as_biased_as_predicted(self, theta):
        found = lines.penalised(theta, TRAINING)
        assert found.estimate == pytest.approx(abs(theta), rel=0.05)
        assert found.raw == pytest.approx(abs(theta) * (1 + abs(theta) / (2 * WEIGHT)), rel=0.05)

    def test_a_small_weight_biases_the_raw_value_threefold_and_the_estimate_not(self):
        found = lines.penalised(1.0, Training(steps=600, weight=0.25, seed=0))
        assert found.raw == pytest.approx(3.0, rel=0.05) and lines.predicted_raw(1.0, 0.25) == 3.0
        assert found.estimate == pytest.approx(1.0, rel=0.05)

    def test_lines_that_are_one_have_no_distance(self):
        """The evaluation's 4096 heights of each line make +-0.006 of a slope along the line."""
        found = lines.penalised(0.0, TRAINING)
        assert abs(found.estimate) < 0.025 and abs(found.raw) < 0.025

    def test_another_seed_finds_the_same_distance_with_other_numbers(self):
        one, other = (lines.penalised(0.5, Training(steps=600, weight=WEIGHT, seed=seed)) for seed in (0, 1))
        assert one != other and one.estimate == pytest.approx(other.estimate, rel=0.05)


class TestClipped:
    @pytest.mark.parametrize("theta", [0.5, -2.0])
    def test_its_value_is_an_order_of_magnitude_off_and_within_the_bound_of_its_weights(self, theta):
        value = lines.clipped(theta, TRAINING)
        assert 0 < value < abs(theta) / 10
        assert value <= 1.02 * lines.clipped_bound(theta)

    def test_the_bound_is_reached_by_weights_that_are_all_at_the_limit(self):
        critic = lines.build_critic("mlp", resolution=1, channels=2, classes=0, width=lines.WIDTH, depth=lines.DEPTH)
        for parameter in critic.parameters():
            torch.nn.init.constant_(parameter, lines.CLIP)
        points = torch.tensor([[0.5, 0.3], [0.0, 0.3]])[:, :, None, None]
        one, other = critic(points).tolist()
        assert one - other == pytest.approx(lines.clipped_bound(0.5), rel=1e-3)


class TestPlain:
    def test_it_is_log_2_and_does_not_tell_near_from_far(self):
        near, far = lines.jensen_shannon(0.5, TRAINING), lines.jensen_shannon(2.0, TRAINING)
        assert near == pytest.approx(math.log(2), rel=0.05)
        assert near == pytest.approx(far, rel=1e-3)

    def test_lines_that_are_one_have_none(self):
        assert abs(lines.jensen_shannon(0.0, TRAINING)) < 0.01

    def test_it_is_a_lower_bound_however_short_the_training(self):
        assert lines.jensen_shannon(0.5, BRIEF) < math.log(2)


def test_the_same_seed_gives_the_same_numbers():
    first = lines.measure(0.5, BRIEF)
    torch.rand(7)
    assert lines.measure(0.5, BRIEF) == first


def test_each_update_is_told():
    told = []
    lines.measure(0.5, Training(steps=3, weight=WEIGHT, seed=0), lambda: told.append(1))
    assert len(told) == 9


def test_a_critic_that_diverges_is_an_error_and_no_number():
    with pytest.raises(Diverged, match="theta 1: a critic diverged"):
        lines.penalised(1.0, Training(steps=3, weight=1e39, seed=0))


WAITING = """
import sys
from distgan.cli import main
from distgan.toys import report
report.measure = lambda *_: print("at work", flush=True) or input()
main(sys.argv[1:])
"""


class TestTheCommand:
    @pytest.fixture
    def run(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        return lambda *words: main(["toy", "lines", "--steps", "20", "--thetas=1,0,-0.5", *map(str, words)])

    def test_it_prints_a_row_for_each_theta_and_nothing_of_its_progress(self, run, tmp_path, capsys):
        assert run("--out", tmp_path / "new" / "folder" / "toy.png") == 0
        printed = capsys.readouterr()
        head, *rows = printed.out.splitlines()
        assert head.split("  ")[0] == "theta" and "predicted raw" in head
        found = [row.split() for row in rows[:3]]
        assert [(row[0], row[1], row[4], row[7]) for row in found] == [
            ("-0.5", "0.5000", "0.5125", "0.6931"),
            ("0", "0.0000", "0.0000", "0.0000"),
            ("1", "1.0000", "1.0500", "0.6931"),
        ]
        measured = lines.measure(1.0, BRIEF)
        assert found[2][2:4] == [f"{measured.penalised.estimate:.4f}", f"{measured.penalised.raw:.4f}"]
        assert found[2][5:7] == [f"{measured.clipped:.5f}", f"{measured.jensen_shannon:.4f}"]
        assert rows[-1] == str(tmp_path / "new" / "folder" / "toy.png") and printed.err == ""

    def test_it_draws_three_panels_under_the_default_name(self, run, tmp_path):
        assert run() == 0
        assert [path.name for path in tmp_path.iterdir()] == ["lines.png"]
        with Image.open(tmp_path / "lines.png") as picture:
            panels = np.array_split(np.asarray(picture.convert("RGB")), 3, axis=1)
        blue, red, green = (31, 119, 180), (214, 39, 40), (44, 160, 44)
        for panel, colour in zip(panels, (blue, red, green), strict=True):
            assert (panel == colour).all(-1).any()

    def test_one_theta_alone_is_drawn_too(self, run):
        assert run("--thetas", "0") == 0

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--thetas", "abc"), "--thetas abc: must be numbers"),
            (("--thetas", ""), "--thetas : must be numbers"),
            (("--thetas", "1,,2"), "--thetas 1,,2: must be numbers"),
            (("--thetas", "0,nan"), "--thetas 0,nan: must be numbers"),
            (("--thetas", "1e9"), "--thetas 1e9: must be numbers of at most 100"),
            (("--steps", "0"), "--steps 0: must be 1 or more"),
            (("--weight", "-1"), "--weight -1: must be more than 0"),
            (("--weight", "0"), "--weight 0: must be more than 0"),
            (("--weight", "nan"), "--weight nan: must be more than 0"),
        ],
    )
    def test_a_bad_value_is_one_clear_line_and_status_2(self, run, tmp_path, capsys, words, message):
        assert run(*words) == 2
        errors = capsys.readouterr().err
        assert errors.startswith(f"distgan: {message}") and errors.count("\n") == 1
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("out", [".", "file/below.png", "/dev/null/below.png"])
    def test_a_picture_that_cannot_be_written_is_one_clear_line_before_any_training(self, run, tmp_path, capsys, out):
        (tmp_path / "file").write_text("")
        assert run("--out", out, "--steps", 10**9) == 1
        errors = capsys.readouterr().err
        assert errors.startswith(f"distgan: --out {out}: cannot be written: ") and errors.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_in_a_file_a_line_now_and_then_says_how_far_it_is(self, run, capsys, monkeypatch):
        monkeypatch.setattr(report, "SECONDS_A_LINE", 0.0)
        assert run() == 0
        assert capsys.readouterr().err.splitlines()[1:] == ["lines: 1 of 3 distances", "lines: 2 of 3 distances"]

    def test_killed_it_leaves_nothing(self, tmp_path):
        words = [sys.executable, "-c", WAITING, "toy", "lines"]
        process = subprocess.Popen(words, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "at work\n"
        process.kill()
        process.communicate()
        assert not list(tmp_path.iterdir())

    def test_a_failure_leaves_nothing_half_written(self, run, tmp_path, capsys):
        assert run("--weight", "1e39") == 1
        assert "diverged" in capsys.readouterr().err and not list(tmp_path.iterdir())
