"""`distgan index`: indexes of tars from elsewhere, where they lie and where others may find them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
import yaml
from flaky_server import FlakyServer
from launching import ROOT
from made_shards import dataset, encoded, numbers_of, pixels_of, read, write_shards, write_tar

from distgan.cli import main
from distgan.config.schema import Data
from distgan.data.dataset import open_dataset
from distgan.data.index import open_shards
from distgan.data.prepare import prepare


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """The user's cache."""
    monkeypatch.setenv("DISTGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def index(*words):
    return main(["index", *map(str, words)])


def config_of(text):
    return yaml.safe_load(text.partition("for the config:\n")[2])["data"]


def listed(folder):
    return [shard["name"] for shard in json.loads((folder / "index.json").read_text())["shards"]]


class TestOneFolder:
    def test_the_index_lies_beside_the_tars_and_is_what_runs_open(self, tmp_path, capsys, monkeypatch):
        folder = write_shards(tmp_path / "shards", [4, 5], labelled=True)
        assert index(folder) == 0
        text = capsys.readouterr().out
        assert text.startswith("indexed 9 pictures in 2 shards, ") and "classes: 3 (0, 1, 2)" in text
        assert listed(folder) == ["x-00000.tar", "x-00001.tar"]
        data = config_of(text)
        assert (data["resolution"], data["channels"], data["classes"]) == (16, 3, 0)
        monkeypatch.setattr("distgan.data.index.index_once", None)  # nothing is indexed again
        assert sorted(read(dataset(data["shards"]), 3, batch_size=3)) == list(range(9))

    @pytest.mark.parametrize("spec", ["{}/x-{{00000..00001}}.tar", "{}/*.tar", "file://{}"])
    def test_all_tars_of_a_folder_by_another_name_are_the_same(self, tmp_path, spec):
        folder = write_shards(tmp_path / "shards", [4, 5])
        assert index(spec.format(folder)) == 0
        assert listed(folder) == ["x-00000.tar", "x-00001.tar"]

    def test_it_is_made_again_each_time_and_says_so(self, tmp_path, capsys):
        folder = write_shards(tmp_path / "shards", [4])
        assert index(folder) == 0
        assert "made anew" not in capsys.readouterr().out
        write_shards(folder, [3, 2])
        assert index(folder) == 0
        assert f"{folder / 'index.json'}: there was one of 4 pictures; it is made anew\n" in capsys.readouterr().out
        assert open_shards(folder).count == 5

    def test_some_tars_of_a_folder_need_a_place_of_their_own(self, tmp_path, capsys):
        folder = write_shards(tmp_path / "shards", [4, 5, 3])
        assert index(folder / "x-00001.tar") == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1 and "holds other tars too, such as x-00000.tar" in errors
        assert index(folder / "x-00001.tar", "--out", tmp_path / "index") == 0
        assert open_shards(tmp_path / "index").count == 5 and not (folder / "index.json").exists()

    def test_what_prepare_made_is_not_replaced_unless_asked(self, tmp_path, capsys):
        prepare("shapes", None, tmp_path / "shards", count=20, resolution=16)
        assert index(tmp_path / "shards") == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1 and "made by `distgan prepare shapes`" in errors and "--overwrite" in errors
        assert open_shards(tmp_path / "shards").classes[0] == "circle"
        before = open_shards(tmp_path / "shards").samples.tolist()
        assert index(tmp_path / "shards", "--overwrite") == 0
        opened = open_shards(tmp_path / "shards")
        assert opened.classes == ("0", "1", "2", "3") and opened.samples.tolist() == before

    def test_a_prepare_that_has_not_finished_is_left_alone(self, tmp_path, capsys):
        folder = write_shards(tmp_path / "shards", [4])
        (folder / ".prepare.json").write_text("{}")
        assert index(folder, "--overwrite") == 2
        assert "has not finished" in capsys.readouterr().err and not (folder / "index.json").exists()

    def test_pictures_of_no_trainable_size_get_a_config_that_crops(self, tmp_path, capsys):
        write_tar(tmp_path / "x.tar", [("1.png", encoded(pixels_of(1)[:9], "png"))])
        assert index(tmp_path) == 0
        data = config_of(capsys.readouterr().out)
        assert data["fit"] == "crop" and data["resolution"] == 64
        opened = open_dataset(Data(**data))
        assert opened.first(1, 0).shape == (1, 3, 64, 64)


class TestElsewhere:
    def test_several_folders_become_one_set(self, tmp_path, capsys):
        write_shards(tmp_path / "a", [4])
        write_shards(tmp_path / "b", [5, 3])
        assert index(tmp_path / "a", tmp_path / "b") == 2
        assert capsys.readouterr().err.startswith("distgan index: --out is needed")
        assert index(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "both") == 0
        names = [str(tmp_path / name) for name in ("a/x-00000.tar", "b/x-00000.tar", "b/x-00001.tar")]
        assert listed(tmp_path / "both") == names
        assert open_shards(tmp_path / "both").count == 12

    def test_urls_are_read_through_the_cache_that_was_named(self, tmp_path, capsys):
        write_shards(tmp_path / "far", [4, 5])
        with FlakyServer(tmp_path / "far") as server:
            pattern = server.url("x-{00000..00001}.tar")
            assert index(pattern) == 2
            assert "--out is needed" in capsys.readouterr().err
            assert index(pattern, "--out", tmp_path / "index", "--cache", tmp_path / "mine") == 0
            data = config_of(capsys.readouterr().out)
            assert (data["shards"], data["cache"]) == (str(tmp_path / "index"), str(tmp_path / "mine"))
            opened = dataset(data["shards"], cache=data["cache"])
            assert sorted(read(opened, 3, batch_size=3)) == list(range(9))

    def test_an_index_of_urls_is_made_anew_by_its_own_name(self, tmp_path, capsys):
        write_shards(tmp_path / "far", [4])
        with FlakyServer(tmp_path / "far") as server:
            assert index(server.url("x-00000.tar"), "--out", tmp_path / "index") == 0
            assert index(tmp_path / "index", "--out", tmp_path / "index") == 0
            assert "made anew" in capsys.readouterr().out
            assert listed(tmp_path / "index") == [server.url("x-00000.tar")]

    def test_commands_are_run_only_when_allowed(self, tmp_path, capsys):
        folder = write_shards(tmp_path / "far", [4])
        spec = f"pipe:cat {folder}/x-00000.tar"
        assert index(spec, "--out", tmp_path / "index") == 2
        assert "allow_shell" in capsys.readouterr().err
        assert index(spec, "--out", tmp_path / "index", "--allow-shell") == 0
        data = config_of(capsys.readouterr().out)
        assert data["allow_shell"] is True
        pixels = dataset(data["shards"], allow_shell=True).first(4, 0)
        assert sorted(numbers_of(pixels)) == [0, 1, 2, 3]


class TestBadUse:
    @pytest.mark.parametrize(
        "make, said",
        [
            (lambda folder: folder.mkdir(), "no shards (.tar) here"),
            (lambda folder: None, "no such folder"),
            (lambda folder: write_tar(folder / "x.tar", [("1.txt", b"x")]), "no pictures"),
            (lambda folder: write_tar(folder / "x.tar", [("../1.png", b"x")]), "leads out of its folder"),
            (lambda folder: (folder.mkdir(), (folder / "x.tar").write_bytes(b"junk" * 300)), "x.tar: not a sound"),
        ],
        ids=["empty", "missing", "no pictures", "name", "no tar"],
    )
    def test_it_is_one_line_and_status_2_and_leaves_no_index(self, tmp_path, capsys, make, said):
        make(tmp_path / "shards")
        assert index(tmp_path / "shards") == 2
        errors = capsys.readouterr().err
        assert errors.startswith("distgan index: ") and said in errors and errors.count("\n") == 1
        assert not (tmp_path / "shards" / "index.json").exists()

    def test_a_tar_named_twice_is_refused(self, tmp_path, capsys):
        folder = write_shards(tmp_path / "shards", [4])
        assert index(folder, folder / "x-00000.tar") == 2
        assert "named twice" in capsys.readouterr().err

    @pytest.mark.parametrize("out", ["file", "file/below"])
    def test_a_folder_that_cannot_be_written_is_one_line(self, tmp_path, capsys, out):
        (tmp_path / "file").write_text("")
        assert index(write_shards(tmp_path / "shards", [4]), "--out", tmp_path / out) == 2
        errors = capsys.readouterr().err
        assert "give another --out" in errors and errors.count("\n") == 1


def test_a_signal_ends_it_in_one_line_and_leaves_what_was_there(tmp_path):
    folder = write_shards(tmp_path / "far", [40])
    with FlakyServer(folder) as server:
        server.always["x-00000.tar"] = "slow"
        server.pause = 0.5
        words = ["index", server.url("x-00000.tar"), "--out", tmp_path / "index"]
        command = [sys.executable, "-m", "distgan.cli", *map(str, words)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        limit = time.monotonic() + 30
        while not server.gets("x-00000.tar"):
            assert time.monotonic() < limit, "waited in vain"
            time.sleep(0.02)
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert errors == "distgan index: stopped; run the same command again\n"
    assert os.listdir(tmp_path / "index") == []
