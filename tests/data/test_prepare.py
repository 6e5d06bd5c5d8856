from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from distgan.data.encodings import ENCODINGS
from distgan.data.index import open_shards
from distgan.data.prepare import prepare
from distgan.data.scan import Kind, scan_tar
from distgan.errors import DataError, UserError

LONG = ("shapes", "--count", 3000, "--resolution", 48, "--shard-size", 200, "--workers", 2)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def wait_for(condition, seconds=30):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    prepare("shapes", None, out, count=3000, resolution=48, shard_size=200, workers=1)
    return contents(out)


@pytest.fixture
def stripes(tmp_path, picture):
    """Six pictures, of which the third is damaged."""
    for number in range(6):
        picture(tmp_path / "in" / f"{number}.png", (40, 30), (number * 40, 0, 0))
    (tmp_path / "in" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return tmp_path / "in"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_plain_webdataset_reads_the_same_pictures_and_labels(tmp_path, picture, encoding):
    for number in range(12):
        picture(tmp_path / "in" / "ab"[number % 2] / f"{number:02}.png", (20, 20), (number * 20, 9, 200))
    prepare("images", tmp_path / "in", tmp_path / "out", resolution=20, shard_size=5, workers=1, encoding=encoding)
    pattern = str(tmp_path / "out" / "images-{00000..00002}.tar")
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("rgb8"))
    numbers = [*range(0, 12, 2), *range(1, 12, 2)]  # all of class a, then all of class b
    assert [s["__key__"] for s in samples] == [f"{i:08d}" for i in range(12)]
    assert [s["cls"] for s in samples] == [0] * 6 + [1] * 6
    for sample, number in zip(samples, numbers, strict=True):
        pixels = sample[ENCODINGS[encoding].extension]
        assert pixels.shape == (20, 20, 3) and pixels.dtype == np.uint8
        assert np.abs(pixels.astype(int) - (number * 20, 9, 200)).max() <= (1 if encoding == "jpeg" else 0)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_index_says_what_the_shards_hold(tmp_path, encoding):
    summary = prepare("shapes", None, tmp_path, count=21, shard_size=8, resolution=16, workers=1, encoding=encoding)
    index = json.loads((tmp_path / "index.json").read_text())
    assert (index["version"], index["source"], index["count"]) == (2, "shapes", 21)
    assert index["encoding"] == encoding
    assert [shard["samples"] for shard in index["shards"]] == [7, 7, 7]
    assert (summary.written, summary.shards, summary.bytes) == (21, 3, sum(s["bytes"] for s in index["shards"]))
    parts = [scan_tar(tmp_path / s["name"]) for s in index["shards"]]
    for number, part in enumerate(parts):
        part["shard"] = number
    assert np.load(tmp_path / "samples.npy").tolist() == np.concatenate(parts).tolist()
    assert sorted(os.listdir(tmp_path)) == ["index.json", "samples.npy", *(s["name"] for s in index["shards"])]


