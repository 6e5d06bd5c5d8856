from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_shards import dataset, encoded, numbers_of, pixels_of, read, write_shards, write_tar

from distgan.config.schema import Data
from distgan.data.dataset import open_dataset
from distgan.data.place import Place

SIZES = [7, 1, 13, 2, 9, 28]
COUNT = sum(SIZES)
# torchvision 0.29 says at the first picture that a later version will not decode any more
pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")

ORDERS = {
    "shuffle": {},
    "window": {"order": "window", "window": 2},
    "one shard at a time": {"order": "window", "window": 1},
    "partitions": {"partitions": 4},
    "window, partitions": {"order": "window", "window": 4, "partitions": 2},
    "window, holdout": {"order": "window", "window": 3, "holdout": "11 images"},
}


@pytest.fixture(scope="session")
def uneven(tmp_path_factory):
    """60 pictures in shards of very different sizes, as bare pixels."""
    return write_shards(tmp_path_factory.mktemp("stream") / "uneven", SIZES)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tier", ["stream", "memory", "device"])
def test_processes_and_threads_change_nothing(uneven, order, tier):
    """24 ranks are more than shards, and 3 of them share a batch with 1."""
    data = dataset(uneven, tier=tier, **ORDERS[order])
    alone = read(dataset(uneven, **ORDERS[order]), 20, batch_size=24)
    for world_size, threads in ((1, 3), (2, 1), (3, 2), (8, 1), (24, 1)):
        assert read(data, 20, batch_size=24, world_size=world_size, cores=threads) == alone


