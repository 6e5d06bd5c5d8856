"""Pictures and shards that are not what they were indexed as: named, and replaced where that is asked for."""

from __future__ import annotations

import shutil
import struct
import zlib

import numpy as np
import pytest
from made_shards import dataset, encoded, numbers_of, pixels_of, read, write_shards, write_tar

from distgan.data.headers import picture_size
from distgan.data.place import Place
from distgan.errors import DataError, PictureError, ReadError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


@pytest.fixture(params=["png", "npy"])
def shards(request, tmp_path):
    """Three shards of 6 pictures each, indexed."""
    folder = write_shards(tmp_path / "shards", [6, 6, 6], request.param, labelled=True)
    dataset(folder)
    return folder


def spoil(folder, sample: int, data: bytes | None = None) -> None:
    """Overwrites bytes of a picture after it was indexed."""
    opened = dataset(folder).shards
    row = opened.samples[sample]
    path = opened.paths[row["shard"]]
    content = bytearray(path.read_bytes())
    place = int(row["offset"]) + 20
    content[place : place + 4] = data or bytes(b ^ 255 for b in content[place : place + 4])
    path.write_bytes(content)


def test_a_picture_that_has_changed_is_named_with_shard_and_key(shards):
    spoil(shards, 8)
    with pytest.raises(PictureError, match=r"x-00001\.tar: 000008\.(png|npy): it has changed since it was indexed"):
        read(dataset(shards), 3, batch_size=6)


@pytest.mark.parametrize("tier", ["stream", "memory", "device"])
def test_a_bad_picture_is_replaced_by_one_of_its_shard_the_same_on_all_world_sizes(shards, tier, capsys):
    for sample in (3, 8, 10):
        spoil(shards, sample)
    whole = None
    for world_size in (1, 2, 3):
        data = dataset(shards, bad_pictures="replace", tier=tier)
        streams = [data.stream(6, 0, 0, Place(rank, world_size)) for rank in range(world_size)]
        batches = [[next(stream) for stream in streams] for _ in range(9)]
        found = [number for parts in batches for batch in parts for number in numbers_of(batch.pixels)]
        labels = [label for parts in batches for batch in parts for label in batch.labels.tolist()]
        assert labels == [number % 3 for number in found]
        for stream in streams:
            stream.close()
        whole = whole or found
        assert found == whole and len(found) == 54
    counts = [whole.count(number) for number in range(18)]
    assert [number for number in range(18) if not counts[number]] == [3, 8, 10]
    assert sum(counts[0:6]) == sum(counts[6:12]) == 18  # by one of the same shard
    said = capsys.readouterr().err.splitlines()
    assert sum("000008" in line for line in said) >= 1 and all(
        "replaced by another" in line for line in said if "0000" in line
    )


def test_a_substitute_is_never_a_picture_that_is_held_out(tmp_path):
    folder = write_shards(tmp_path, [10, 10])
    data = dataset(folder, holdout="10 images", bad_pictures="replace")
    held = set(data.split.held_out.tolist())
    for sample in data.split.train[:3].tolist():
        spoil(folder, sample)
    assert not held & set(read(data, 30, batch_size=2))


def test_more_bad_pictures_than_the_limit_end_the_run(shards):
    for sample in (0, 7, 13):
        spoil(shards, sample)
    assert len(read(dataset(shards, bad_pictures="replace", bad_limit=3), 6, batch_size=3)) == 18
    with pytest.raises(ReadError, match="with it 3 pictures are bad, more than data.bad_limit 2"):
        read(dataset(shards, bad_pictures="replace", bad_limit=2), 6, batch_size=3)


def test_a_shard_without_a_good_picture_is_replaced_by_others_of_the_set(shards):
    for sample in range(6, 12):
        spoil(shards, sample)
    found = read(dataset(shards, bad_pictures="replace"), 6, batch_size=3)
    assert len(found) == 18 and not set(found) & set(range(6, 12))