class TestEncodings:
    @pytest.fixture
    def faces(self, tmp_path, picture):
        for number in range(3):
            picture(tmp_path / "in" / f"{'x' * (number + 1)}.png", (90, 90))
        return tmp_path / "in"

    def pictures(self, faces, out, **options):
        prepare("images", faces, out, workers=1, **options)
        shards = open_shards(out)
        return np.stack([picture_at(shards, row) for row in range(shards.count)]).astype(int)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_all_hold_the_same_pixels_and_jpeg_nearly_so(self, tmp_path, faces, channels):
        forms = {"raw", "png", "jpeg", *(["webp"] if channels == 3 else [])}
        stored = {e: self.pictures(faces, tmp_path / e, resolution=40, channels=channels, encoding=e) for e in forms}
        for encoding, pixels in stored.items():
            if encoding == "jpeg":
                assert 0 < np.abs(pixels - stored["raw"]).mean() < 4
            else:
                assert (pixels == stored["raw"]).all()

    def test_jpegs_keep_all_of_their_colour(self, tmp_path, faces):
        self.pictures(faces, tmp_path / "out", resolution=80, encoding="jpeg")
        shards = open_shards(tmp_path / "out")
        with Image.open(io.BytesIO(stored_at(shards, 0))) as image:
            assert image.format == "JPEG" and [component[1:3] for component in image.layer] == [(1, 1)] * 3

    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_the_same_pictures_give_the_same_bytes(self, tmp_path, faces, encoding):
        for out in ("one", "two"):
            prepare("images", faces, tmp_path / out, resolution=33, encoding=encoding, workers=1)
        assert contents(tmp_path / "one") == contents(tmp_path / "two")

    def test_another_encoding_is_refused_unless_it_overwrites(self, tmp_path, faces):
        prepare("images", faces, tmp_path / "out", resolution=33, encoding="png")
        with pytest.raises(DataError, match="other arguments.*--overwrite"):
            prepare("images", faces, tmp_path / "out", resolution=33)
        prepare("images", faces, tmp_path / "out", resolution=33, overwrite=True)
        assert open_shards(tmp_path / "out").samples["kind"].tolist() == [Kind.HWC] * 3

    def test_shards_of_the_first_version_are_not_replaced_unasked(self, tmp_path, faces):
        out = tmp_path / "out"
        prepare("images", faces, out, resolution=33, encoding="png")
        index = json.loads((out / "index.json").read_text())
        (out / "index.json").write_text(json.dumps({**index, "version": 1, "plan": "of version 1"}))
        before = contents(out)
        for encoding in (None, "png"):
            with pytest.raises(DataError, match="older version.*--overwrite"):
                prepare("images", faces, out, resolution=33, encoding=encoding)
        assert contents(out) == before


