from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from distgan.tracking import pictures
from distgan.tracking.curves import save_curves


def tile(sheet: np.ndarray, row: int, column: int, side: int) -> np.ndarray:
    """The picture at a place of a grid, without the gap beside it."""
    return sheet[row * (side + 2) :, column * (side + 2) :][:side, :side]


@pytest.mark.parametrize(
    ("count", "classes", "columns"),
    [(1, 0, 1), (4, 0, 2), (5, 0, 3), (64, 0, 8), (64, 10, 6), (5, 10, 1), (30, 10, 3)],
)
def test_a_grid_is_square_or_has_a_row_for_each_class(count, classes, columns):
    assert pictures.columns(count, classes) == columns


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("resolution", "side"), [(16, 64), (28, 56), (32, 64), (48, 48), (64, 64), (128, 128)])
def test_each_picture_stands_in_its_place_in_its_colours(channels, resolution, side):
    pixels = torch.randint(0, 256, (5, channels, resolution, resolution))
    sheet = pictures.grid(pixels / 127.5 - 1, 3)
    assert sheet.shape == (2 * (side + 2), 3 * (side + 2), 3) and sheet.dtype == np.uint8
    for number in range(5):
        shown = tile(sheet, number // 3, number % 3, side)[:: side // resolution, :: side // resolution]
        assert np.array_equal(shown, pixels[number].permute(1, 2, 0).expand(-1, -1, 3).numpy())
    assert not tile(sheet, 1, 2, side).any()  # the sixth place is empty


def test_values_beyond_the_range_are_cut_and_not_wrapped():
    sheet = pictures.grid(torch.tensor([-7.0, -1, 0, 1, 7])[:, None, None, None].expand(5, 1, 64, 64), 5)
    assert [int(tile(sheet, 0, n, 64)[0, 0, 0]) for n in range(5)] == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_drawn(dtype):
    assert pictures.grid(torch.ones(1, 3, 64, 64, dtype=dtype, requires_grad=True), 1).max() == 255


def test_a_grid_is_written_whole(tmp_path):
    sheet = pictures.grid(torch.rand(4, 3, 32, 32) * 2 - 1, 2)
    pictures.save(sheet, tmp_path / "grid.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grid.png")), sheet)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


