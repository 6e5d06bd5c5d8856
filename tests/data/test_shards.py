from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from distgan.data.encodings import ENCODINGS
from distgan.data.pictures import Rendered
from distgan.data.scan import SAMPLE, Kind, scan_tar
from distgan.data.shards import (
    Journal,
    ShardRecord,
    ShardWriter,
    disk_errors,
    locked,
    new_file,
    plan_slots,
    remove_shards,
)
from distgan.errors import DataError, UserError

RENDERED = [
    Rendered("a", 3, b"\x89PNG one" * 100),
    Rendered("bad", 1, None, reason="broken"),
    Rendered("b", 0, b"\x89PNG two" * 64, upscaled=True),
]


def write(path, rendered, start=0, encoding="png"):
    with new_file(path) as file:
        writer = ShardWriter(file, encoding)
        for number, one in enumerate(rendered, start):
            writer.add(number, one)
        return writer.finish()


@given(count=st.integers(1, 20_000), shard_size=st.integers(20, 5_000))
def test_shards_are_balanced_in_order_and_no_larger_than_asked(count, shard_size):
    slots = plan_slots("x", count, shard_size)
    sizes = [slot.stop - slot.start for slot in slots]
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1 and max(sizes) <= shard_size
    assert [slot.start for slot in slots] == [0, *[slot.stop for slot in slots[:-1]]]
    assert slots[-1].stop == count


def test_seven_thousand_pictures_give_several_shards_and_seventy_give_one():
    assert len(plan_slots("x", 7000, 2048)) == 8
    assert [slot.name for slot in plan_slots("x", 70, 2048)] == ["x-00000.tar"]


def test_a_record_says_what_is_in_the_shard(tmp_path):
    record, rows = write(tmp_path / "x.tar", RENDERED)
    data = (tmp_path / "x.tar").read_bytes()
    assert (record.samples, record.bytes, record.upscaled) == (2, len(data), 1)
    assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert record.skipped == (("bad", "broken"),)
    assert rows.tolist() == scan_tar(tmp_path / "x.tar").tolist()
    assert [data[row["offset"] :][: row["size"]] for row in rows] == [RENDERED[0].data, RENDERED[2].data]


@pytest.mark.parametrize("size", [1, 511, 512, 513, 10240])
@pytest.mark.parametrize("label", [-1, 7])
def test_rows_point_at_the_picture_whatever_its_size(tmp_path, size, label):
    _, rows = write(tmp_path / "x.tar", [Rendered("a", label, bytes([n + 1]) * size) for n in range(3)])
    data = (tmp_path / "x.tar").read_bytes()
    assert [data[r["offset"] : r["offset"] + r["size"]] for r in rows] == [bytes([n + 1]) * size for n in range(3)]


def test_plain_webdataset_reads_the_samples(tmp_path):
    write(tmp_path / "x.tar", RENDERED, start=41)
    samples = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False))
    assert [(s["__key__"], s["png"], s["cls"]) for s in samples] == [
        ("00000041", RENDERED[0].data, b"3"),
        ("00000043", RENDERED[2].data, b"0"),
    ]


def test_a_tar_is_the_same_bytes_at_any_time_and_has_plain_headers(tmp_path):
    write(tmp_path / "x.tar", RENDERED)
    write(tmp_path / "y.tar", RENDERED)
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()
    with tarfile.open(tmp_path / "x.tar") as archive:
        for member in archive:
            assert (member.mtime, member.mode, member.uname, member.pax_headers) == (0, 0o444, "distgan", {})


def test_a_file_that_fails_leaves_nothing_and_keeps_what_was_there(tmp_path):
    (tmp_path / "x").write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), new_file(tmp_path / "x") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"before"


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    with new_file(tmp_path / "x") as file:
        file.write(b"half")
        (part,) = os.listdir(tmp_path)
        assert part.startswith(".x.") and part.endswith(".part")
    assert os.listdir(tmp_path) == ["x"]


def test_a_full_disk_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no space left.*goes on"), disk_errors(tmp_path):
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")


def test_two_prepares_may_not_write_into_one_folder(tmp_path):
    with locked(tmp_path), pytest.raises(DataError, match="another prepare"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


class TestJournal:
    RECORD = ShardRecord(2, 4, hashlib.sha256(b"data").hexdigest(), (("n", "r"),), 1)

    def test_records_are_read_back_under_the_same_plan_only(self, tmp_path):
        Journal(tmp_path, "plan").add("x.tar", self.RECORD)
        again = Journal(tmp_path, "plan")
        assert again.load() and again.done == {"x.tar": self.RECORD}
        assert not Journal(tmp_path, "other").load()

    @pytest.mark.parametrize("content", ["", "[]", "{", json.dumps({"plan": "plan"})])
    def test_a_damaged_journal_counts_as_none(self, tmp_path, content):
        (tmp_path / ".prepare.json").write_text(content)
        assert not Journal(tmp_path, "plan").load()

    @pytest.mark.parametrize("content", [None, b"dat", b"dada"])
    def test_a_shard_that_is_not_as_it_was_written_is_forgotten(self, tmp_path, content):
        journal = Journal(tmp_path, "plan")
        journal.add("x.tar", self.RECORD)
        if content is not None:
            (tmp_path / "x.tar").write_bytes(content)
        journal.keep_sound()
        assert journal.done == {}


def test_removing_shards_leaves_what_is_not_ours(tmp_path):
    for name in ("index.json", "samples.npy", ".prepare.json", "mnist-00000.tar", ".a.part", "mine.tar", "notes"):
        (tmp_path / name).write_bytes(b"x")
    remove_shards(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["mine.tar", "notes"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("side", [1, 3, 16, 33])
def test_rows_are_those_that_a_scan_finds_whatever_the_encoding_and_size(tmp_path, encoding, mode, side):
    noise = np.random.default_rng(side).integers(0, 256, (3, side, side, 1 if mode == "L" else 3), np.uint8)
    encode = ENCODINGS[encoding].encode
    pictures = [encode(Image.fromarray(pixels.squeeze(-1) if mode == "L" else pixels)) for pixels in noise]
    _, rows = write(tmp_path / "x.tar", [Rendered("a", n - 1, data) for n, data in enumerate(pictures)], 0, encoding)
    assert rows.tolist() == scan_tar(tmp_path / "x.tar").tolist()
    whole = (tmp_path / "x.tar").read_bytes()
    stored = [whole[row["offset"] :][: row["size"]] for row in rows]
    assert [zlib.crc32(data) for data in stored] == rows["crc"].tolist()
    if encoding == "raw":
        assert set(rows["kind"]) == {Kind.HWC} and stored == [pixels.tobytes() for pixels in noise]
        assert {len(data) - row["size"] for data, row in zip(pictures, rows, strict=True)} == {128}
    else:
        assert set(rows["kind"]) == {Kind.ENCODED} and stored == pictures


def test_a_row_takes_twenty_five_bytes():
    assert SAMPLE.itemsize == 25 and np.zeros(1, SAMPLE)["offset"].dtype == np.int64
