"""How pictures of every size are stored, and what large photographs cost on the way there."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from distgan.data import encodings
from distgan.data.encodings import chosen_encoding, encoding_named
from distgan.data.index import open_shards
from distgan.data.pictures import FilePicture, Item, Recipe, render, square
from distgan.data.pool import CHUNK_BYTES, rendered_chunks
from distgan.data.prepare import prepare
from distgan.data.shards import Slot
from distgan.errors import ConfigError


def plain_photograph(side: int = 96) -> Image.Image:
    """Smooth, with an edge in colour: what a lossy form has to keep."""
    across, down = np.meshgrid(np.linspace(0, 255, side), np.linspace(255, 0, side))
    pixels = np.stack([across, down, np.where(across > down, 220, 30)], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def error_of(name: str, picture: Image.Image) -> float:
    """Root mean square over all values of what comes back."""
    back = Image.open(io.BytesIO(encoding_named(name).encode(picture))).convert("RGB")
    return float(np.square(np.asarray(back, float) - np.asarray(picture, float)).mean() ** 0.5)


def write_photograph(path, size=(60, 40), mode="RGB", **options) -> FilePicture:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path, **options)
    return FilePicture(str(path))


class TestQuality:
    @pytest.mark.parametrize("form", ["jpeg", "webp"])
    def test_a_higher_one_costs_bytes_and_keeps_more(self, form):
        picture = plain_photograph()
        names = [f"{form}:{quality}" for quality in (50, 80, 95, 100)]
        sizes = [len(encoding_named(name).encode(picture)) for name in names]
        errors = [error_of(name, picture) for name in names]
        assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
        assert errors[0] > 1.2 * errors[-1] > 0

    def test_webp_without_one_is_lossless(self):
        assert error_of("webp", plain_photograph()) == error_of("png", plain_photograph()) == 0

    def test_of_a_jpeg_it_is_95_unless_told_and_is_then_the_same_prepare(self, tmp_path, picture, run, capsys):
        picture(tmp_path / "in" / "a.png", (90, 90))
        words = ("images", tmp_path / "in", "--resolution", 64, "--out", tmp_path / "out", "--encoding")
        assert run(*words, "jpeg") == 0 and run(*words, "jpeg:95") == 0
        assert "nothing to do" in capsys.readouterr().out
        assert run(*words, "jpeg:96") == 2
        assert "--overwrite" in capsys.readouterr().err
        assert run(*words, "jpeg:96", "--overwrite") == 0
        assert json.loads((tmp_path / "out" / "index.json").read_text())["encoding"] == "jpeg:96"

    @pytest.mark.parametrize("name", ["jpeg:100", "webp:60"])
    def test_any_jpeg_and_webp_trains_and_verifies(self, tmp_path, picture, run, name):
        picture(tmp_path / "in" / "a.png", (90, 90))
        words = ("images", tmp_path / "in", "--resolution", 64, "--out", tmp_path / "out", "--verify")
        assert run(*words, "--encoding", name) == 0

    @pytest.mark.parametrize("side", [8, 256, 1024])
    def test_noise_that_hardly_shrinks_can_be_written_too(self, side):
        noise = np.random.default_rng(0).integers(0, 2, (side, side, 3)).astype(np.uint8) * 255
        data = encoding_named("jpeg:100").encode(Image.fromarray(noise))
        assert np.abs(np.asarray(Image.open(io.BytesIO(data)), int) - noise).max() < 10

    @pytest.mark.parametrize(
        "name, message",
        [
            ("bmp", "raw, png, jpeg, webp are possible"),
            ("", "are possible"),
            (":95", "are possible"),
            ("JPEG", "are possible"),
            ("png:9", "png keeps every pixel and has no quality; jpeg and webp have one"),
            ("raw:95", "has no quality"),
            ("jpeg:9", "a whole number from 50 to 100"),
            ("jpeg:101", "from 50 to 100"),
            ("jpeg:", "from 50 to 100"),
            ("jpeg:95:4", "from 50 to 100"),
            ("webp:-95", "from 50 to 100"),
            ("webp:9.5", "from 50 to 100"),
            ("jpeg:٩٥", "from 50 to 100"),
        ],
    )
    def test_nonsense_is_one_clear_line(self, tmp_path, run, capsys, name, message):
        assert run("shapes", "--count", 3, "--out", tmp_path / "out", "--encoding", name) == 2
        errors = capsys.readouterr().err
        assert f"--encoding {name}: " in errors and message in errors and errors.count("\n") == 1
        assert not (tmp_path / "out").exists()

    def test_a_lossy_webp_knows_no_grey_either(self, tmp_path, run, capsys):
        words = ("shapes", "--count", 3, "--out", tmp_path / "out", "--encoding", "webp:90", "--channels", 1)
        assert run(*words) == 2 and "WebP knows no grey" in capsys.readouterr().err


class TestWithoutWebp:
    """A Pillow that was compiled without libwebp."""

    @pytest.fixture(autouse=True)
    def pillow(self, monkeypatch):
        encoding_named.cache_clear()
        monkeypatch.setattr(encodings.features, "check", lambda name: name != "webp")
        yield
        encoding_named.cache_clear()

    def test_it_is_told_before_the_first_picture(self):
        with pytest.raises(ConfigError, match="--encoding webp: this Pillow was built without webp"):
            chosen_encoding("webp", 256, 3)

    def test_large_pictures_become_pngs(self):
        assert chosen_encoding(None, 1024, 3) == "png"


@pytest.mark.parametrize(
    "resolution, channels, encoding",
    [(64, 3, "raw"), (65, 3, "png"), (255, 3, "png"), (256, 3, "webp"), (1024, 3, "webp"), (256, 1, "png")],
)
def test_what_is_stored_when_nothing_is_said(resolution, channels, encoding):
    assert chosen_encoding(None, resolution, channels) == encoding


class TestSmallPictures:
    @pytest.fixture
    def mixed(self, tmp_path, picture):
        for number, size in enumerate([(40, 40), (39, 90), (90, 40), (20, 20), (41, 50)]):
            picture(tmp_path / "in" / f"{number}.png", size, (number * 40, 0, 0))
        return tmp_path / "in"

    def test_they_are_enlarged_with_a_warning_that_names_the_way_out(self, tmp_path, mixed):
        text = prepare("images", mixed, tmp_path / "out", resolution=40).text()
        assert "warning: 2 pictures smaller than 40 pixels enlarged; --skip-small leaves out such pictures" in text
        assert open_shards(tmp_path / "out").count == 5

    def test_with_skip_small_they_are_left_out_and_counted(self, tmp_path, mixed, run, capsys):
        words = ("images", mixed, "--resolution", 40, "--shard-size", 2, "--out", tmp_path / "out", "--skip-small")
        for said in ("prepared 3 pictures", "nothing to do"):
            assert run(*words, "--strict") == 0
            output = capsys.readouterr().out
            assert said in output and "left out 2 pictures smaller than 40 pixels" in output
        assert open_shards(tmp_path / "out").count == 3
        assert run(*words[:-1]) == 2 and "--overwrite" in capsys.readouterr().err

    def test_where_all_are_too_small_it_says_so(self, tmp_path, mixed, run, capsys):
        (mixed / "5.png").write_bytes(b"damaged")
        assert run("images", mixed, "--resolution", 400, "--out", tmp_path / "out", "--skip-small") == 2
        errors = capsys.readouterr().err
        assert "of 6 pictures 5 are smaller than 400 pixels, 1 cannot be read; take a smaller" in errors


def test_without_labels_the_numbered_folders_of_a_set_are_no_classes(tmp_path, picture, run, capsys):
    for number in range(4):
        picture(tmp_path / "ffhq" / f"{number // 2 * 1000:05d}" / f"{number:05d}.png", (20, 20))
    words = ("images", tmp_path / "ffhq", "--resolution", 16, "--out", tmp_path / "out")
    assert run(*words) == 0 and "classes: 2 (00000, 01000)" in capsys.readouterr().out
    assert run(*words, "--no-labels", "--overwrite") == 0 and "classes: none" in capsys.readouterr().out
    shards = open_shards(tmp_path / "out")
    assert shards.classes == () and shards.samples["label"].tolist() == [-1] * 4


class TestPhotographs:
    @pytest.mark.parametrize("size, side", [((640, 600), 101), ((601, 640), 256), ((300, 300), 300)])
    @pytest.mark.parametrize("form", ["JPEG", "PNG"])
    def test_above_a_sixth_they_are_resized_in_one_step_from_the_original(self, tmp_path, size, side, form):
        place = write_photograph(tmp_path / "a", size, format=form)
        with Image.open(tmp_path / "a") as image:
            edge = min(size)
            left, top = (size[0] - edge) // 2, (size[1] - edge) // 2
            whole = image.convert("RGB").crop((left, top, left + edge, top + edge))
        expected = np.asarray(whole.resize((side, side), Image.Resampling.LANCZOS))
        assert (np.asarray(square(place.open(), Recipe(side, 3))) == expected).all()

    def test_below_it_the_way_of_two_steps_ends_within_rounding(self, tmp_path):
        plain_photograph(1200).save(tmp_path / "a.jpg", quality=95)
        whole = Image.open(tmp_path / "a.jpg").convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
        seen = square(Image.open(tmp_path / "a.jpg"), Recipe(64, 3))
        assert np.abs(np.asarray(seen, int) - np.asarray(whole, int)).mean() < 0.6

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_orientation_is_turned_upright_before_the_crop(self, tmp_path, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        place = write_photograph(tmp_path / "a.png", (61, 40), exif=exif)
        turns = {2: [0], 3: [3], 4: [1], 5: [5], 6: [4], 7: [6], 8: [2]}  # of PIL's Transpose
        with Image.open(tmp_path / "a.png") as image:
            upright = Image.fromarray(np.asarray(image))
        for turn in turns.get(orientation, []):
            upright = upright.transpose(turn)
        assert (np.asarray(square(place.open(), Recipe(40, 3))) == np.asarray(square(upright, Recipe(40, 3)))).all()

    @pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
    def test_of_a_moving_one_the_first_frame_is_taken(self, tmp_path, form):
        first, *others = (Image.new("RGB", (30, 30), colour) for colour in ("red", "blue", "lime"))
        first.save(tmp_path / "a", format=form, save_all=True, append_images=others, lossless=True)
        seen = np.asarray(square(FilePicture(str(tmp_path / "a")).open(), Recipe(30, 3)))
        assert (seen == (255, 0, 0)).all()

    @pytest.mark.parametrize("ink, colour", [((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))])
    def test_printing_colours_become_those_of_a_screen(self, tmp_path, ink, colour):
        Image.new("CMYK", (64, 48), ink).save(tmp_path / "a.jpg", quality=95)
        seen = np.asarray(square(FilePicture(str(tmp_path / "a.jpg")).open(), Recipe(32, 3)), int)
        assert np.abs(seen - colour).max() < 4

    def test_one_of_24_million_pixels_takes_eight_bytes_of_memory_for_each(self, tmp_path):
        Image.new("RGB", (6000, 4000), (90, 120, 30)).save(tmp_path / "a.jpg")
        code = """