class TestEvolution:
    """The evolution.gif of a folder of grids."""

    def made(self, tmp_path, frames: list[Image.Image]) -> list[np.ndarray]:
        """The frames of the animation of these grids, uint8 [H, W, 3]."""
        folder = tmp_path / "samples"
        folder.mkdir()
        for step, frame in enumerate(frames):
            frame.save(folder / f"{step * 50:08d}.png")
        Image.new("RGB", (99, 99)).save(folder / "other.png")
        pictures.save_evolution(folder, tmp_path / "evolution.gif")
        found = []
        with Image.open(tmp_path / "evolution.gif") as moving:
            assert moving.info["loop"] == 0
            for number in range(moving.n_frames):
                moving.seek(number)
                found.append(np.asarray(moving.convert("RGB")))
        return found

    @pytest.mark.parametrize(("count", "frames"), [(2, 2), (7, 7), (120, 120), (301, 120)])
    def test_it_shows_each_grid_in_turn_and_not_too_many(self, tmp_path, count, frames):
        """A bar that grows, in colours that come and go."""
        grids = []
        for number in range(count):
            sheet = np.zeros((12, 320, 3), np.uint8)
            sheet[:, : number + 1] = (200, number % 2 * 90, 40)
            grids.append(Image.fromarray(sheet))
        found = self.made(tmp_path, grids)
        lengths = [int((frame[5, :, 0] > 100).sum()) for frame in found]
        assert len(found) == frames and lengths[0] == 1 and lengths[-1] == count and lengths == sorted(lengths)
        for frame, length in zip(found, lengths, strict=True):
            wanted = np.asarray(grids[length - 1]).astype(int)
            assert np.abs(frame - wanted).max() <= 4

    def test_greys_are_exact(self, tmp_path):
        sheets = [np.random.default_rng(n).integers(0, 256, (40, 40, 1), np.uint8).repeat(3, 2) for n in range(3)]
        found = self.made(tmp_path, [Image.fromarray(sheet) for sheet in sheets])
        assert all(np.array_equal(one, other) for one, other in zip(found, sheets, strict=True))

    def test_what_does_not_change_does_not_flicker(self, tmp_path):
        """Each frame alone would have 256 colours of its own."""
        random = np.random.default_rng(0)
        still = random.integers(0, 256, (64, 64, 3), np.uint8)
        grids = [np.concatenate([still, random.integers(0, 60 * n + 40, (64, 64, 3), np.uint8)]) for n in range(4)]
        found = self.made(tmp_path, [Image.fromarray(sheet) for sheet in grids])
        assert all(np.array_equal(frame[:64], found[0][:64]) for frame in found)
        assert all(np.abs(frame - sheet.astype(int)).mean() < 16 for frame, sheet in zip(found, grids, strict=True))

    def test_large_grids_become_smaller_and_fewer(self, tmp_path, monkeypatch):
        monkeypatch.setattr(pictures, "_MOST_PIXELS", 3 * 768 * 1024)
        noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
        frames = [Image.fromarray(noise + np.uint8(n)).resize((2400, 1800), Image.Resampling.NEAREST) for n in range(6)]
        found = self.made(tmp_path, frames)
        assert len(found) == 3 and found[0].shape == (768, 1024, 3)
        assert np.abs(found[0][64::128, 64::128].astype(int) - noise).max() <= 4

    def test_a_grid_that_readers_take_for_a_bomb_is_one_of_ours(self, tmp_path, monkeypatch):
        for step, colour in enumerate(("red", "blue")):
            Image.new("RGB", (40, 40), colour).save(tmp_path / f"{step:08d}.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        pictures.save_evolution(tmp_path, tmp_path / "evolution.gif")
        monkeypatch.undo()
        with Image.open(tmp_path / "evolution.gif") as moving:
            assert moving.n_frames == 2

    def test_a_grid_that_is_damaged_is_left_out(self, tmp_path):
        (tmp_path / "samples").mkdir()
        for step, colour in enumerate(("red", "green", "blue")):
            Image.new("RGB", (40, 40), colour).save(tmp_path / "samples" / f"{step:08d}.png")
        path = tmp_path / "samples" / "00000000.png"
        path.write_bytes(path.read_bytes()[:-30])
        (tmp_path / "samples" / "00000001.png").write_bytes(b"")
        pictures.save_evolution(tmp_path / "samples", tmp_path / "evolution.gif")
        with Image.open(tmp_path / "evolution.gif") as moving:
            assert moving.n_frames == 1 and moving.convert("RGB").getpixel((3, 3)) == (0, 0, 255)

    def test_without_grids_there_is_none(self, tmp_path):
        pictures.save_evolution(tmp_path, tmp_path / "evolution.gif")
        assert not list(tmp_path.iterdir())

    def test_grids_of_different_sizes_do_not_stop_it(self, tmp_path):
        """samples.count may be changed on purpose, with --allow-config-change."""
        for step, side in enumerate((20, 40, 30)):
            Image.new("RGB", (side, side), (90 * step, 0, 0)).save(tmp_path / f"{step:08d}.png")
        pictures.save_evolution(tmp_path, tmp_path / "evolution.gif")
        with Image.open(tmp_path / "evolution.gif") as moving:
            assert moving.n_frames == 3


class TestCurves:
    def write(self, tmp_path, lines: list[dict]):
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')
        save_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
        return tmp_path / "curves.png"

    def test_losses_are_drawn(self, tmp_path):
        names = ("critic/loss", "generator/loss", "critic/wasserstein", "critic/penalty", "critic/grad_norm_max")
        path = self.write(tmp_path, [{"step": n, **{name: n * 0.5 for name in names}} for n in range(40)])
        with Image.open(path) as picture:
            assert picture.width == 1000 and picture.height == 4 * 260
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20

    def test_panels_without_data_are_left_out(self, tmp_path):
        with Image.open(
            self.write(tmp_path, [{"step": 1, "critic/loss": 1.0}, {"step": 2, "generator/loss": 2.0}])
        ) as picture:
            assert picture.height == 260

    @pytest.mark.filterwarnings("error")
    def test_a_run_that_diverged_is_drawn_too(self, tmp_path):
        losses = [1.0, 1e300, float("inf"), float("nan"), -float("inf")]
        assert self.write(tmp_path, [{"step": n, "critic/loss": loss} for n, loss in enumerate(losses)]).exists()

    def test_a_run_without_lines_has_no_curves(self, tmp_path):
        assert not self.write(tmp_path, []).exists()
        save_curves(tmp_path / "nowhere", tmp_path / "curves.png")
        assert not (tmp_path / "curves.png").exists()