def test_a_picture_of_another_size_is_named_with_both_sizes(tmp_path):
    pictures = [(f"{n}.png", encoded(pixels_of(n), "png")) for n in range(3)]
    wide = np.zeros((16, 24, 3), np.uint8)
    write_tar(tmp_path / "x.tar", [*pictures, ("wide.png", encoded(wide, "png"))])
    line = r"x\.tar: wide\.png: it is 24 x 16 pixels, and the config asks for 16 x 16; data\.fit: crop takes any size"
    with pytest.raises(DataError, match=line):
        read(dataset(tmp_path), 1, batch_size=4)
    write_tar(tmp_path / "y" / "x.tar", [*pictures, ("wide.npy", encoded(wide, "npy"))])
    with pytest.raises(DataError, match=r"x\.tar: wide\.npy: it is 24 x 16 pixels, and the config asks for 16 x 16"):
        read(dataset(tmp_path / "y"), 1, batch_size=4)


def bomb() -> bytes:
    """A PNG of 50,000 x 50,000 pixels, 7.5 GB decoded, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("fit", ["exact", "crop"])
def test_a_picture_bomb_is_not_decoded(tmp_path, fit):
    pictures = [(f"{n}.png", encoded(pixels_of(n), "png")) for n in range(3)]
    write_tar(tmp_path / "x.tar", [*pictures, ("bomb.png", bomb())])
    with pytest.raises(PictureError, match=r"bomb\.png: 50000 x 50000 pixels, more than the \d+ allowed"):
        read(dataset(tmp_path, fit=fit), 1, batch_size=4)


@pytest.mark.parametrize(
    "junk", [b"x", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"RIFF\x00\x00\x00\x00WEBPVP9 ", b"GIF89a"]
)
def test_what_is_no_picture_is_named(tmp_path, junk):
    pictures = [(f"{n}.png", encoded(pixels_of(n), "png")) for n in range(3)]
    write_tar(tmp_path / "x.tar", [*pictures, ("junk.png", junk)])
    with pytest.raises(PictureError, match=r"x\.tar: junk\.png: "):
        read(dataset(tmp_path), 1, batch_size=4)


def test_what_was_read_before_the_damage_is_still_given(shards):
    data = dataset(shards)
    order = read(data, 3, batch_size=6)
    spoil(shards, order[13])
    stream = dataset(shards).stream(6, 0, 0, Place())
    assert [numbers_of(next(stream).pixels) for _ in range(2)] == [order[:6], order[6:12]]
    with pytest.raises(PictureError, match=f"{order[13]:06d}"):
        next(stream)
    stream.close()


def test_a_changed_index_is_not_followed_out_of_its_folder(shards):
    index = shards / "index.json"
    index.write_text(index.read_text().replace("x-00001.tar", "../shards/x-00001.tar"))
    with pytest.raises(DataError, match="leads out of its folder"):
        dataset(shards)


def test_members_that_lead_out_of_a_folder_are_named(tmp_path):
    write_tar(tmp_path / "x.tar", [("../../evil.png", encoded(pixels_of(0), "png"))])
    with pytest.raises(DataError, match=r"x\.tar: \.\./\.\./evil\.png: a name that leads out of its folder"):
        dataset(tmp_path)


def test_a_copy_elsewhere_is_the_same_set(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "copy")
    assert dataset(shards).fingerprint == dataset(tmp_path / "copy").fingerprint
    spoiled = write_shards(tmp_path / "other", [6, 6, 5], "npy", labelled=True)
    assert dataset(spoiled).fingerprint != dataset(shards).fingerprint


def test_a_jpeg_that_hides_its_size_is_read_as_the_decoder_reads_it():
    """FF 00 is no marker: a reader that takes it for one skips the frame that the decoder obeys."""
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 12_000, 12_000, 3) + bytes(9)
    small = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, 16, 16, 3) + bytes(9)
    hidden = b"\xff\xd8\xff\x00" + struct.pack(">H", 2 + len(frame)) + frame + small
    assert picture_size(hidden) == (12_000, 12_000)


@pytest.mark.parametrize("tier", ["stream", "memory", "device"])
def test_a_bad_picture_that_is_held_out_harms_no_training(tmp_path, tier):
    folder = write_shards(tmp_path, [8, 8], "png")
    data = dataset(folder, holdout="x-00001.tar", tier=tier)
    spoil(folder, 11)
    assert sorted(read(data, 4, batch_size=2)) == list(range(8))
