"""`distgan prepare --verify` and `distgan doctor --data`: what is bad is named, all of it, and nothing else."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from flaky_server import FlakyServer
from launching import ROOT, TINY
from made_shards import encoded, pixels_of, write_shards, write_tar
from PIL import Image

from distgan.cli import main
from distgan.data.index import open_shards
from distgan.data.indexing import Caching
from distgan.data.prepare import prepare
from distgan.data.verify import named_targets, targets_of, verify


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    prepare("shapes", None, out, count=24, shard_size=8, resolution=16, workers=1, encoding="png")
    return out


@pytest.fixture
def folder(made, tmp_path):
    """Three shards of eight labelled PNGs, and their index."""
    copy = tmp_path / "shards"
    copy.mkdir()
    for file in made.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.fixture
def caching(tmp_path):
    return Caching(tmp_path / "cache", 10**9)


@pytest.fixture
def faults(caching):
    """A function from a spec to what is bad in it: lines without the folder."""

    def find(spec, **options):
        report = verify(named_targets(spec, caching), caching, **options)
        assert report.bad == len(report.faults)
        return sorted(str(fault).rpartition("/shards/")[2] or str(fault) for fault in report.faults)

    return find


def change(path, at, value=None):
    data = bytearray(path.read_bytes())
    data[at] = data[at] ^ 255 if value is None else value
    path.write_bytes(data)


def picture_of(folder, number):
    shards = open_shards(folder)
    row = shards.samples[number]
    return shards.paths[row["shard"]], int(row["offset"]), int(row["size"])


def undecodable(number):
    """A PNG whose header is sound and whose pixels are not."""
    data = bytearray(encoded(pixels_of(number), "png"))
    data[len(data) // 2] ^= 255
    return bytes(data)


class TestFaults:
    def test_sound_shards_have_none(self, faults, folder, capsys):
        assert faults(folder) == faults(f"{folder}/shapes-0000[02].tar") == []
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        "damage, said",
        [
            (lambda path: path.unlink(), "cannot be read: No such file or directory"),
            (lambda path: path.write_bytes(path.read_bytes()[:-700]), "when it was indexed"),
            (lambda path: path.write_bytes(b""), "the shard has 0 bytes"),
        ],
        ids=["missing", "truncated", "empty"],
    )
    def test_a_shard_that_is_not_all_there_is_one_line(self, faults, folder, damage, said):
        damage(folder / "shapes-00001.tar")
        (line,) = faults(folder)
        assert line.startswith("shapes-00001.tar: ") and said in line

    def test_what_is_no_tar_is_named_whatever_its_size(self, faults, folder):
        path = folder / "shapes-00001.tar"
        path.write_bytes(b"junk" * (path.stat().st_size // 4))
        lines = faults(folder)
        assert len(lines) == 2 and all(line.startswith("shapes-00001.tar: ") for line in lines)
        assert any("sha256" in line for line in lines) and any("not a sound plain tar" in line for line in lines)

    def test_a_changed_byte_is_named_with_its_picture(self, faults, folder):
        path, offset, size = picture_of(folder, 10)
        change(path, offset + size - 3)
        wrong_sum, wrong_file = faults(folder)
        assert wrong_sum.startswith("shapes-00001.tar: 00000010.png: ") and "checksum" in wrong_sum
        assert wrong_file.startswith("shapes-00001.tar: its sha256 is not that of its index")

    def test_a_changed_label_is_seen(self, faults, folder):
        path, offset, _ = picture_of(folder, 10)
        with tarfile.open(path) as archive:
            member = archive.getmember("00000010.cls")
        change(
            path, member.offset_data, ord("3") if member.size and path.read_bytes()[member.offset_data] != 51 else 50
        )
        assert [line.partition(": ")[2] for line in faults(folder)] == [
            "its sha256 is not that of its index; it has changed since, so copy it again",
            "the labels of its pictures are not those of its index",
        ]

    def test_pictures_that_never_fitted_are_named(self, faults, tmp_path):
        """The index is made after the damage, so that every checksum is right."""
        small = io.BytesIO()
        Image.new("RGB", (20, 16)).save(small, "PNG")
        members = [(f"{n}.png", encoded(pixels_of(n), "png")) for n in range(4)]
        members[1:1] = [("size.png", small.getvalue()), ("pixels.png", undecodable(7)), ("head.jpg", b"\xff\xd8 junk")]
        members.append(("size.npy", encoded(np.zeros((20, 20, 3), np.uint8), "npy")))
        write_tar(tmp_path / "shards" / "x.tar", members)
        assert open_shards(tmp_path / "shards").count == 8
        lines = faults(tmp_path / "shards")
        assert [line.split(": ")[1] for line in lines] == ["head.jpg", "pixels.png", "size.npy", "size.png"]
        assert "it is 20 x 16 pixels, and must be 16 x 16" in lines[3] and "1200 bytes of pixels" in lines[2]

    def test_a_name_that_leads_out_of_the_folder_is_named_each_time(self, faults, tmp_path):
        names = ["a.png", "../x.png", "b.png", "/etc/y.png", "c/../../z.cls"]
        write_tar(tmp_path / "shards" / "x.tar", [(name, encoded(pixels_of(1), "png")) for name in names])
        lines = faults(tmp_path / "shards")
        assert [line.split(": ")[1] for line in lines] == ["../x.png", "/etc/y.png", "c/../../z.cls"]

    def test_a_damaged_tar_without_an_index_is_named(self, faults, tmp_path):
        folder = write_shards(tmp_path / "shards", [5, 5, 5])
        whole = (folder / "x-00001.tar").read_bytes()
        (folder / "x-00001.tar").write_bytes(whole[:3000])
        (line,) = faults(folder)
        assert line.startswith("x-00001.tar: ") and "copy it again" in line

    def test_an_index_without_its_table_is_a_fault_and_its_pictures_are_read_all_the_same(self, faults, folder):
        path, offset, size = picture_of(folder, 10)
        change(path, offset + size // 2)
        (folder / "samples.npy").write_bytes(b"junk")
        lines = faults(folder)
        assert len(lines) == 3 and ": samples.npy: missing, or not what index.json speaks of" in lines[0]
        assert lines[1].startswith("shapes-00001.tar: 00000010.png: ")

    def test_an_index_of_the_first_version_is_no_fault(self, faults, folder):
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps({**index, "version": 1}))
        np.save(folder / "samples.npy", np.zeros(24, [("shard", "<i4"), ("offset", "<i8")]))
        assert faults(folder) == []
        change(folder / "shapes-00002.tar", 0)
        assert {line.split(":")[0] for line in faults(folder)} == {"shapes-00002.tar"}

    @pytest.mark.parametrize("form", ["npy", "raw", "jpg", "webp"])
    def test_every_encoding_is_read_and_counted(self, tmp_path, caching, form):
        folder = write_shards(tmp_path / "shards", [3, 4], form)
        open_shards(folder)
        report = verify(named_targets(folder, caching), caching)
        assert (report.bad, report.pictures, report.shards) == (0, 7, 2)
        assert dict(report.encodings) == {{"npy": "raw", "jpg": "jpeg"}.get(form, form): 7}
        assert report.bytes == sum(path.stat().st_size for path in folder.glob("*.tar"))

    @pytest.mark.parametrize("threads", [1, 3])
    def test_it_never_stops_at_the_first_whatever_the_threads(self, faults, tmp_path, threads):
        folder = write_shards(tmp_path / "shards", [4] * 6)
        open_shards(folder)
        (folder / "x-00000.tar").unlink()
        (folder / "x-00002.tar").write_bytes(b"junk")
        for shard, number in (("x-00003.tar", 13), ("x-00003.tar", 15), ("x-00005.tar", 20)):
            whole = (folder / shard).read_bytes()
            change(folder / shard, whole.index(pixels_of(number).tobytes()) + 100)
        lines = faults(folder, threads=threads)
        assert [line.split(": ")[0] for line in lines] == [
            "x-00000.tar", "x-00002.tar", *["x-00003.tar"] * 3, *["x-00005.tar"] * 2
        ]  # fmt: skip
        assert [line.split(": ")[1] for line in lines if ".npy" in line] == ["000013.npy", "000015.npy", "000020.npy"]

    def test_twenty_lines_are_said_and_all_are_counted(self, tmp_path, caching, capsys):
        write_tar(tmp_path / "x.tar", [(f"{n}.png", undecodable(n)) for n in range(40)])
        report = verify(targets_of(open_shards(tmp_path / "x.tar", caching)), caching)
        assert report.bad == 40 and report.summary().endswith(": 40 faults")
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 20 and said[-1].endswith("(more of these are counted, not shown)")

    @pytest.mark.parametrize("at", [0, 100, 124, 148, 156, 257, 345])
    @pytest.mark.parametrize("value", [0, 32, 255])
    def test_no_byte_of_a_header_makes_it_stumble(self, faults, folder, at, value):
        if (folder / "shapes-00001.tar").read_bytes()[at] == value:
            return
        change(folder / "shapes-00001.tar", at, value)
        lines = faults(folder)
        assert lines and all(line.startswith("shapes-00001.tar: ") for line in lines)


class TestRemote:
    def test_shards_behind_a_url_are_verified_through_the_cache(self, folder, caching):
        with FlakyServer(folder) as server:
            report = verify(named_targets(server.url(""), caching), caching)
        assert (report.bad, report.pictures) == (0, 24)

    def test_what_the_server_gives_wrong_or_not_at_all_is_named_and_the_rest_is_read(self, folder, caching):
        with FlakyServer(folder) as server:
            server.always = {"shapes-00000.tar": "wrong", "shapes-00002.tar": "404"}
            report = verify(named_targets(server.url(""), caching), caching)
        assert report.pictures == 8 and report.bad == 2
        first, last = sorted(map(str, report.faults))
        assert "shapes-00000.tar: fetched twice, and its sha256 is not" in first
        assert "shapes-00002.tar: nothing is there" in last

    def test_tars_without_an_index_are_looked_at_one_by_one(self, tmp_path, caching):
        write_shards(tmp_path / "shards", [3, 3, 3])
        (tmp_path / "shards" / "x-00001.tar").write_bytes(b"junk" * 500)
        with FlakyServer(tmp_path / "shards") as server:
            report = verify(named_targets(server.url("x-{00000..00002}.tar"), caching), caching)
        (fault,) = report.faults
        assert fault.shard.endswith("x-00001.tar") and report.pictures == 6

    def test_a_command_is_not_run_unasked(self, folder, caching, faults):
        from distgan.errors import DataError

        spec = f"pipe:cat {folder}/shapes-00000.tar"
        with pytest.raises(DataError, match="allow_shell"):
            faults(spec)
        allowed = caching._replace(allow_shell=True)
        assert verify(named_targets(spec, allowed), allowed).pictures == 8


class TestCommand:
    def test_verifying_after_writing_and_alone_ends_with_one_line_and_0(self, tmp_path, run, capsys):
        assert run("shapes", "--count", 30, "--out", tmp_path / "out", "--verify") == 0
        written = capsys.readouterr().out.splitlines()
        assert written[0].startswith("prepared 30 pictures")
        assert written[-1].startswith("verified 30 pictures in 1 shard, ") and written[-1].endswith(": all sound")
        assert run("--verify", "--out", tmp_path / "out") == 0
        assert capsys.readouterr().out.splitlines() == written[-1:]

    def test_a_fault_is_a_line_and_status_1(self, folder, run, capsys):
        path, offset, _ = picture_of(folder, 3)
        change(path, offset + 60)
        (folder / "shapes-00002.tar").unlink()
        assert run("--verify", "--out", folder) == 1
        printed = capsys.readouterr()
        assert printed.out.count("\n") == 1 and printed.out.endswith(": 3 faults\n")
        assert printed.err.count("\n") == 3 and "shapes-00000.tar: 00000003.png: " in printed.err

    def test_verifying_a_finished_prepare_again_reads_it_and_writes_nothing(self, tmp_path, run, capsys):
        words = ("shapes", "--count", 9, "--out", tmp_path / "out", "--verify")
        assert run(*words) == 0
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        change(tmp_path / "out" / "shapes-00000.tar", 2000)
        assert run(*words) == 1
        assert "nothing to do" in capsys.readouterr().out
        assert before.keys() == set((tmp_path / "out").iterdir())

    @pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_ends_it_at_once_and_in_one_line(self, tmp_path, start, number, status):
        large = encoded(np.zeros((2000, 2000, 3), np.uint8), "png")
        write_tar(tmp_path / "shards" / "x-00000.tar", [(f"{n:05}.png", large) for n in range(3000)])
        process = start("--verify", "--out", tmp_path / "shards")
        time.sleep(4)  # torch is loaded, and pictures are being decoded
        assert process.poll() is None
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == status
        assert errors == "distgan prepare: stopped; run the same command again\n"

    def test_importing_it_loads_no_torch(self):
        code = "import sys, distgan.data.verify, distgan.cli; print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.strip() == "False"


def doctor(folder, *words):
    return ["doctor", "--data", "--config", str(TINY), f"data.shards={folder}", "data.resolution=16", *words]


class TestDoctor:
    @pytest.fixture(autouse=True)
    def own_cache(self, monkeypatch, tmp_path):
        monkeypatch.setenv("DISTGAN_CACHE", str(tmp_path / "cache"))

    def table(self, capsys):
        lines = capsys.readouterr().out.splitlines()
        return dict(line.split("  ", 1) for line in lines[2:] if "  " in line)

    def test_sound_shards_are_a_table_and_status_0(self, folder, capsys):
        assert main(doctor(folder)) == 0
        found = {what.strip(): value.strip() for what, value in self.table(capsys).items()}
        size = sum(path.stat().st_size for path in folder.glob("*.tar"))
        assert found == {
            "pictures": "24",
            "shards": "3",
            "bytes": f"{size / 1e6:.1f} MB",
            "encoding": "24 png",
            "classes": "4, 0 in the config",
            "faults": "none",
        }

    def test_tars_without_an_index_get_one(self, tmp_path, capsys):
        folder = write_shards(tmp_path / "shards", [3, 4], labelled=True)
        assert main(doctor(folder)) == 0
        assert (folder / "index.json").exists() and "7 raw" in capsys.readouterr().out

    def test_every_fault_is_named_although_training_would_stop_at_the_first(self, folder, capsys):
        for name in ("shapes-00000.tar", "shapes-00002.tar"):
            (folder / name).unlink()
        path, offset, _ = picture_of_shard(folder, 1)
        change(path, offset + 60)
        assert main(doctor(folder)) == 1
        errors = capsys.readouterr().err
        for part in ("shapes-00000.tar: cannot", "shapes-00002.tar: cannot", "shapes-00001.tar: 00000008.png: "):
            assert part in errors
        assert "distgan: training would refuse these shards: " in errors

    def test_shards_that_do_not_fit_the_config_are_refused_and_read_all_the_same(self, folder, capsys):
        assert main(doctor(folder, "data.resolution=32")) == 1
        printed = capsys.readouterr()
        assert "data.resolution is 32 but the shards have 16" in printed.err and printed.err.count("\n") == 1
        assert "pictures  24" in printed.out and "faults    none" in printed.out

    def test_cropping_takes_any_size(self, tmp_path):
        pictures = [np.zeros((height, 28, 3), np.uint8) for height in (28, 30, 100)]
        write_tar(tmp_path / "x.tar", [(f"{n}.png", encoded(pixels, "png")) for n, pixels in enumerate(pictures)])
        assert main(doctor(tmp_path / "x.tar", "data.fit=crop")) == 0
        assert main(doctor(tmp_path / "x.tar", "data.resolution=28")) == 1

    def test_resampled_shards_are_read_without_an_index(self, tmp_path, capsys):
        folder = write_shards(tmp_path / "shards", [3, 4])
        assert main(doctor(folder, "data.order=resampled")) == 0
        assert "pictures  7" in capsys.readouterr().out and not (folder / "index.json").exists()

    def test_a_launcher_is_refused_in_one_line(self, folder, capsys, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr("distgan.cli.leave", lambda status, orderly: status)
        assert main(doctor(folder)) == 2
        assert "run it without the launcher" in capsys.readouterr().err

    def test_shards_that_are_nowhere_are_refused_before_torch_is_loaded(self, tmp_path):
        code = "import sys; from distgan.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
        words = [sys.executable, "-c", code, *doctor(tmp_path / "nowhere")]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.strip() == "2 False" and done.stderr.count("\n") == 1


def picture_of_shard(folder, number):
    """Path, offset and size of the first picture of a shard, read from the index alone."""
    rows = np.load(folder / "samples.npy")
    row = rows[rows["shard"].searchsorted(number)]
    return folder / f"shapes-{number:05d}.tar", int(row["offset"]), int(row["size"])