class TestInterrupted:
    def test_killed_and_run_again_it_gives_the_bytes_of_an_undisturbed_run(self, tmp_path, start, undisturbed):
        killed = start(*LONG, "--out", tmp_path)
        wait_for(lambda: len(list(tmp_path.glob("*.tar"))) >= 3)
        workers = children(killed.pid)
        killed.kill()
        killed.wait()
        finished = [path for path in tmp_path.glob("*.tar")]
        assert 3 <= len(finished) < 15 and not (tmp_path / "index.json").exists()
        assert all(path.read_bytes() == undisturbed[path.name] for path in finished)
        wait_for(lambda: not any(is_alive(pid) for pid in workers))

        again = start(*LONG, "--out", tmp_path)
        output, errors = again.communicate(timeout=60)
        assert again.returncode == 0, errors
        assert "shards kept from an earlier start: " in output
        assert contents(tmp_path) == undisturbed

    @pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_stopped_by_a_signal_it_removes_its_parts_and_can_go_on(self, tmp_path, start, undisturbed, number, status):
        stopped = start(*LONG, "--out", tmp_path)
        wait_for(lambda: len(list(tmp_path.glob("*.tar"))) >= 1)
        stopped.send_signal(number)
        _, errors = stopped.communicate(timeout=30)
        assert stopped.returncode == status
        assert errors.strip() == "distgan prepare: stopped; run the same command again, it goes on"
        assert not list(tmp_path.glob(".*.part")) and (tmp_path / ".prepare.json").exists()
        prepare("shapes", None, tmp_path, count=3000, resolution=48, shard_size=200, workers=1)
        assert contents(tmp_path) == undisturbed

    def test_a_shard_damaged_in_the_meantime_is_made_again(self, tmp_path, stripes):
        with pytest.raises(UserError):  # at the third of six shards
            prepare("images", stripes, tmp_path / "out", resolution=16, shard_size=1, strict=True)
        assert (tmp_path / "out" / "images-00001.tar").exists()
        (tmp_path / "out" / "images-00001.tar").write_bytes(b"damaged")
        (tmp_path / "out" / ".images-00007.tar.part").write_bytes(b"half")
        assert prepare("images", stripes, tmp_path / "out", resolution=16, shard_size=1).kept == 1
        prepare("images", stripes, tmp_path / "whole", resolution=16, shard_size=1)
        assert contents(tmp_path / "out") == contents(tmp_path / "whole")

    def test_other_arguments_do_not_go_on_with_it(self, tmp_path, stripes):
        with pytest.raises(UserError):
            prepare("images", stripes, tmp_path / "out", resolution=16, shard_size=1, strict=True)
        with pytest.raises(DataError, match="other arguments.*--overwrite"):
            prepare("images", stripes, tmp_path / "out", resolution=32, shard_size=1)

    def test_a_worker_that_dies_is_one_clear_line(self, tmp_path, start):
        words = [
            300_000 if word == 3000 else word for word in LONG
        ]  # not done before the kill, however late that comes
        process = start(*words, "--out", tmp_path)
        wait_for(lambda: list(tmp_path.glob("*.tar")), seconds=120)
        # The last child is a worker; the first is multiprocessing's resource tracker.
        os.kill(children(process.pid)[-1], signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1, errors
        said = [line for line in errors.splitlines() if not line.startswith("prepare shapes:")]  # how far it has come
        assert len(said) == 1 and "fewer --workers" in said[0], errors
        assert not list(tmp_path.glob(".*.part"))


class TestAgain:
    def test_with_the_same_arguments_it_says_so_and_does_nothing(self, tmp_path, run, capsys):
        words = ("shapes", "--count", 9, "--out", tmp_path)
        assert run(*words) == 0
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert run(*words) == 0
        assert "nothing to do" in capsys.readouterr().out
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before

    def test_other_arguments_are_refused_unless_they_overwrite(self, tmp_path, run, capsys):
        assert run("shapes", "--count", 300, "--shard-size", 100, "--out", tmp_path) == 0
        assert run("shapes", "--count", 5, "--out", tmp_path) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert open_shards(tmp_path).count == 300
        assert run("shapes", "--count", 5, "--out", tmp_path, "--overwrite") == 0
        assert sorted(os.listdir(tmp_path)) == ["index.json", "samples.npy", "shapes-00000.tar"]

    def test_a_changed_input_is_not_taken_for_the_same(self, tmp_path, picture):
        picture(tmp_path / "in" / "a.png")
        prepare("images", tmp_path / "in", tmp_path / "out", resolution=16)
        picture(tmp_path / "in" / "b.png")
        with pytest.raises(DataError, match="another input"):
            prepare("images", tmp_path / "in", tmp_path / "out", resolution=16)

    def test_foreign_tars_are_neither_mixed_in_nor_removed(self, tmp_path):
        (tmp_path / "mine.tar").write_bytes(b"x")
        with pytest.raises(DataError, match="--overwrite"):
            prepare("shapes", None, tmp_path, count=5)
        prepare("shapes", None, tmp_path, count=5, overwrite=True)
        assert (tmp_path / "mine.tar").exists()
        assert open_shards(tmp_path).count == 5


class TestUnreadable:
    def test_it_is_named_skipped_and_counted(self, tmp_path, stripes, run, capsys):
        assert run("images", stripes, "--out", tmp_path / "out", "--resolution", 16) == 0
        printed = capsys.readouterr()
        assert "skipped 2.png: " in printed.err
        assert "skipped 1 picture that cannot be read:" in printed.out and "  2.png: " in printed.out
        shards = open_shards(tmp_path / "out")
        reds = [picture_at(shards, row)[0, 0, 0] for row in range(shards.count)]
        assert reds == [0, 40, 120, 160, 200]

    def test_strict_fails_at_it_and_leaves_nothing_half_written(self, tmp_path, stripes, run, capsys):
        assert run("images", stripes, "--out", tmp_path / "out", "--resolution", 16, "--strict") == 1
        errors = capsys.readouterr().err
        assert errors.startswith("distgan prepare: 2.png: cannot be read") and errors.count("\n") == 1
        assert os.listdir(tmp_path / "out") == [".prepare.json"]

    def test_strict_also_fails_where_a_finished_prepare_has_skipped(self, tmp_path, stripes):
        prepare("images", stripes, tmp_path / "out", resolution=16)
        with pytest.raises(UserError, match="2.png"):
            prepare("images", stripes, tmp_path / "out", resolution=16, strict=True)

    def test_a_shard_of_nothing_else_is_left_out(self, tmp_path, stripes):
        summary = prepare("images", stripes, tmp_path / "out", resolution=16, shard_size=1)
        assert (summary.written, summary.shards) == (5, 5)
        assert open_shards(tmp_path / "out").count == 5
        assert not (tmp_path / "out" / "images-00002.tar").exists()

    def test_nothing_but_unreadable_pictures_is_an_error(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"x")
        with pytest.raises(DataError, match="none of 1 picture can be read"):
            prepare("images", tmp_path, tmp_path / "out", resolution=16)

    def test_pictures_that_had_to_be_enlarged_are_counted(self, tmp_path, stripes):
        summary = prepare("images", stripes, tmp_path / "out", resolution=32)
        assert summary.upscaled == 5
        assert "warning: 5 pictures smaller than 32 pixels enlarged" in summary.text()


class TestBadUse:
    @pytest.mark.parametrize(
        "words, message",
        [
            (("images", "{in}"), "--resolution is needed"),
            (("images",), "--resolution is needed"),
            (("mnist",), "needs an INPUT"),
            (("shapes", "{in}"), "takes no INPUT"),
            (("mnist", "{in}/nowhere"), "nowhere: no such file or folder"),
            (("mnist", "{in}"), "no train-images-idx3-ubyte"),
            (("quickdraw", "{in}"), "no .npy or .npz files"),
            (("cifar10", "{in}"), "no pictures found"),
            (("celeba", "{in}"), "no pictures found"),
            (("images", "{in}", "--resolution", "0"), "--resolution 0"),
            (("shapes", "--resolution", "2000"), "16 to 1024"),
            (("shapes", "--workers", "0"), "--workers 0"),
            (("shapes", "--shard-size", "-1"), "--shard-size -1"),
            (("mnist", "{in}", "--encoding", "webp"), "WebP knows no grey"),
            ((), "SOURCE is missing"),
            (("--verify", "--seed", "3"), "--seed: only with a SOURCE"),
            (("--verify", "--workers", "0"), "--workers 0"),
            (("--verify",), "no such folder"),
            (("images", "{in}", "--resolution", "9", "--count", "5"), "--max 5"),
            (("quickdraw", "{in}", "--download"), "cannot be downloaded"),
        ],
    )
    def test_it_is_one_clear_line_and_status_2(self, tmp_path, run, capsys, words, message):
        (tmp_path / "in").mkdir()
        words = [word.replace("{in}", str(tmp_path / "in")) for word in words]
        assert run(*words, "--out", tmp_path / "out") == 2
        errors = capsys.readouterr().err
        assert message in errors and errors.count("\n") == 1
        assert not (tmp_path / "out").exists()

    def test_a_folder_that_cannot_be_written_is_one_clear_line(self, tmp_path, run, capsys):
        (tmp_path / "file").write_text("")
        for out in (tmp_path / "file", tmp_path / "file" / "below", "/dev/null/below"):
            assert run("shapes", "--count", 5, "--out", out) == 2
            errors = capsys.readouterr().err
            assert "give another --out" in errors and errors.count("\n") == 1

    def test_a_disk_that_fills_up_is_one_clear_line_and_leaves_no_parts(self, tmp_path, start):
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # noqa: E731
        process = start("shapes", "--count", 250, "--out", tmp_path, preexec_fn=limit)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert errors.count("no space left") == 1 and "Traceback" not in errors
        assert os.listdir(tmp_path) == [".prepare.json"]


def test_max_takes_the_first_pictures(tmp_path):
    prepare("shapes", None, tmp_path / "few", count=20, max_pictures=7, resolution=16)
    prepare("shapes", None, tmp_path / "all", count=20, resolution=16)
    few, whole = open_shards(tmp_path / "few"), open_shards(tmp_path / "all")
    assert few.count == 7
    assert (picture_at(few, 6) == picture_at(whole, 6)).all()


def test_the_number_of_workers_changes_no_byte(tmp_path, undisturbed):
    prepare("shapes", None, tmp_path, count=3000, resolution=48, shard_size=200, workers=3)
    assert contents(tmp_path) == undisturbed


def test_the_summary_ends_with_config_lines_that_open_the_shards(tmp_path):
    import yaml

    text = prepare("shapes", None, tmp_path, count=5).text()
    data = yaml.safe_load(text.partition("for the config:\n")[2])["data"]
    assert open_shards(data["shards"]).count == 5
    assert (data["resolution"], data["channels"], data["classes"]) == (32, 3, 0)


def test_a_worker_process_imports_no_torch():
    code = "import sys, distgan.data.pool, distgan.data.prepare; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


class TestRealPictures:
    @pytest.mark.parametrize(
        "source, name, resolution, channels, classes",
        [
            ("mnist", "mnist", 32, 1, 10),
            ("cifar10", "cifar10_8k.zip", 32, 3, 10),
            ("celeba", "celeba_half_7k.zip", 64, 3, 0),
            ("celeba", "celeba_original_558.zip", 64, 3, 0),
            ("quickdraw", "quickdraw", 28, 1, 3),
        ],
    )
    def test_a_source_becomes_shards_of_its_own_size(
        self, tmp_path, real_data, source, name, resolution, channels, classes
    ):
        summary = prepare(source, real_data(name), tmp_path, max_pictures=60, workers=1)
        shards = open_shards(tmp_path)
        assert (summary.written, summary.skipped, summary.upscaled) == (60, (), 0)
        assert (shards.resolution, shards.channels, len(shards.classes)) == (resolution, channels, classes)
        pictures = np.stack([picture_at(shards, row) for row in range(60)])
        assert pictures.shape[1:3] == (resolution, resolution)
        assert pictures.std() > 30 and len(np.unique(pictures, axis=0)) == 60

    def test_digits_carry_their_labels(self, tmp_path, real_data):
        prepare("mnist", real_data("mnist"), tmp_path, max_pictures=10, workers=1)
        assert open_shards(tmp_path).samples["label"].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]

    def test_cifar_pictures_stay_lossless(self, tmp_path, real_data):
        prepare("cifar10", real_data("cifar10_8k.zip"), tmp_path, max_pictures=5, workers=1)
        shards = open_shards(tmp_path)
        with zipfile.ZipFile(real_data("cifar10_8k.zip")) as archive:
            for row, name in enumerate(sorted(archive.namelist())[:5]):
                original = np.asarray(Image.open(io.BytesIO(archive.read(name))))
                assert (picture_at(shards, row) == original).all()

    def test_large_photographs_become_any_resolution(self, tmp_path, real_data):
        prepare("images", real_data("highres_41.zip"), tmp_path, resolution=100, channels=1, max_pictures=8)
        shards = open_shards(tmp_path)
        assert picture_at(shards, 7).shape == (100, 100)


