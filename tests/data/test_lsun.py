"""LSUN's databases as a source; without the library lmdb only what is said of its absence."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from distgan.data.index import open_shards
from distgan.data.sources.lsun import _opened


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40), (number * 20, 9, 200)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


@pytest.fixture
def database():
    lmdb = pytest.importorskip("lmdb")

    def write(folder, numbers, **damaged):
        folder.mkdir(parents=True)
        with lmdb.open(str(folder), map_size=2**26) as environment, environment.begin(write=True) as transaction:
            for number in numbers:
                transaction.put(b"%040x" % number, damaged.get(f"at{number}", picture(number)))
        return folder

    yield write
    _opened.cache_clear()


def reds(out):
    shards = open_shards(out)
    data = [path.read_bytes() for path in shards.paths]
    files = [data[row["shard"]][row["offset"] :][: row["size"]] for row in shards.samples]
    return [int(np.asarray(Image.open(io.BytesIO(file)))[0, 0, 0]) for file in files]


@pytest.mark.parametrize("given", [".", "data.mdb", ".."])
def test_a_category_is_read_in_order_of_its_keys_and_has_no_labels(tmp_path, database, run, given):
    folder = database(tmp_path / "in" / "church_outdoor_train_lmdb", [3, 1, 2])
    assert run("lsun", folder / given, "--resolution", 40, "--encoding", "png", "--out", tmp_path / "out") == 0
    assert reds(tmp_path / "out") == [20, 40, 60]
    assert open_shards(tmp_path / "out").classes == ()


def test_several_categories_are_classes(tmp_path, database, run):
    for name, numbers in (("cat_lmdb", [1, 2]), ("bedroom_train_lmdb", [3])):
        database(tmp_path / "in" / name, numbers)
    assert run("lsun", tmp_path / "in", "--resolution", 40, "--encoding", "png", "--out", tmp_path / "out") == 0
    shards = open_shards(tmp_path / "out")
    assert shards.classes == ("bedroom_train", "cat") and shards.samples["label"].tolist() == [0, 1, 1]


def test_worker_processes_write_the_same(tmp_path, database, run):
    folder = database(tmp_path / "cat_lmdb", range(12))
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        words = ("lsun", folder, "--resolution", 640, "--shard-size", 5, "--encoding", "jpeg")
        assert run(*words, "--workers", workers, "--out", out) == 0
    for path in (tmp_path / "out1").iterdir():
        assert path.read_bytes() == (tmp_path / "out2" / path.name).read_bytes()


def test_a_damaged_picture_is_named_and_skipped(tmp_path, database, run, capsys):
    folder = database(tmp_path / "cat_lmdb", [1, 2, 3], at2=b"RIFF damaged")
    assert run("lsun", folder, "--resolution", 40, "--encoding", "png", "--out", tmp_path / "out") == 0
    assert f"skipped cat_lmdb/{2:040x}: " in capsys.readouterr().err
    assert reds(tmp_path / "out") == [20, 60]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: bytes(len(data)), "not a sound LMDB database"),
        (lambda data: b"", "cat_lmdb"),
    ],
)
def test_a_damaged_database_is_one_clear_line(tmp_path, database, start, damage, message):
    file = database(tmp_path / "cat_lmdb", range(200)) / "data.mdb"
    file.write_bytes(damage(file.read_bytes()))
    process = start("lsun", tmp_path / "cat_lmdb", "--out", tmp_path / "out")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and message in errors and errors.count("\n") == 1, errors


def test_a_folder_without_a_database_is_one_clear_line(tmp_path, run, capsys):
    assert run("lsun", tmp_path, "--out", tmp_path / "out") == 2
    assert "no data.mdb in it" in capsys.readouterr().err


def test_without_the_library_it_says_what_to_install(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"x")
    code = "import sys; sys.modules['lmdb'] = None; from distgan.cli import main; sys.exit(main())"
    words = ["prepare", "lsun", tmp_path, "--out", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install lmdb" in done.stderr and done.stderr.count("\n") == 1