import resource, sys
from distgan.data.pictures import FilePicture, Item, Recipe, render
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert render(Item("a", FilePicture(sys.argv[1])), Recipe(1024, 3, encoding="jpeg")).data
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.jpg"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) * 1024 < 24e6 * 9


class TestTasks:
    @pytest.mark.parametrize("resolution, most", [(32, 32), (256, 32), (512, 10), (1024, 2), (4096, 1)])
    def test_large_pictures_wait_in_memory_a_few_at_a_time(self, monkeypatch, resolution, most):
        monkeypatch.setattr("distgan.data.pool.render_all", lambda items, recipe: items)
        slots = [Slot("a", 0, 50), Slot("b", 50, 90)]
        with rendered_chunks(range(90), slots, Recipe(resolution, 3), workers=1) as chunks:
            sizes = list(map(len, chunks))
        assert sum(sizes) == 90 and max(sizes) == most
        assert most == 1 or most * resolution**2 * 3 <= CHUNK_BYTES

    @pytest.mark.parametrize("count, resolution, alone", [(41, 256, True), (64, 256, False), (4, 1024, False)])
    def test_few_large_pictures_are_worth_worker_processes(self, monkeypatch, count, resolution, alone):
        started = []

        class Pool:
            def __init__(self, *arguments, **options):
                started.append(arguments)

            def shutdown(self, **options):
                pass

        monkeypatch.setattr("distgan.data.pool.ProcessPoolExecutor", Pool)
        with rendered_chunks(range(count), [Slot("a", 0, count)], Recipe(resolution, 3), workers=2):
            assert bool(started) is not alone


