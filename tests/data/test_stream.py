from __future__ import annotations

import io
import os
import shutil
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distgan.data.index import ShardSet, open_shards
from distgan.data.prepare import prepare
from distgan.data.stream import Order, Stream
from distgan.errors import DataError

COUNT = 30
# torchvision 0.29 says at every picture that a later version will not decode any more
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")


@pytest.fixture(scope="session")
def sets(tmp_path_factory) -> dict[int, ShardSet]:
    """The same 30 pictures in 1, 2 or 4 shards."""
    found = {}
    for shards in (1, 2, 4):
        folder = tmp_path_factory.mktemp("stream") / str(shards)
        prepare("shapes", None, folder, resolution=16, count=COUNT, shard_size=-(-COUNT // shards), workers=1)
        found[shards] = open_shards(folder)
        assert len(found[shards].paths) == shards
    return found


def read(shards: ShardSet, batches: int, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and labels of the first batches, one after the other."""
    stream = Stream(shards, **{"resolution": 16, "channels": 3, "seed": 5, **settings})
    try:
        parts = [next(stream) for _ in range(batches)]
    finally:
        stream.close()
    return torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts])


def same(one, other) -> bool:
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def decoded(shards: ShardSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Every picture as PIL sees it, in the order of the samples."""
    pixels = []
    for row in shards.samples:
        with open(shards.paths[row["shard"]], "rb") as file:
            file.seek(row["offset"])
            picture = Image.open(io.BytesIO(file.read(row["size"])))
        pixels.append(np.asarray(picture.convert("RGB")))
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), torch.from_numpy(
        shards.samples["label"].astype("i8")
    )


def test_pixels_and_labels_are_those_of_another_decoder(sets):
    pixels, labels = decoded(sets[2])
    order = Order(COUNT, 5).samples(0, 40)
    assert same(read(sets[2], 4, batch_size=10), (pixels[order], labels[order]))
    assert len(torch.unique(labels)) == 4 and len(torch.unique(pixels.flatten(1), dim=0)) == COUNT


@settings(max_examples=25)
@given(
    shards=st.sampled_from([1, 2, 4]),
    world_size=st.integers(1, 4),
    local=st.integers(1, 12),
    position=st.integers(0, 100),
    threads=st.integers(1, 4),
)
def test_the_slices_of_all_ranks_are_the_stream_of_one(sets, shards, world_size, local, position, threads):
    size, batches = world_size * local, 3
    common = {"batch_size": size, "position": position}
    ranks = [
        read(sets[shards], batches, rank=rank, world_size=world_size, threads=threads, **common)
        for rank in range(world_size)
    ]
    rows = torch.cat(
        [
            torch.arange(b * local, (b + 1) * local) + r * batches * local
            for b in range(batches)
            for r in range(world_size)
        ]
    )
    joined = tuple(torch.cat(part)[rows] for part in zip(*ranks, strict=True))
    assert same(joined, read(sets[1], batches, **common))


@settings(max_examples=25)
@given(size=st.integers(1, 40), skipped=st.integers(0, 6), world_size=st.integers(1, 3), seed=st.integers(0, 3))
def test_starting_at_a_position_is_skipping_to_it(sets, size, skipped, world_size, seed):
    common = {"batch_size": size * world_size, "world_size": world_size, "rank": world_size - 1, "seed": seed}
    through = read(sets[2], skipped + 2, **common)
    started = read(sets[2], 2, position=skipped * size * world_size, **common)
    assert same(tuple(part[skipped * size :] for part in through), started)


@given(count=st.integers(1, 50), seed=st.integers(0, 2**40), epoch=st.integers(0, 20))
def test_each_epoch_holds_each_picture_once(count, seed, epoch):
    assert sorted(Order(count, seed).samples(epoch * count, (epoch + 1) * count).tolist()) == list(range(count))


@given(count=st.integers(1, 20), start=st.integers(0, 60), lengths=st.lists(st.integers(1, 70), max_size=5))
def test_the_order_does_not_depend_on_the_pieces_it_is_asked_for_in(count, start, lengths):
    order = Order(count, 0)
    pieces = []
    for length in lengths:
        begin = start + sum(map(len, pieces))
        pieces.append(order.samples(begin, begin + length).tolist())
    whole = Order(count, 0).samples(start, start + sum(lengths)).tolist() if lengths else []
    assert [sample for piece in pieces for sample in piece] == whole


def test_epochs_and_seeds_have_their_own_order():
    orders = [
        Order(COUNT, seed).samples(epoch * COUNT, (epoch + 1) * COUNT).tolist() for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_the_order_is_pinned():
    """A run that is gone on with by another version must see the same pictures."""
    assert Order(10, 0).samples(5, 15).tolist() == PINNED


PINNED = [1, 5, 9, 3, 6, 1, 6, 7, 9, 3]


def test_a_batch_may_be_larger_than_the_data(sets):
    pixels, _ = read(sets[4], 1, batch_size=3 * COUNT)
    assert len(torch.unique(pixels.flatten(1), dim=0)) == COUNT


def test_an_image_is_read_when_it_is_asked_for_in_grey(sets, tmp_path):
    prepare("shapes", None, tmp_path, resolution=16, channels=1, count=8, workers=1)
    pixels, _ = read(open_shards(tmp_path), 1, batch_size=8, channels=1)
    assert pixels.shape == (8, 1, 16, 16) and pixels.dtype == torch.uint8


def test_shards_without_labels_have_minus_one(tmp_path):
    for i in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (i, 0, 0)).save(tmp_path / "in" / f"{i}.png")
    prepare("images", tmp_path / "in", tmp_path / "out", resolution=16, workers=1)
    assert read(open_shards(tmp_path / "out"), 1, batch_size=3)[1].tolist() == [-1, -1, -1]


class TestDamage:
    @pytest.fixture
    def broken(self, sets, tmp_path):
        """A copy of the two shards, opened before anything happens to it."""
        shutil.copytree(sets[2].paths[0].parent, tmp_path / "broken")
        return open_shards(tmp_path / "broken")

    @pytest.mark.parametrize("threads", [1, 3])
    def test_a_shard_cut_short_is_named(self, broken, threads):
        shard = broken.paths[1]
        data = shard.read_bytes()
        shard.write_bytes(data[: len(data) // 2])
        with pytest.raises(
            DataError, match=rf"{shard}: picture \d+ at byte \d+: the shard ends after \d+ of its \d+ bytes"
        ):
            read(broken, 3, batch_size=10, threads=threads)

    def test_a_corrupt_picture_is_named(self, broken):
        row = broken.samples[7]
        shard = broken.paths[row["shard"]]
        data = bytearray(shard.read_bytes())
        data[row["offset"] + 8 : row["offset"] + row["size"]] = bytes(int(row["size"]) - 8)
        shard.write_bytes(data)
        with pytest.raises(DataError, match=f"{shard}: picture 7 at byte {row['offset']}: .*prepare the shards again"):
            read(broken, 3, batch_size=10)

    def test_a_shard_that_is_gone_is_named(self, broken):
        broken.paths[0].unlink()
        with pytest.raises(DataError, match=f"{broken.paths[0]}: .*No such file"):
            read(broken, 3, batch_size=10)

    @pytest.mark.parametrize("asked", [{"resolution": 32}, {"channels": 1, "resolution": 20}])
    def test_a_picture_of_another_size_is_named_with_both_sizes(self, sets, asked):
        with pytest.raises(
            DataError, match=r"\.tar: picture \d+ .*it has shape \(\d, 16, 16\), and the config asks for"
        ):
            read(sets[1], 1, batch_size=4, **asked)

    def test_what_was_read_before_the_damage_is_still_given(self, broken):
        order = Order(COUNT, 5).samples(0, COUNT)
        row = broken.samples[order[12]]
        shard = broken.paths[row["shard"]]
        data = bytearray(shard.read_bytes())
        data[row["offset"]] = 0
        shard.write_bytes(data)
        stream = Stream(broken, resolution=16, channels=3, batch_size=5, seed=5)
        assert [len(next(stream).labels) for _ in range(2)] == [5, 5]
        with pytest.raises(DataError, match=f"picture {order[12]} "):
            next(stream)
        stream.close()


def stream_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stream")]


def open_files(shards: ShardSet) -> int:
    targets = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return sum(str(path) in targets for path in shards.paths)


@pytest.mark.parametrize("batches", [0, 1])
def test_closing_leaves_no_thread_and_no_file(sets, batches):
    stream = Stream(sets[4], resolution=16, channels=3, batch_size=12, seed=0, threads=3)
    for _ in range(batches):
        next(stream)
        assert stream_threads()
    stream.close()
    assert not stream_threads() and not open_files(sets[4])


def test_the_time_spent_waiting_is_counted(sets):
    stream = Stream(sets[1], resolution=16, channels=3, batch_size=20, seed=0, threads=1)
    assert stream.wait_seconds == 0
    next(stream)
    assert 0 < stream.wait_seconds < 10
    stream.close()
