"""`distgan sample`, as it is called, on runs that stand still."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from small_runs import make_run

from distgan.cli import main
from distgan.config.schema import Data
from distgan.data.dataset import open_dataset
from distgan.sampling.drawing import Artist
from distgan.sampling.source import _config_beside, find
from distgan.sampling.video import Film

FAMILIES = {
    "mlp": ["generator={name: mlp, width: 64, norm: batch}"],
    "dcgan": ["generator={name: dcgan, width: 8}"],
    "dcgan, nearest, grey": ["generator={name: dcgan, width: 8, upsample: nearest, norm: layer}", "data.channels=1"],
    "resnet, classes": ["generator={name: resnet, width: 8}", "data.classes=3"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, shapes_shards) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", f"data.shards={shapes_shards}", steps=(5, 10))


@pytest.fixture(scope="module")
def conditional(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "conditional", "data.classes=3")


def sample(*words: object) -> int:
    return main(["sample", *map(str, words)])


def refused(capsys, *words: object, status: int = 2) -> str:
    """What is said to a command that must not succeed: one line, whatever its status."""
    capsys.readouterr()
    assert sample(*words) == status
    said = capsys.readouterr().err
    assert said.startswith("distgan: ") and said.count("\n") == 1, said
    return said


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def tile(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    """A picture of 32 pixels out of a grid, in which it is 64."""
    return sheet[66 * row : 66 * row + 64 : 2, 66 * column : 66 * column + 64 : 2]


class TestSeeds:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_the_same_seed_is_the_same_bytes_in_any_company(self, family, tmp_path):
        run = make_run(tmp_path / "run", *FAMILIES[family])
        for name, seeds in (("many", "0-20"), ("few", "20,3,9"), ("one", "3")):
            assert sample(run, "--seeds", seeds, "--out", f"{tmp_path / name}/") == 0
        assert len(list((tmp_path / "many").iterdir())) == 21
        for name in ("seed0003.png", "seed0009.png", "seed0020.png"):
            assert (tmp_path / "many" / name).read_bytes() == (tmp_path / "few" / name).read_bytes()
        assert (tmp_path / "one" / "seed0003.png").read_bytes() == (tmp_path / "many" / "seed0003.png").read_bytes()
        assert len({path.read_bytes() for path in (tmp_path / "many").iterdir()}) == 21

    def test_grid_folder_and_tar_show_the_same_pictures(self, run, tmp_path):
        assert sample(run, "--count", 5, "--out", tmp_path / "grid.png") == 0
        assert sample(run, "--count", 5, "--out", tmp_path / "folder") == 0
        assert sample(run, "--count", 5, "--out", tmp_path / "x.tar") == 0
        sheet = pixels(tmp_path / "grid.png")
        with tarfile.open(tmp_path / "x.tar") as tar:
            assert tar.getnames() == [f"{seed:08d}.png" for seed in range(5)]
            for seed in range(5):
                single = tmp_path / "folder" / f"seed{seed:04d}.png"
                assert tar.extractfile(f"{seed:08d}.png").read() == single.read_bytes()
                assert np.array_equal(pixels(single), tile(sheet, seed // 3, seed % 3))

    def test_nothing_is_left_beside_what_was_asked_for(self, run, tmp_path, capsys):
        assert sample(run, "--seeds", "7,3", "--out", tmp_path / "new" / "pictures") == 0
        assert capsys.readouterr().out == f"{tmp_path / 'new' / 'pictures'}\n"
        assert {path.name for path in (tmp_path / "new" / "pictures").iterdir()} == {"seed0003.png", "seed0007.png"}

    def test_the_same_command_again_replaces_its_pictures_and_no_others(self, run, tmp_path, capsys):
        assert sample(run, "--seeds", "0-3", "--out", f"{tmp_path}/p/") == 0
        assert sample(run, "--seeds", "0-4", "--raw", "--out", f"{tmp_path}/p/") == 0
        assert "holds other files (seed0000.png)" in refused(capsys, run, "--seeds", "1-9", "--out", f"{tmp_path}/p/")


class TestClasses:
    def test_a_grid_has_a_row_for_each_class_of_the_same_seeds(self, conditional, tmp_path):
        assert sample(conditional, "--count", 12, "--out", tmp_path / "grid.png") == 0
        sheet = pixels(tmp_path / "grid.png")
        assert sheet.shape == (3 * 66, 4 * 66, 3)
        for label in range(3):
            folder = tmp_path / str(label)
            assert sample(conditional, "--label", label, "--seeds", "0-3", "--out", folder) == 0
            for seed in range(4):
                assert np.array_equal(pixels(folder / f"seed{seed:04d}.png"), tile(sheet, label, seed))

    def test_in_a_tar_classes_take_turns_and_it_can_be_trained_on(self, conditional, tmp_path):
        assert sample(conditional, "--seeds", "4-12", "--out", tmp_path / "x.tar") == 0
        data = Data(shards=str(tmp_path / "x.tar"), resolution=32, classes=3, cache=str(tmp_path / "cache"))
        opened = open_dataset(data)
        assert opened.shards.samples["label"].tolist() == [seed % 3 for seed in range(4, 13)]
        assert sample(conditional, "--seeds", "4-12", "--out", tmp_path / "pictures") == 0
        found = opened.read(np.arange(9)).permute(0, 2, 3, 1).numpy()
        for number, picture in enumerate(found):
            assert np.array_equal(picture, pixels(tmp_path / "pictures" / f"seed{4 + number:04d}.png"))


class TestSources:
    def test_run_checkpoint_and_file_are_the_same_generator(self, run, tmp_path):
        newest = run / "checkpoints" / "00000010"
        alone = tmp_path / "alone.safetensors"
        shutil.copy(newest / "generator_ema.safetensors", alone)
        shutil.copytree(newest, tmp_path / "moved")
        sources = {"run": run, "checkpoint": newest, "moved": tmp_path / "moved", "file": alone}
        for name, source in sources.items():
            assert sample(source, "--count", 4, "--out", tmp_path / f"{name}.png") == 0
        assert len({(tmp_path / f"{name}.png").read_bytes() for name in sources}) == 1

    def test_step_and_raw_choose_the_weights(self, run, tmp_path):
        for name, words in {"new": [], "old": ["--step", 5], "raw": ["--raw"]}.items():
            assert sample(run, "--count", 4, "--out", tmp_path / f"{name}.png", *words) == 0
        assert len({path.read_bytes() for path in tmp_path.glob("*.png")}) == 3

    def test_where_nothing_is_said_it_goes_into_the_run_folder(self, run):
        assert sample(run) == 0
        assert pixels(run / "sampled.png").shape == (8 * 66, 8 * 66, 3)

    def test_a_file_that_does_not_say_what_it_is_needs_the_config(self, run, tmp_path, capsys):
        """As checkpoints of earlier versions do not."""
        old = tmp_path / "old.safetensors"
        save_file(load_file(run / "checkpoints" / "00000010" / "generator_ema.safetensors"), old)
        assert "name the config of its run with --config FILE" in refused(capsys, old)
        assert sample(old, "--config", run / "config.yaml", "--count", 4, "--out", tmp_path / "old.png") == 0
        assert sample(run, "--count", 4, "--out", tmp_path / "new.png") == 0
        assert (tmp_path / "old.png").read_bytes() == (tmp_path / "new.png").read_bytes()

    def test_a_header_holds_the_network_and_nothing_else(self, run):
        """No place, no address: such files are given away."""
        data = (run / "checkpoints" / "00000010" / "generator.safetensors").read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        assert list(header["__metadata__"]) == ["distgan.generator"]
        settings = json.loads(header["__metadata__"]["distgan.generator"])
        assert set(settings) == {"name", "latent", "width", "norm", "upsample", "resolution", "channels", "classes"}


def test_truncation_takes_away_variety(tmp_path):
    run, spreads = make_run(tmp_path / "run", *FAMILIES["mlp"]), []
    for threshold in (0.1, 1, None):
        folder = tmp_path / f"to {threshold}"
        words = [] if threshold is None else ["--truncation", threshold]
        assert sample(run, "--seeds", "0-15", "--out", f"{folder}/", *words) == 0
        spreads.append(np.stack([pixels(path).astype(float) for path in folder.iterdir()]).std(0).mean())
    assert spreads[0] < 0.5 * spreads[1] < spreads[1] < spreads[2]


class TestFilm:
    def frames(self, path: Path) -> list[np.ndarray]:
        with Image.open(path) as moving:
            found = []
            for number in range(moving.n_frames):
                moving.seek(number)
                found.append(np.asarray(moving.convert("RGB")))
            return found

    def test_a_gif_goes_from_seed_to_seed(self, run, tmp_path):
        out = tmp_path / "x.gif"
        assert sample(run, "--interpolate", "0,5,9", "--frames", 6, "--fps", 25, "--out", out) == 0
        assert sample(run, "--seeds", "0,5,9", "--out", tmp_path / "p") == 0
        frames = self.frames(out)
        assert len(frames) == 13 and frames[0].shape == (256, 256, 3)
        with Image.open(out) as moving:
            assert moving.info["duration"] == 40 and moving.info["loop"] == 0
        for number, seed in ((0, 0), (6, 5), (12, 9)):  # to within 256 colours
            picture = pixels(tmp_path / "p" / f"seed{seed:04d}.png").astype(int)
            assert np.abs(frames[number][4::8, 4::8] - picture).mean() < 6

    def test_a_long_film_takes_no_memory_before_it_is_drawn(self, run):
        film = Film(Artist(find(run).generator), [[0, 5, 9]], [None], 10**12, loop=False)
        assert len(film) == 2 * 10**12 + 1
        assert np.array_equal(
            film.frame(10**12), Film(Artist(find(run).generator), [[5, 9]], [None], 1, False).frame(0)
        )

    def test_paths_lie_beside_each_other_and_loops_close(self, run, tmp_path):
        words = ["--interpolate", "0,1", "--interpolate", "2,3", "--frames", 3, "--loop", "--out", tmp_path / "x.gif"]
        assert sample(run, *words) == 0
        frames = self.frames(tmp_path / "x.gif")
        assert len(frames) == 6 and frames[0].shape == (66, 132, 3)

    @pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg program")
    def test_a_video_is_one_that_players_know(self, run, tmp_path):
        assert sample(run, "--interpolate", "0,5", "--frames", 10, "--fps", 30, "--out", tmp_path / "x.mp4") == 0
        asked = "stream=codec_name,pix_fmt,width,height,nb_frames,r_frame_rate"
        words = ["ffprobe", "-v", "error", "-show_entries", asked, "-of", "json", str(tmp_path / "x.mp4")]
        (stream,) = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["streams"]
        assert stream == {
            "codec_name": "h264",
            "pix_fmt": "yuv420p",
            "width": 256,
            "height": 256,
            "nb_frames": "11",
            "r_frame_rate": "30/1",
        }
        assert sample(run, "--seeds", "0,5", "--out", tmp_path / "p") == 0
        still = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "x.mp4"), str(tmp_path / "frame%02d.png")]
        subprocess.run(still, check=True)
        for number, seed in ((1, 0), (11, 5)):
            frame = pixels(tmp_path / f"frame{number:02d}.png").astype(int)[4::8, 4::8]
            assert np.abs(frame - pixels(tmp_path / "p" / f"seed{seed:04d}.png")).mean() < 6

    def test_without_ffmpeg_it_is_a_gif_and_says_so(self, run, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert sample(run, "--interpolate", "0,5", "--frames", 3, "--out", tmp_path / "x.mp4") == 0
        said = capsys.readouterr()
        assert said.out == f"{tmp_path / 'x.gif'}\n" and "there is no ffmpeg program here" in said.err
        assert [path.name for path in tmp_path.iterdir()] == ["x.gif"]

    @pytest.mark.parametrize(
        "script", ["echo no such encoder >&2; exit 3", "cat >/dev/null; echo no space >&2; exit 1"]
    )
    def test_an_ffmpeg_that_fails_is_told_in_its_words(self, run, tmp_path, capsys, monkeypatch, script):
        program = tmp_path / "bin" / "ffmpeg"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")
        said = refused(capsys, run, "--interpolate", "0,5", "--frames", 9, "--out", tmp_path / "x.mp4", status=1)
        assert "ffmpeg failed: no s" in said and "give --out x.gif" in said
        assert [path.name for path in tmp_path.iterdir()] == ["bin"]


class TestRefused:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--seeds", "0-"], "--seeds 0-: '0-' is no seed or range; write for example 0-63 or 0,5,7-9"),
            (["--seeds", "9-3"], "'9-3' is no seed or range"),
            (["--seeds", "-1"], "'-1' is no seed or range"),
            (["--seeds", "1,2-4,3"], "3 is named twice"),
            (["--seeds", "0-999998,999998"], "999998 is named twice"),
            (["--seeds", "0-99999999999"], "more than 1000000 seeds; use several commands"),
            (["--seeds", "1", "--count", "2"], "leave one out"),
            (["--count", "0"], "--count 0: must be at least 1"),
            (["--count", "1000001"], "--count 1000001: 1000000 at most; --seeds names others"),
            (["--step", "7"], "--step 7: the checkpoints of"),
            (["--label", "0"], "--label 0: the run has no classes; leave it out"),
            (["--truncation", "0"], "--truncation 0.0: must be above 0"),
            (["--truncation", "nan"], "--truncation nan: must be above 0"),
            (["--out", "x.jpg"], "--out x.jpg: must be a .png file or FOLDER/ or a .tar file"),
            (["--interpolate", "4"], "--interpolate 4: two seeds or more"),
            (["--interpolate", "4,5", "--interpolate", "1,2,3"], "equally many each time"),
            (["--interpolate", "4,5", "--frames", "2000000000"], "--frames 2000000000: with 2 seeds 50000 at most"),
            (["--interpolate", "0-9999"], "--frames 60: with 10000 seeds 10 at most"),
            (["--interpolate", "4,5", "--out", "x.png"], "--out x.png: must be a .mp4 file or a .gif file"),
            (["--interpolate", "4,5", "--neighbours", "1"], "--neighbours: not together with --interpolate"),
            (["--loop"], "--loop: has no effect without --interpolate"),
            (["--fps", "5"], "--fps: has no effect without --interpolate"),
            (["--shards", "x"], "--shards: has no effect without --neighbours"),
            (["--neighbours", "400"], "--neighbours 400: only 256 pictures are trained on"),
            (["--neighbours", "2", "--shards", "nowhere"], "nowhere: no such folder"),
            (["--count", "200000"], "a grid of 200000 pictures would have 872 megapixels"),
        ],
    )
    def test_what_cannot_be_drawn_is_one_line(self, run, capsys, words, said, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert said in refused(capsys, run, *words)
        assert not list(tmp_path.iterdir())

    def test_sources_that_are_none(self, tmp_path, capsys, run):
        (tmp_path / "x.txt").write_text("x")
        (tmp_path / "x.safetensors").write_text("x")
        assert "no such run folder" in refused(capsys, tmp_path / "nothing")
        assert "no run folder (it has no config.yaml)" in refused(capsys, tmp_path)
        assert "x.txt: no .safetensors file" in refused(capsys, tmp_path / "x.txt")
        assert "x.safetensors: is no whole .safetensors file" in refused(capsys, tmp_path / "x.safetensors", status=1)
        critic = run / "checkpoints" / "00000010" / "critic.safetensors"
        shutil.copy(critic, tmp_path / "critic.safetensors")
        shutil.copy(critic, tmp_path / "other.safetensors")
        assert "name the config" in refused(capsys, tmp_path / "other.safetensors")
        words, said = ["--config", run / "config.yaml"], "is a critic, which draws no pictures; give generator_ema"
        for file in (critic, tmp_path / "critic.safetensors"):
            assert f"{file}: {said}" in refused(capsys, file)
        assert f"other.safetensors: {said}" in refused(capsys, tmp_path / "other.safetensors", *words)
        other = [*words[:1], make_run(tmp_path / "wide", "generator={name: dcgan, width: 16}") / "config.yaml"]
        generator = critic.with_name("generator.safetensors")
        assert "does not fit the network" in refused(capsys, generator, *other, status=1)
        assert "--raw:" in refused(capsys, critic, "--raw") and "--step 5: of which run?" in refused(
            capsys, critic.parent, "--step", 5
        )

    def test_a_broken_config_stops_only_what_needs_it(self, run, tmp_path, capsys):
        shutil.copytree(run, tmp_path / "run")
        (tmp_path / "run" / "config.yaml").write_text("train: [\n")
        path = tmp_path / "run" / "checkpoints" / "00000010" / "generator_ema.safetensors"
        for number, source in enumerate((path, path.parent, tmp_path / "run")):
            assert sample(source, "--count", 1, "--out", tmp_path / f"{number}.png") == 0
            assert "config.yaml line 2: " in (said := capsys.readouterr().err) and f"passed over: {path} itself" in said
        save_file(load_file(path), path)
        assert "config.yaml line 2: " in refused(capsys, path)

    def test_a_file_in_the_topmost_folder_lies_in_no_run(self):
        assert _config_beside(Path("/g.safetensors"), Path("/g.safetensors"), is_needed=True) is None

    def test_a_label_is_a_number(self, run, capsys):
        with pytest.raises(SystemExit, match="2"):
            sample(run, "--label", "cat")
        said = capsys.readouterr().err
        assert "argument --label: 'cat' is no number; a class is its place in index.json, from 0" in said

    def test_settings_of_a_later_version(self, run, tmp_path, capsys):
        path = tmp_path / "later.safetensors"
        tensors = load_file(run / "checkpoints" / "00000010" / "generator_ema.safetensors")
        known = {"name": "dcgan", "resolution": 32, "channels": 3, "classes": 0}
        for settings in ({**known, "sparkle": 3}, {**known, "name": "unet"}, {"latent": 5}):
            save_file(tensors, path, {"distgan.generator": json.dumps(settings)})
            assert "a network that this version of distgan does not know" in refused(capsys, path, status=1)

    def test_damaged_checkpoints(self, run, tmp_path, capsys):
        shutil.copytree(run, tmp_path / "run")
        path = tmp_path / "run" / "checkpoints" / "00000010" / "generator_ema.safetensors"
        path.write_bytes(path.read_bytes()[:-4])
        assert "damaged" in refused(capsys, tmp_path / "run", "--step", 10, status=1)
        assert "damaged" in refused(capsys, path.parent, status=1)
        assert "is no whole .safetensors file" in refused(capsys, path, status=1)
        assert sample(tmp_path / "run", "--count", 1) == 0
        assert "using 00000005" in capsys.readouterr().err

    def test_a_disk_that_is_full(self, run, disk, capsys):
        disk.fill(disk.folder / "fill")
        for name in ("x.png", "x.tar", "p/"):
            said = refused(capsys, run, "--out", f"{disk.folder}/{name}", status=1)
            assert f"cannot be written: {disk.reason}; give another --out" in said
        assert not list(disk.folder.glob("**/*.png")) and not list(disk.folder.glob("**/.*.part"))


def test_the_command_starts_without_torch(run):
    code = "import sys, distgan.cli as c; c.main(['sample', 'x', '--count', '0']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--count 0" in done.stderr