class TestRealPictures:
    @pytest.mark.parametrize("encoding, floor", [("jpeg", 41), ("jpeg:98", 46), ("webp:95", 39)])
    def test_what_a_lossy_form_keeps(self, tmp_path, real_data, encoding, floor):
        """Peak signal-to-noise ratio in dB, of the worst of eight."""
        pictures = {}
        for name in ("png", encoding):
            prepare(
                "images",
                real_data("highres_41.zip"),
                tmp_path / name[:4],
                resolution=256,
                max_pictures=8,
                encoding=name,
            )
            shards = open_shards(tmp_path / name[:4])
            data = shards.paths[0].read_bytes()
            files = [data[row["offset"] :][: row["size"]] for row in shards.samples]
            pictures[name] = np.stack([np.asarray(Image.open(io.BytesIO(file)), float) for file in files])
        errors = np.square(pictures["png"] - pictures[encoding]).mean((1, 2, 3))
        assert floor < 10 * np.log10(255**2 / errors.max()) < floor + 8

    def test_several_processes_write_the_bytes_of_one(self, tmp_path, real_data):
        common = {"resolution": 384, "shard_size": 9, "encoding": "jpeg", "max_pictures": 30}
        for workers in (1, 2):
            summary = prepare("images", real_data("highres_41.zip"), tmp_path / str(workers), workers=workers, **common)
        assert (summary.written, summary.shards, summary.skipped, summary.upscaled) == (30, 4, (), 0)
        for path in sorted((tmp_path / "1").iterdir()):
            assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()


def test_a_picture_cut_short_is_skipped_at_every_size(tmp_path):
    place = write_photograph(tmp_path / "a.jpg", (900, 700))
    data = (tmp_path / "a.jpg").read_bytes()
    for share in (0.3, 0.9):
        (tmp_path / "a.jpg").write_bytes(data[: int(len(data) * share)])
        for resolution in (32, 512):
            rendered = render(Item("a", place), Recipe(resolution, 3))
            assert rendered.data is None and "truncated" in rendered.reason
