from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zlib

import numpy as np
import pytest
from made_shards import write_tar
from PIL import Image

from distgan.data.index import check_against, open_shards
from distgan.data.index_file import write_index
from distgan.data.indexing import Caching, build_index, store_index
from distgan.data.prepare import prepare
from distgan.data.scan import SAMPLE
from distgan.errors import DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    prepare("shapes", None, out, count=30, shard_size=8, resolution=16, workers=1)
    return out


@pytest.fixture
def folder(made, tmp_path):
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.fixture
def caching(tmp_path_factory):
    return Caching(tmp_path_factory.mktemp("cache"), 10**9)


def png(level, size=(20, 20)):
    buffer = io.BytesIO()
    Image.new("L", size, level).save(buffer, "PNG")
    return buffer.getvalue()


def pictures(shards):
    return [shards.paths[r["shard"]].read_bytes()[r["offset"] :][: r["size"]] for r in shards.samples]


def edit_index(folder, **changes):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, **changes}))


class TestSpecs:
    def test_a_folder_names_all_its_shards(self, made):
        shards = open_shards(str(made))
        assert [path.name for path in shards.paths] == [f"shapes-0000{i}.tar" for i in range(4)]
        assert (shards.count, shards.resolution, shards.channels) == (30, 16, 3)
        assert shards.classes == ("circle", "square", "triangle", "cross")

    def test_one_tar_a_pattern_a_glob_and_a_list_name_the_same_shards(self, made):
        two = [str(made / "shapes-00001.tar"), str(made / "shapes-00002.tar")]
        specs = [two, f"{made}/shapes-{{00001..00002}}.tar", f"{made}/shapes-0000[12].tar", [two[0], two[1]]]
        opened = [open_shards(spec) for spec in specs]
        whole = open_shards(made)
        wanted = pictures(whole)[whole.samples["shard"].searchsorted(1) : whole.samples["shard"].searchsorted(3)]
        for shards in opened:
            assert [str(path) for path in shards.paths] == two
            assert pictures(shards) == wanted
            assert shards.samples["shard"].max() == 1
        assert open_shards(two[1]).count == whole.samples["shard"].tolist().count(2)

    def test_shards_of_two_folders_are_joined(self, made, tmp_path):
        prepare("shapes", None, tmp_path, count=10, seed=1, resolution=16, workers=1)
        both = open_shards([made, tmp_path])
        assert both.count == 40 and len(both.paths) == 5
        assert pictures(both) == pictures(open_shards(made)) + pictures(open_shards(tmp_path))

    def test_folders_of_different_kind_are_not_joined(self, made, tmp_path):
        write_tar(tmp_path / "x.tar", [("1.png", png(1))])
        with pytest.raises(DataError, match="data.shards: resolution 20 in .*, but 16 in"):
            open_shards([made, tmp_path])

    @pytest.mark.parametrize("spec", ["nosuch://b/x.tar", "nosuch://b/x-{0..3}.tar"])
    def test_an_unknown_scheme_is_refused_with_those_known(self, spec):
        with pytest.raises(DataError, match="nosuch://b/x.* unknown scheme 'nosuch'; give one of https, "):
            open_shards(spec)

    def test_what_names_nothing_is_refused(self, made, tmp_path):
        wrong = {
            "no shards \\(.tar\\) here": tmp_path,
            "the shard is missing": made / "shapes-00009.tar",
            "no shard has such a name": f"{made}/other-*.tar",
            "names nothing": [],
            "named twice": [made, f"{made}/../{made.name}/shapes-00000.tar"],
        }
        for message, spec in wrong.items():
            with pytest.raises(DataError, match=message):
                open_shards(spec)


