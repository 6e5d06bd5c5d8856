from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from distgan.data.index import check_against, open_shards
from distgan.data.prepare import prepare
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


def png(level, size=(20, 20)):
    buffer = io.BytesIO()
    Image.new("L", size, level).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, members, **options):
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


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
        with pytest.raises(DataError, match="resolution 20, but 16 in"):
            open_shards([made, tmp_path])

    @pytest.mark.parametrize("spec", ["s3://b/x.tar", "http://h/x-{0..3}.tar", "pipe:cat x.tar"])
    def test_remote_shards_are_refused_with_the_way_out(self, spec):
        with pytest.raises(DataError, match="remote shards are not supported yet; copy them"):
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

    @pytest.mark.parametrize("damage", ["gone", "junk", "short", "shifted", "other labels"])
    def test_without_a_consistent_samples_file_the_tars_are_scanned(self, made, folder, damage):
        file, good = folder / "samples.npy", np.load(folder / "samples.npy")
        if damage == "gone":
            file.unlink()
        elif damage == "junk":
            file.write_bytes(b"junk")
        elif damage == "short":
            np.save(file, good[:-1])
        else:
            good["offset" if damage == "shifted" else "label"] += 10**6
            np.save(file, good)
        assert open_shards(folder).samples.tolist() == open_shards(made).samples.tolist()

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
        "import sys; from distgan.data.index import open_shards; open_shards(sys.argv[1]); "
        "print([m for m in ('torch', 'torchvision', 'webdataset') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, made], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