@pytest.mark.parametrize("order", ORDERS)
def test_every_epoch_has_every_picture_once(uneven, order):
    settings = ORDERS[order]
    count = COUNT - 11 if "holdout" in settings else COUNT
    found = read(dataset(uneven, **settings), 4 * count // 4, batch_size=4)
    for epoch in range(4):
        assert len(set(found[epoch * count : (epoch + 1) * count])) == count


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    window=st.integers(1, 5),
    partitions=st.integers(1, 3),
    share=st.integers(1, 4),
    worlds=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    resumed=st.integers(0, 12),
    shuffle=st.booleans(),
)
@settings(max_examples=25)
def test_resumed_on_another_number_of_processes_it_goes_on_at_the_same_image(
    tmp_path_factory, sizes, window, partitions, share, worlds, resumed, shuffle
):
    folder = write_shards(tmp_path_factory.mktemp("property"), sizes)
    data = dataset(folder, order="shuffle" if shuffle else "window", window=window, partitions=partitions)
    batch = share * partitions * np.lcm(*worlds).item()
    whole = read(data, resumed + 3, batch_size=batch, world_size=worlds[0])
    rest = read(data, 3, batch_size=batch, world_size=worlds[1], position=resumed * batch)
    assert whole[resumed * batch :] == rest
    count = sum(sizes)
    positions = whole[: len(whole) // count * count]
    if partitions == 1:  # else a batch is laid out by parts
        assert all(sorted(positions[i : i + count]) == list(range(count)) for i in range(0, len(positions), count))


def test_another_batch_size_goes_on_at_the_same_image(uneven):
    data = dataset(uneven)
    whole = read(data, 30, batch_size=4)
    assert read(data, 4, batch_size=10, position=40) == whole[40:80]
    assert read(data, 1, batch_size=3 * COUNT)[:40] == whole[:40]


def test_with_partitions_another_batch_size_reads_the_same_images(uneven):
    data = dataset(uneven, partitions=2)
    assert sorted(read(data, 10, batch_size=4)) == sorted(read(data, 4, batch_size=10))


def test_a_machine_reads_the_shards_of_its_parts_alone(tmp_path):
    folder = write_shards(tmp_path, [8] * 8)
    data = dataset(folder, order="window", window=4, partitions=2)
    seen = []
    for rank in range(2):
        stream = data.stream(8, 0, 0, Place(rank, 2))
        seen.append({number // 8 for _ in range(32) for number in numbers_of(next(stream).pixels)})
        stream.close()
    assert len(seen[0] & seen[1]) <= 1 and len(seen[0] | seen[1]) == 8


def test_every_kind_of_picture_and_label_is_read(tmp_path):
    members, pixels = [], pixels_of(300)
    for number, form in enumerate(["png", "webp", "npy", "raw"]):
        members += [(f"{number}.{form}", encoded(pixels, form)), (f"{number}.cls", str(number).encode())]
    members += [("4.npy", encoded(np.ascontiguousarray(pixels.transpose(2, 0, 1)), "npy")), ("4.txt", b"4\n")]
    members += [("5.jpg", encoded(np.full_like(pixels, 200), "jpg")), ("5.json", b'{"label": 5}')]
    write_tar(tmp_path / "x.tar", members)
    stream = dataset(tmp_path).stream(6, 0, 0, Place())
    batch = next(stream)
    stream.close()
    for picture, label in zip(batch.pixels, batch.labels.tolist(), strict=True):
        if label == 5:
            assert (picture.int() - 200).abs().max() <= 1
        else:
            assert numbers_of(picture[None]) == [300], label
    assert batch.pixels.dtype == torch.uint8 and sorted(batch.labels.tolist()) == list(range(6))


def test_grey_is_read_from_grey_and_from_colour(tmp_path):
    pixels = pixels_of(1)
    luma = np.round(pixels @ [0.299, 0.587, 0.114]).astype(int)
    write_tar(tmp_path / "x.tar", [("0.png", encoded(pixels, "png")), ("1.npy", encoded(pixels, "npy"))])
    data = open_dataset(Data(shards=str(tmp_path), resolution=16, channels=1, tier="stream", fit="crop"))
    stream = data.stream(2, 0, 0, Place())
    batch = next(stream).pixels
    stream.close()
    assert batch.shape == (2, 1, 16, 16)
    assert np.abs(batch[:, 0].numpy().astype(int) - luma).max() <= 1


@pytest.mark.parametrize("form", ["png", "npy"])
@pytest.mark.parametrize("size", [(40, 30), (30, 40), (16, 16), (50, 16), (9, 12), (27, 12)])
def test_crop_takes_the_middle_square_as_pil_would(tmp_path, size, form):
    from PIL import Image

    width, height = size
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    write_tar(tmp_path / "x.tar", [(f"0.{form}", encoded(ramp, form))])
    stream = dataset(tmp_path, fit="crop").stream(1, 0, 0, Place())
    found = next(stream).pixels[0].permute(1, 2, 0).numpy().astype(int)
    stream.close()
    edge = min(size)
    left, top = (width - edge) // 2, (height - edge) // 2
    square = Image.fromarray(ramp).crop((left, top, left + edge, top + edge))
    wanted = np.asarray(square.resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(found - wanted).max() <= 2


def test_shards_without_labels_have_minus_one(uneven):
    stream = dataset(uneven).stream(4, 0, 0, Place())
    assert next(stream).labels.tolist() == [-1] * 4
    stream.close()


def test_held_out_pictures_are_never_trained_on_and_are_the_same_for_every_seed(uneven):
    for holdout in ("20 images", "20images", "2 shards", "x-00002.tar", ["x-0000[01].tar", "x-00004.tar"]):
        data = dataset(uneven, holdout=holdout)
        count = len(data.split.train)
        trained = set(read(data, 2 * count, batch_size=1, seed=3))
        held = []
        for seed in (0, 1):
            stream = data.held_out(COUNT - count, seed, 0, Place())
            held.append(numbers_of(next(stream).pixels))
            stream.close()
        assert sorted(held[0]) == sorted(held[1]) and len(set(held[0])) == COUNT - count
        assert trained | set(held[0]) == set(range(COUNT)) and not trained & set(held[0])


def stream_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("stream", "shards"))]


def open_files(folder) -> int:
    targets = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return sum(target.startswith(str(folder)) and target.endswith(".tar") for target in targets)


@pytest.mark.parametrize("tier", ["stream", "memory", "device"])
@pytest.mark.parametrize("batches", [0, 1])
def test_closing_leaves_no_thread_and_no_file(uneven, batches, tier):
    before = len(stream_threads())
    stream = dataset(uneven, tier=tier).stream(12, 0, 0, Place(cores=3))
    for _ in range(batches):
        next(stream)
    stream.close()
    assert len(stream_threads()) == before and not open_files(uneven)


def test_the_time_spent_waiting_is_counted(uneven):
    stream = dataset(uneven).stream(20, 0, 0, Place())
    assert stream.wait_seconds == 0
    next(stream)
    assert 0 < stream.wait_seconds < 10
    stream.close()


def test_a_window_over_shards_sorted_by_class_is_warned_of(tmp_path):
    members = [(f"{n:03d}", n // 10) for n in range(80)]
    for name, mixed in (("sorted", False), ("mixed", True)):
        order = sorted(members, key=lambda member: member[0][::-1]) if mixed else members
        for shard in range(8):
            parts = [
                (f"{key}.{form}", data)
                for key, label in order[shard * 10 : shard * 10 + 10]
                for form, data in (("npy", encoded(pixels_of(int(key)), "npy")), ("cls", str(label).encode()))
            ]
            write_tar(tmp_path / name / f"x-{shard}.tar", parts)
    warned = "a window of 2 of them holds at most 2 of 8 classes; use a larger data.window, or prepare"
    assert warned in dataset(tmp_path / "sorted", order="window", window=2).summary()
    for name, other in (("mixed", {"order": "window", "window": 2}), ("sorted", {}), ("sorted", {"window": 8})):
        assert "warning" not in dataset(tmp_path / name, **other).summary()