class TestIndexed:
    @pytest.mark.parametrize(
        "damage, message",
        [
            (lambda path: path.unlink(), "shapes-00002.tar: the shard is missing"),
            (lambda path: path.write_bytes(b""), "shapes-00002.tar: the shard is empty"),
            (lambda path: path.write_bytes(path.read_bytes()[:-512]), "shapes-00002.tar: the shard has .* index says"),
        ],
    )
    def test_a_shard_that_is_not_as_the_index_says_is_named(self, folder, damage, message):
        damage(folder / "shapes-00002.tar")
        for spec in (folder, f"{folder}/shapes-{{00000..00003}}.tar"):
            with pytest.raises(DataError, match=message):
                open_shards(spec)

    @pytest.mark.parametrize("damage", ["gone", "junk", "short", "shifted", "other labels", "another shard"])
    def test_without_a_consistent_samples_file_the_tars_are_indexed_anew(self, made, folder, caching, damage):
        file, good = folder / "samples.npy", np.load(folder / "samples.npy")
        if damage == "gone":
            file.unlink()
        elif damage == "junk":
            file.write_bytes(b"junk")
        elif damage == "short":
            np.save(file, good[:-1])
        else:
            good[{"shifted": "offset", "other labels": "label", "another shard": "shard"}[damage]] += 10**6
            np.save(file, good)
        opened = open_shards(folder, caching)
        assert opened.samples.tolist() == open_shards(made).samples.tolist()
        assert opened.classes == ("circle", "square", "triangle", "cross")

    def test_shards_of_the_first_version_are_indexed_anew_and_keep_their_classes(self, made, folder, caching):
        old = [("shard", "<i4"), ("offset", "<i8"), ("size", "<i4"), ("label", "<i4")]
        samples = np.load(folder / "samples.npy")
        np.save(folder / "samples.npy", samples[["shard", "offset", "size", "label"]].astype(old))
        edit_index(folder, version=1)
        for _ in range(2):  # made, and found in the cache
            opened = open_shards(folder, caching)
            assert opened.samples.tolist() == open_shards(made).samples.tolist()
            assert opened.classes == ("circle", "square", "triangle", "cross") and opened.resolution == 16
        assert len(list(caching.folder.glob("indexes/*/index.json"))) == 1

    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"version": 9}'])
    def test_a_damaged_or_foreign_index_is_named(self, folder, content):
        (folder / "index.json").write_text(content)
        with pytest.raises(DataError, match="index.json"):
            open_shards(folder)

    def test_a_prepare_that_has_not_finished_is_not_taken_for_a_foreign_set(self, folder):
        (folder / "index.json").rename(folder / ".prepare.json")
        with pytest.raises(DataError, match="has not finished"):
            open_shards(folder)


class TestForeign:
    def test_pictures_and_labels_are_found_by_webdatasets_rules(self, tmp_path):
        members = [
            ("./a/1.png", png(1)),
            ("./a/1.cls", b"2"),
            ("./a/1.txt", b"a caption"),
            ("./a/2.json", b'{"label": 0}'),
            ("./a/2.seg.png", png(99)),
            ("./a/2.JPG", png(2)),
            ("./a/3.txt", b"no picture"),
            ("./a/4.webp", png(4)),
            ("./a/4.cls", b" 1\n"),
        ]
        write_tar(tmp_path / "x.tar", members)
        shards = open_shards(tmp_path / "x.tar")
        assert pictures(shards) == [png(1), png(2), png(4)]
        assert shards.samples["label"].tolist() == [2, 0, 1]
        assert (shards.classes, shards.resolution, shards.channels) == (("0", "1", "2"), 20, 1)

    def test_without_labels_there_are_no_classes(self, tmp_path):
        write_tar(tmp_path / "x.tar", [("1.png", png(1)), ("2.png", png(2))])
        shards = open_shards(tmp_path)
        assert shards.classes == () and shards.samples["label"].tolist() == [-1, -1]

    @pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_every_format_of_tar_is_read(self, tmp_path, format):
        name = "d" * 60 + "/" + "n" * 60
        write_tar(tmp_path / "x.tar", [(f"{name}{i}.png", png(i)) for i in range(5)], format=format)
        assert pictures(open_shards(tmp_path)) == [png(i) for i in range(5)]

    def test_a_picture_that_is_not_square_leaves_the_resolution_open(self, tmp_path):
        write_tar(tmp_path / "x.tar", [("1.png", png(1, (20, 30)))])
        assert open_shards(tmp_path).resolution is None

    @pytest.mark.parametrize("label", [b"cat", b"-1", b"", b"99999999999"])
    def test_a_label_that_is_no_class_number_is_named(self, tmp_path, label):
        write_tar(tmp_path / "x.tar", [("1.png", png(1)), ("1.cls", label)])
        with pytest.raises(DataError, match="1.cls holds"):
            open_shards(tmp_path)

    def test_a_tar_without_pictures_is_refused(self, tmp_path):
        write_tar(tmp_path / "x.tar", [("1.txt", b"x")])
        with pytest.raises(DataError, match="no pictures"):
            open_shards(tmp_path)

    @pytest.mark.parametrize("damage", ["cut in a picture", "cut between", "zeroed header", "gzip", "junk"])
    def test_a_damaged_tar_is_refused_and_never_taken_for_a_shorter_one(self, tmp_path, damage):
        path = write_tar(tmp_path / "x.tar", [(f"{i}.png", png(i)) for i in range(6)])
        data = path.read_bytes()
        third = 3 * 1024  # a header and one block for each picture
        assert len(png(0)) <= 512
        damaged = {
            "cut in a picture": data[: third + 700],
            "cut between": data[:third],
            "zeroed header": data[:third] + bytes(512) + data[third + 512 :],
            "gzip": b"\x1f\x8b" + data[2:],
            "junk": b"junk" * 1000,
        }
        path.write_bytes(damaged[damage])
        with pytest.raises(DataError, match="x.tar"):
            open_shards(tmp_path)


