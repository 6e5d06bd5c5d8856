"""Where a set is kept: one order and the same bits, and memory that goes when its processes do."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from made_shards import dataset, numbers_of, read, write_shards

from distgan.data import tiers
from distgan.data.on_device import Resident, ResidentStream
from distgan.data.place import Place
from distgan.data.shared_pictures import SharedPictures
from distgan.data.stream import Stream
from distgan.errors import ConfigError, ReadError

SIZES = [40, 9, 51]
COUNT = sum(SIZES)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("tiers"), SIZES, "png", labelled=True)


def room_of(data, address=None) -> SharedPictures:
    return SharedPictures(data._pictures(data.split.train), COUNT, address)


def numbers_in(room: SharedPictures, samples: list[int]) -> list[int]:
    rows, labels = torch.empty(len(samples), 768, dtype=torch.uint8), torch.empty(len(samples), dtype=torch.int64)
    room.read(np.array(samples), rows, labels)
    found = numbers_of(rows.view(-1, 16, 16, 3).permute(0, 3, 1, 2))
    assert labels.tolist() == [number % 3 for number in found]
    return found


def test_what_one_process_has_decoded_another_need_not(shards):
    data = dataset(shards)
    first = room_of(data)
    assert numbers_in(first, [3, 99, 3, 40]) == [3, 99, 3, 40]
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def other():
        opened = dataset(shards)
        room = room_of(opened, first.address)
        opened.shards.paths  # noqa: B018
        room._pictures = None  # whoever asked it to decode would fail
        theirs.send(numbers_in(room, [99, 3, 40]))

    process = context.Process(target=other)
    process.start()
    assert ours.poll(30) and ours.recv() == [99, 3, 40]
    process.join(10)
    assert process.exitcode == 0


def test_the_memory_goes_with_its_last_process_even_when_killed(shards):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def holder():
        room = room_of(dataset(shards))
        numbers_in(room, list(range(COUNT)))
        theirs.send(room.address)
        time.sleep(60)

    before = set(os.listdir("/dev/shm"))
    process = context.Process(target=holder)
    process.start()
    assert ours.poll(30)
    address = ours.recv()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert set(os.listdir("/dev/shm")) <= before
    with pytest.raises(ReadError, match="shared by the first process of this machine cannot be opened by another"):
        room_of(dataset(shards), address)


def test_the_processes_of_a_machine_share_what_the_first_makes(shards, monkeypatch):
    """Rank 1 takes the address that rank 0 tells, also where it would have chosen another tier."""
    data = dataset(shards, tier="auto")
    told = []
    first = data.stream(8, 0, 0, Place(0, 2, local_size=2, share=lambda text: told.append(text) or text))
    monkeypatch.setattr(tiers, "available_memory", lambda: 0)
    second = data.stream(8, 0, 0, Place(1, 2, local_rank=1, local_size=2, share=lambda text: told[0]))
    assert told[0].startswith("memory /proc/")
    assert isinstance(second._source, SharedPictures)
    found = [numbers_of(next(stream).pixels) for _ in range(3) for stream in (first, second)]
    assert sum(found, []) == read(dataset(shards), 3)
    for stream in (first, second):
        stream.close()


class Meeting:
    """What processes that call `share` and `union` together are told; here threads of one process."""

    def __init__(self, size: int) -> None:
        self.barrier, self.said = threading.Barrier(size, timeout=30), [None] * size

    def place(self, rank: int, local_size: int) -> Place:
        first = rank - rank % local_size

        def everybody(value):
            self.said[rank] = value
            self.barrier.wait()
            said = list(self.said)
            self.barrier.wait()
            return said

        return Place(
            rank,
            len(self.said),
            local_rank=rank - first,
            local_size=local_size,
            share=lambda text: everybody(text)[first],
            union=lambda texts: frozenset().union(*everybody(texts)),
        )


@pytest.mark.parametrize("tier", ["memory", "device"])
def test_where_memory_cannot_be_shared_all_processes_of_that_machine_go_without(shards, monkeypatch, capfd, tier):
    """Ranks 0 and 1 on one machine, where /proc says no; 2 and 3 on another, where it does not."""
    real, meeting, closed = tiers.SharedPictures, Meeting(4), []

    class Forbidden(real):
        def __init__(self, pictures, count, address=None):
            if address is not None and threading.current_thread().name == "rank 1":
                address = address.replace("/proc/", "/proc/none/")
            super().__init__(pictures, count, address)

        def close(self):
            closed.append(threading.current_thread().name)
            super().close()

    monkeypatch.setattr(tiers, "SharedPictures", Forbidden)
    streams = [None] * 4

    def open_one(rank):
        streams[rank] = dataset(shards, tier=tier).stream(8, 0, 0, meeting.place(rank, 2))

    threads = [threading.Thread(target=open_one, args=(rank,), name=f"rank {rank}") for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    found = [n for _ in range(9) for stream in streams for n in numbers_of(next(stream).pixels)]
    assert found == read(dataset(shards), 9)
    if tier == "memory":
        assert [isinstance(stream._source, real) for stream in streams] == [False, False, True, True]
        assert closed == ["rank 0"]
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("distgan:")]
    assert len(told) == 1 and "cannot be opened by another" in told[0] and "each process reads the shards" in told[0]
    for stream in streams:
        stream.close()


@pytest.mark.parametrize(("free", "tier"), [(10**12, SharedPictures), (COUNT * 772 * 4 - 4, type(None))])
def test_auto_takes_memory_where_a_quarter_of_what_is_free_suffices(shards, monkeypatch, free, tier):
    monkeypatch.setattr(tiers, "available_memory", lambda: free)
    stream = dataset(shards, tier="auto").stream(8, 0, 0, Place())
    kept = stream._source if stream._source is not stream._pictures else None
    assert isinstance(kept, tier) and isinstance(stream, Stream)
    stream.close()


@pytest.mark.parametrize("tier", ["memory", "device"])
def test_a_tier_that_has_no_room_is_refused(shards, monkeypatch, tier):
    monkeypatch.setattr(tiers, "available_memory", lambda: 1000)
    with pytest.raises(ConfigError, match=f"data.tier: {tier}: the pictures take .* are free; use data.tier: stream"):
        dataset(shards, tier=tier).stream(8, 0, 0, Place())


def test_a_set_on_the_device_is_decoded_from_anywhere_on(shards):
    for first in (0.0, 0.5):
        data = dataset(shards)
        pictures = data._pictures(data.split.train)
        plan = data._plan(data.split.train, 8, 0, 0, Place())
        stream = ResidentStream(plan, Resident(plan, pictures, None, torch.device("cpu"), 2, first))
        assert [n for _ in range(9) for n in numbers_of(next(stream).pixels)] == read(dataset(shards), 9)
        stream.close()


@pytest.mark.gpu
@pytest.mark.parametrize("tier", ["stream", "memory", "device"])
def test_batches_on_a_gpu_are_those_of_the_host(shards, tier):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    stream = dataset(shards, tier=tier).stream(8, 0, 0, Place(device="cuda:0", cores=2))
    batches = [next(stream) for _ in range(40)]
    assert all(batch.pixels.is_cuda and batch.labels.is_cuda for batch in batches)
    assert [n for batch in batches for n in numbers_of(batch.pixels.cpu())] == read(dataset(shards), 40)
    stream.close()


@pytest.mark.gpu
def test_an_error_while_copying_ahead_is_raised_where_the_batch_is_asked_for(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    data = dataset(write_shards(tmp_path, [30]))
    stream = data.stream(8, 0, 0, Place(device="cuda:0"))
    (tmp_path / "x-00000.tar").write_bytes(b"")
    with pytest.raises(ReadError):
        for _ in range(20):
            next(stream)
    with pytest.raises(ReadError):
        next(stream)
    stream.close()
