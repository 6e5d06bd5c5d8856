"""data.stage: shards of a shared file system, copied to the disk of the node before they are read."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from flaky_server import FlakyServer
from made_shards import dataset, numbers_of, read, write_shards

from distgan.config.loading import validate
from distgan.data import cache as cache_module
from distgan.data import failures, remote
from distgan.data.place import Place
from distgan.doctor.shards import check_shards
from distgan.errors import ConfigError, DataError, ReadError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")

SIZES = [30, 5, 41, 17, 60, 22, 8, 33]
BATCH = 24
EPOCH = sum(SIZES) // BATCH

FORKED = multiprocessing.get_context("fork")


def work(results: Path, settings: dict, disk: Path, rank, world_size, batches, pause) -> None:
    """What a process of a machine with the disk `disk` does: reads batches; notes of each copy the shard and the byte
    that it begins at. It writes 4 kB every `pause` seconds."""
    os.environ["DISTGAN_CACHE"] = str(disk)
    plain_download, plain_write = cache_module.download, cache_module._Part.write

    def download(place, file, **options):
        with open(results / "log", "a") as lines:
            lines.write(json.dumps([place.rpartition("/")[2], file.tell()]) + "\n")
        plain_download(place, file, **options)

    def write(file, data):
        time.sleep(pause)
        return plain_write(file, data)

    cache_module.download, cache_module._Part.write = download, write
    if pause:
        remote.CHUNK = remote.SMALLEST_CHUNK = 4096
    stream = dataset(settings.pop("shards"), stage=True, **settings).stream(BATCH, 0, 0, Place(rank, world_size))
    found = [numbers_of(next(stream).pixels) for _ in range(batches)]
    stream.close()
    (results / f"{disk.name} {rank}").write_text(json.dumps(found))


@pytest.fixture
def shards(tmp_path):
    """216 pictures in 8 uneven shards, indexed."""
    folder = write_shards(tmp_path / "shared" / "set", SIZES)
    dataset(folder)
    return folder


@pytest.fixture
def start(tmp_path):
    """A process of a machine whose own disk is `disk`; killed at the end if it still runs."""
    started = []

    def call(settings: dict, disk: Path, rank=0, world_size=1, batches=EPOCH, pause=0.0):
        words = (tmp_path, dict(settings), disk, rank, world_size, batches, pause)
        started.append(FORKED.Process(target=work, args=words, name=f"{disk.name} {rank}"))
        started[-1].start()
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.join()


def joined(tmp_path, *processes) -> list[int]:
    """The global batches that the processes read, each of which must have ended well."""
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)
    parts = [json.loads((tmp_path / process.name).read_text()) for process in processes]
    return [number for batch in zip(*parts, strict=True) for rows in batch for number in rows]


def copies(tmp_path) -> list[list]:
    """Shard and first byte of each copy that the processes have begun."""
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def names_in(cache: Path) -> set[str]:
    return {path.name for path in cache.glob("*.tar")}


def names_of(shards: Path) -> set[str]:
    """What their copies are called."""
    return {f"sha256-{hashlib.sha256(path.read_bytes()).hexdigest()}.tar" for path in shards.glob("*.tar")}


def spoil(shards: Path) -> None:
    """Leaves nothing of the shards but their sizes, so that whatever is read rightly comes from elsewhere."""
    for path in shards.glob("*.tar"):
        path.write_bytes(bytes(path.stat().st_size))


def contents(folder: Path) -> dict[str, tuple]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


ORDERS = [{}, {"order": "window", "window": 2}, {"order": "window", "window": 4, "partitions": 2}]


@pytest.mark.parametrize("order", ORDERS, ids=["shuffle", "window", "partitions"])
@pytest.mark.parametrize("tier", ["stream", "memory", "device"])
def test_copies_give_the_same_bits_and_are_what_is_read(shards, tmp_path, tier, order):
    settings, cache = {"tier": tier, "holdout": "20 images", **order}, tmp_path / "disk"
    plain, before = dataset(shards, **settings), contents(shards)
    calm = read(plain, 2 * EPOCH, batch_size=BATCH)
    copied = dataset(shards, stage=True, cache=str(cache), **settings)
    assert copied.fingerprint == plain.fingerprint and copied.names(BATCH, 0, 0) == plain.names(BATCH, 0, 0)
    assert read(copied, 2 * EPOCH, batch_size=BATCH) == calm
    assert read(copied, EPOCH, batch_size=BATCH, world_size=2, position=BATCH * EPOCH) == calm[BATCH * EPOCH :]
    assert names_in(cache) == names_of(shards)
    assert contents(shards) == before, "something was written beside the shards"
    spoil(shards)
    assert read(copied, 2 * EPOCH, batch_size=BATCH) == calm


def test_shards_named_in_any_way_are_copied(shards, tmp_path):
    calm = read(dataset(shards), EPOCH, batch_size=BATCH)
    every = [f"{shards}/x-{number:05d}.tar" for number in range(len(SIZES))]
    specs = {"folder": shards, "glob": f"{shards}/x-*.tar", "braces": f"{shards}/x-{{00000..00007}}.tar"}
    for name, spec in specs.items():
        cache = tmp_path / name
        assert read(dataset(spec, stage=True, cache=str(cache)), EPOCH, batch_size=BATCH) == calm
        assert names_in(cache) == names_of(shards)
    listed = dataset(every, stage=True, cache=str(tmp_path / "list"))
    assert read(listed, EPOCH, batch_size=BATCH) == calm and names_in(tmp_path / "list") == names_of(shards)
    one = dataset(every[4], stage=True, cache=str(tmp_path / "tar"))
    assert len(read(one, 2, batch_size=BATCH)) == 48 and len(names_in(tmp_path / "tar")) == 1


def test_shards_here_and_far_away_are_one_set(shards, tmp_path):
    pytest.importorskip("aiohttp", reason="remote shards need aiohttp: pip install 'distgan[http]'")
    calm = read(dataset(shards), EPOCH, batch_size=BATCH)
    with FlakyServer(shards.parent) as server:
        shutil.copytree(shards, tmp_path / "here")
        here = [f"{tmp_path}/here/x-{number:05d}.tar" for number in range(4)]
        there = [server.url(f"set/x-{number:05d}.tar") for number in range(4, 8)]
        copied = dataset(here + there, cache=str(tmp_path / "disk"), stage=True)
        assert read(copied, EPOCH, batch_size=BATCH) == calm
    assert names_in(tmp_path / "disk") == names_of(shards)


def test_foreign_tars_without_an_index_are_indexed_and_copied(tmp_path):
    folder = write_shards(tmp_path / "plain", SIZES)
    copied = dataset(folder, stage=True, cache=str(tmp_path / "disk"))
    assert read(copied, EPOCH, batch_size=BATCH) == read(dataset(folder), EPOCH, batch_size=BATCH)
    assert names_in(tmp_path / "disk") == names_of(folder)


@pytest.mark.parametrize("order", ORDERS[:2], ids=["shuffle", "window"])
def test_a_machine_copies_each_shard_once(shards, tmp_path, start, order):
    calm = read(dataset(shards, **order), EPOCH, batch_size=BATCH)
    disk = tmp_path / "disk"
    assert joined(tmp_path, *[start({"shards": str(shards), **order}, disk, rank, 2) for rank in range(2)]) == calm
    assert sorted(copies(tmp_path)) == [[f"x-{number:05d}.tar", 0] for number in range(8)]
    assert names_in(disk) == names_of(shards)


def test_each_of_two_machines_has_copies_of_its_own(shards, tmp_path, start):
    calm = read(dataset(shards), EPOCH, batch_size=BATCH)
    disks = [tmp_path / "one", tmp_path / "other"]
    assert joined(tmp_path, *[start({"shards": str(shards)}, disk, rank, 2) for rank, disk in enumerate(disks)]) == calm
    assert Counter(name for name, _ in copies(tmp_path)) == {f"x-{number:05d}.tar": 2 for number in range(8)}
    assert [names_in(disk) for disk in disks] == [names_of(shards)] * 2


def test_killed_in_mid_copy_it_goes_on_there(shards, tmp_path, start):
    calm = read(dataset(shards), EPOCH, batch_size=BATCH)
    settings, disk = {"shards": str(shards)}, tmp_path / "disk"
    first = start(settings, disk, pause=0.2)
    while not any(path.stat().st_size >= 8192 for path in disk.glob("*.part")):
        assert first.is_alive()
        time.sleep(0.01)
    first.kill()
    first.join()
    begun = {path.stem: path.stat().st_size for path in disk.glob("*.part")}
    (tmp_path / "log").unlink()
    assert joined(tmp_path, start(settings, disk)) == calm
    kept = {name: byte for name, byte in copies(tmp_path) if byte}
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards.glob("*.tar")}
    assert {f"sha256-{digests[name]}": byte for name, byte in kept.items()} == {k: v for k, v in begun.items() if v}
    assert names_in(disk) == names_of(shards) and not list(disk.glob("*.part"))


def test_the_copies_are_bounded(tmp_path):
    folder = write_shards(tmp_path / "set", [330] * 10)
    limit = 9 * (folder / "x-00000.tar").stat().st_size
    cache, bounds = tmp_path / "disk", {"cache_size": f"{limit / 1e6:.6f} MB"}
    window = {"order": "window", "window": 2}
    calm = read(dataset(folder, **window), 200, batch_size=BATCH)
    copied = dataset(folder, stage=True, cache=str(cache), **bounds, **window)
    stream, found, most = copied.stream(BATCH, 0, 0, Place()), [], 0
    for _ in range(200):
        found += numbers_of(next(stream).pixels)
        most = max(most, sum(path.stat().st_size for path in cache.glob("*.tar") if path.exists()))
    stream.close()
    assert found == calm and limit / 2 < most <= limit
    with pytest.raises(ConfigError, match=r"cache_size: .* cannot hold the \d+ MB of staged shards.*order: window"):
        dataset(folder, stage=True, cache=str(cache), **bounds)


def test_shards_are_copied_ahead_of_need(shards, tmp_path):
    """Those of the first batches, and the four that come next; not all there are."""
    copied = dataset(shards, stage=True, cache=str(tmp_path / "disk"), order="window", window=1)
    stream = copied.stream(1, 0, 0, Place())
    next(stream)
    deadline = time.monotonic() + 20
    while len(names_in(tmp_path / "disk")) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stream.close()
    assert len(names_in(tmp_path / "disk")) < len(SIZES)


LOSSES = {
    "gone": (lambda path: path.unlink(), "cannot be read: No such file or directory"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:9000]), "is shorter than its"),
    "other": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "fetched twice, and its sha256 is not"),
}


@pytest.mark.parametrize("how", LOSSES)
def test_a_source_that_is_lost_meanwhile_is_named_at_once(shards, tmp_path, how):
    lose, told = LOSSES[how]
    copied = dataset(shards, stage=True, cache=str(tmp_path / "disk"))
    lose(shards / "x-00004.tar")
    started = time.monotonic()
    with pytest.raises(ReadError, match=rf"x-00004\.tar: .*{told}.*data\.bad_pictures: replace$") as caught:
        read(copied, EPOCH, batch_size=BATCH)
    assert "\n" not in str(caught.value) and "HTTP" not in str(caught.value)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("how", LOSSES)
def test_what_is_lost_is_replaced_alike_on_all_world_sizes(shards, tmp_path, how):
    calm = read(dataset(shards), EPOCH, batch_size=BATCH)
    settings = {"stage": True, "bad_pictures": "replace"}
    LOSSES[how][0](shards / "x-00002.tar")
    found = []
    for world_size in (1, 2, 3):
        copied = dataset(shards, cache=str(tmp_path / f"disk{world_size}"), **settings)
        found.append(read(copied, EPOCH, batch_size=BATCH, world_size=world_size))
    lost = set(range(35, 76))
    assert found[0] == found[1] == found[2] and not lost & set(found[0])
    assert all(before == after or before in lost for before, after in zip(calm, found[0], strict=True))


def test_a_source_that_answers_again_is_waited_for(shards, tmp_path, monkeypatch):
    """Trouble of a network file system that passes."""
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.01)
    from fsspec.implementations.local import LocalFileSystem

    plain, troubles = LocalFileSystem.cat_file, []

    def troubled(self, *arguments, **options):
        if len(troubles) < 3:
            troubles.append(arguments)
            raise TimeoutError(110, "Connection timed out")
        return plain(self, *arguments, **options)

    monkeypatch.setattr(LocalFileSystem, "cat_file", troubled)
    calm = read(dataset(shards), EPOCH, batch_size=BATCH)
    assert read(dataset(shards, stage=True, cache=str(tmp_path / "disk")), EPOCH, batch_size=BATCH) == calm
    assert len(troubles) == 3


def test_a_damaged_copy_is_no_loss_of_the_shard(shards, tmp_path):
    """Only this machine has it, so nothing may be replaced."""
    copied = dataset(shards, stage=True, cache=str(tmp_path / "disk"), bad_pictures="replace")
    stream = copied.stream(BATCH, 0, 0, Place())
    next(stream)
    for path in (tmp_path / "disk").glob("*.tar"):
        with path.open("r+b") as file:
            file.truncate(1000)
    with pytest.raises(ReadError, match=r"x-0000\d\.tar: .*in the cache of this machine; start again"):
        for _ in range(EPOCH):
            next(stream)
    stream.close()
    assert read(copied, EPOCH, batch_size=BATCH) == read(dataset(shards), EPOCH, batch_size=BATCH)


def test_a_cache_that_is_removed_in_mid_run_is_told(shards, tmp_path):
    copied = dataset(shards, stage=True, cache=str(tmp_path / "disk"), order="window", window=1)
    stream = copied.stream(8, 0, 0, Place())
    next(stream)
    while (tmp_path / "disk").exists():  # a shard may just be arriving in it
        shutil.rmtree(tmp_path / "disk", ignore_errors=True)
    with pytest.raises(DataError, match="disk: No such file or directory; it has been removed meanwhile: start again"):
        for _ in range(sum(SIZES) // 8):
            next(stream)
    stream.close()


def open_with_few_files(settings: dict, soft: multiprocessing.Queue) -> None:
    few = len(os.listdir("/proc/self/fd")) + 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, 4096))
    dataset(**settings).stream(BATCH, 0, 0, Place()).close()
    soft.put(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def test_as_many_files_may_be_open_as_there_are_copies(tmp_path):
    """With order shuffle all of them are, sooner or later."""
    folder, soft = write_shards(tmp_path / "set", [1] * 600), FORKED.Queue()
    settings = {"shards": folder, "stage": True, "cache": str(tmp_path / "disk")}
    process = FORKED.Process(target=open_with_few_files, args=(settings, soft))
    process.start()
    assert soft.get(timeout=60) > 600
    process.join()


def test_many_threads_copy_once(shards, tmp_path):
    """Streams of one process that read at the same time."""
    copied = dataset(shards, stage=True, cache=str(tmp_path / "disk"))
    calm, found = read(dataset(shards), EPOCH, batch_size=BATCH), []
    readers = [threading.Thread(target=lambda: found.append(read(copied, EPOCH, batch_size=BATCH))) for _ in range(3)]
    [reader.start() for reader in readers]
    [reader.join(60) for reader in readers]
    assert found == [calm] * 3 and names_in(tmp_path / "disk") == names_of(shards)


class TestRefusals:
    TREE = {
        "run_dir": "runs/x",
        "data": {"shards": "x", "resolution": 16, "stage": True},
        "train": {"length": "10 steps"},
        "generator": {"name": "mlp"},
        "critic": {"name": "mlp"},
    }

    def test_resampled_shards_are_never_kept(self):
        tree = {**self.TREE, "data": {**self.TREE["data"], "order": "resampled"}}
        with pytest.raises(ConfigError, match=r"data\.stage: True is not possible with data\.order resampled"):
            validate(tree)

    def test_a_cache_among_the_shards(self, shards, tmp_path):
        (tmp_path / "link").symlink_to(shards)
        with pytest.raises(ConfigError, match=r"data\.cache: .*link holds the very shards.*the disk of the node"):
            dataset(shards, stage=True, cache=str(tmp_path / "link"))

    def test_a_cache_on_the_same_disk_is_none(self, shards):
        copied = dataset(shards, stage=True, cache=str(shards.parent / "cache"))
        assert len(read(copied, EPOCH, batch_size=BATCH)) == BATCH * EPOCH

    def test_the_doctor_says_where_the_copies_go_and_makes_none(self, shards, tmp_path):
        data = {**self.TREE["data"], "shards": str(shards), "cache": str(tmp_path / "disk")}
        found = {row.what: row for row in check_shards(validate({**self.TREE, "data": data}), torch.device("cpu"))}
        assert f"216 pictures in 8 shards, copied into {tmp_path}/disk first" in found["shards"].text
        assert "first and last of 8 shards read" in found["pictures"].text
        assert not (tmp_path / "disk").exists()
