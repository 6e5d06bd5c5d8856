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
    def frames(self, tmp_path, count: int) -> int:
        folder = tmp_path / "samples"
        folder.mkdir()
        for step in range(count):
            Image.new("RGB", (20, 20), (step % 256, step // 256 * 50, 255 - step % 256)).save(
                folder / f"{step * 50:08d}.png"
            )
        Image.new("RGB", (99, 99)).save(folder / "other.png")
        pictures.save_evolution(folder, tmp_path / "evolution.gif")
        with Image.open(tmp_path / "evolution.gif") as moving:
            assert moving.size == (20, 20) and moving.info["loop"] == 0
            colours = []
            for number in range(moving.n_frames):
                moving.seek(number)
                colours.append(moving.convert("RGB").getpixel((3, 3)))
        assert colours[0] == (0, 0, 255)
        assert colours[-1] == ((count - 1) % 256, (count - 1) // 256 * 50, 255 - (count - 1) % 256)
        assert [c[0] + 256 * (c[1] // 50) for c in colours] == sorted(c[0] + 256 * (c[1] // 50) for c in colours)
        return len(colours)

    @pytest.mark.parametrize(("count", "frames"), [(2, 2), (7, 7), (120, 120), (301, 120)])
    def test_it_shows_each_grid_in_turn_and_not_too_many(self, tmp_path, count, frames):
        assert self.frames(tmp_path, count) == frames

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