def stored_at(shards, row):
    sample = shards.samples[row]
    return shards.paths[sample["shard"]].read_bytes()[sample["offset"] :][: sample["size"]]


def picture_at(shards, row):
    """[H, W] or [H, W, 3]."""
    data, side = stored_at(shards, row), shards.resolution
    if shards.samples["kind"][row] == Kind.ENCODED:
        return np.asarray(Image.open(io.BytesIO(data)))
    pixels = np.frombuffer(data, np.uint8).reshape(side, side, -1)
    return pixels if pixels.shape[2] == 3 else pixels[..., 0]


def test_shuffle_mixes_the_pictures_over_the_shards_and_is_another_plan(run, tmp_path, capsys):
    common = ["shapes", "--count", 600, "--resolution", 16, "--workers", 1, "--out"]
    assert run(*common, tmp_path / "plain") == 0 and run(*common, tmp_path / "mixed", "--shuffle") == 0
    plain, mixed = open_shards(tmp_path / "plain"), open_shards(tmp_path / "mixed")
    assert sorted(plain.samples["crc"].tolist()) == sorted(mixed.samples["crc"].tolist())
    assert plain.samples["crc"].tolist() != mixed.samples["crc"].tolist()
    assert run(*common, tmp_path / "mixed") == 2
    assert "made with other arguments" in capsys.readouterr().err
    assert run(*common, tmp_path / "mixed", "--shuffle") == 0 and "nothing to do" in capsys.readouterr().out