class TestCheckAgainst:
    def test_shards_that_fit_pass_with_and_without_classes(self, made):
        check_against(open_shards(made), 16, 3, 0)
        check_against(open_shards(made), 16, 3, 4)

    def test_all_that_differs_is_listed_in_one_error(self, made):
        with pytest.raises(DataError) as caught:
            check_against(open_shards(made), 64, 1, 10)
        message = str(caught.value)
        for part in (
            "data.resolution is 64",
            "have 16",
            "data.channels is 1",
            "have 3",
            "data.classes is 10",
            "have 4",
        ):
            assert part in message
        assert "\n" not in message and "distgan prepare" in message

    def test_what_fits_is_not_listed(self, made):
        with pytest.raises(DataError) as caught:
            check_against(open_shards(made), 16, 3, 5)
        assert "resolution" not in str(caught.value) and "channels" not in str(caught.value)


def test_opening_shards_imports_neither_torch_nor_webdataset(made):
    code = (
        "import sys; from distgan.config.schema import Data; from distgan.data.dataset import open_dataset; "
        "open_dataset(Data(shards=sys.argv[1], resolution=16)); "
        "print([m for m in ('torch', 'torchvision', 'webdataset') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, made], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestIndexedOnce:
    @pytest.fixture
    def tars(self, tmp_path):
        for number in range(3):
            write_tar(tmp_path / "tars" / f"x-{number}.tar", [(f"{number}{i}.png", png(i)) for i in range(4)])
        return tmp_path / "tars"

    def test_a_whole_folder_gets_its_index_beside_the_tars(self, tars, caching):
        first = open_shards(tars, caching)
        index = json.loads((tars / "index.json").read_text())
        assert [shard["name"] for shard in index["shards"]] == ["x-0.tar", "x-1.tar", "x-2.tar"]
        for shard in index["shards"]:
            data = (tars / shard["name"]).read_bytes()
            assert shard["bytes"] == len(data) and shard["sha256"] == hashlib.sha256(data).hexdigest()
        for row, data in zip(first.samples, pictures(first), strict=True):
            assert row["crc"] == zlib.crc32(data)
        assert open_shards(tars, caching).samples.tolist() == first.samples.tolist()
        assert not caching.folder.exists() or not list(caching.folder.glob("indexes/*/index.json"))

    def test_some_tars_of_a_folder_are_indexed_in_the_cache(self, tars, caching):
        spec = f"{tars}/x-[12].tar"
        first = open_shards(spec, caching)
        assert not (tars / "index.json").exists() and len(list(caching.folder.glob("indexes/*/index.json"))) == 1
        assert open_shards(spec, caching).samples.tolist() == first.samples.tolist() and first.count == 8

    def test_a_folder_that_cannot_be_written_is_indexed_in_the_cache(self, tars, caching, monkeypatch):
        monkeypatch.setattr("os.access", lambda *_: False)
        open_shards(tars, caching)
        assert not (tars / "index.json").exists() and len(list(caching.folder.glob("indexes/*/index.json"))) == 1

    def test_a_tar_that_changes_is_indexed_anew(self, tars, caching):
        spec = f"{tars}/x-[12].tar"
        open_shards(spec, caching)
        write_tar(tars / "x-2.tar", [("a.png", png(7))])
        assert open_shards(spec, caching).count == 5

    def test_processes_that_open_at_once_index_once(self, tars, tmp_path):
        code = (
            "import sys; from distgan.data import indexing; from distgan.data.index import open_shards\n"
            "build = indexing.build_index\n"
            "indexing.build_index = lambda *a: print('built') or build(*a)\n"
            "print(open_shards(sys.argv[1]).count)"
        )
        environment = {**os.environ, "DISTGAN_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-c", code, str(tars)]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(4)]
        said = "".join(process.communicate()[0] for process in started)
        assert said.count("12") == 4 and said.count("built") == 1

    def test_an_index_elsewhere_names_its_tars_by_whole_paths(self, tars, tmp_path, caching):
        places = sorted(str(path) for path in tars.glob("*.tar"))
        store_index(_made(tmp_path / "index"), places, build_index(places, caching))
        assert open_shards(tmp_path / "index").samples.tolist() == open_shards(tars).samples.tolist()


def _made(folder):
    folder.mkdir()
    return folder


def test_ten_thousand_samples_of_a_thousand_shards_are_opened_within_seconds(tmp_path):
    """The page cache is warm, and the machine may be busy: this holds the order of magnitude alone."""
    shards = [{"name": f"x-{i}.tar", "samples": 10, "bytes": 10240, "sha256": "0" * 64} for i in range(1000)]
    samples = np.zeros(10_000, SAMPLE)
    samples["shard"], samples["offset"], samples["size"] = np.repeat(np.arange(1000), 10), 512, 100
    head = {"count": 10_000, "resolution": 16, "channels": 3, "classes": []}
    write_index(tmp_path, head, shards, samples)
    for i in range(1000):
        with open(tmp_path / f"x-{i}.tar", "wb") as file:
            file.truncate(10240)
    opened = open_shards(tmp_path)
    assert isinstance(opened.samples, np.memmap) and opened.count == 10_000 and len(opened.shards) == 1000


def test_a_tar_added_to_an_indexed_folder_is_not_left_out_without_a_word(tmp_path):
    write_tar(tmp_path / "x-0.tar", [("1.png", png(1))])
    assert open_shards(tmp_path).count == 1
    write_tar(tmp_path / "x-1.tar", [("2.png", png(2))])
    with pytest.raises(DataError, match=r"a tar that its index.json does not know \(x-1.tar\); index the folder anew"):
        open_shards(tmp_path)
    assert open_shards(f"{tmp_path}/x-*.tar").count == 2


def test_shards_with_and_without_labels_are_joined_without_labels(tmp_path):
    write_tar(tmp_path / "a" / "x.tar", [("1.png", png(1)), ("1.cls", b"0")])
    write_tar(tmp_path / "b" / "y.tar", [("2.png", png(2))])
    both = open_shards([tmp_path / "a", tmp_path / "b"])
    assert both.classes == () and both.samples["label"].tolist() == [-1, -1]
    with pytest.raises(DataError, match="data.classes is 1 but the shards have 0"):
        check_against(both, 20, 1, 1)


def test_a_folder_of_compressed_tars_says_so(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="its tars are compressed .* data.order: resampled"):
        open_shards(tmp_path)
