"""Shards that are gone, cut off or other files than when they were indexed: named, or replaced alike everywhere."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flaky_server import FlakyServer
from hypothesis import given, settings
from hypothesis import strategies as st
from made_shards import dataset, numbers_of, read, write_shards

from distgan.data import failures
from distgan.data.indexing import default_caching
from distgan.data.place import Place
from distgan.data.shelf import Shelf
from distgan.data.verify import named_targets, verify
from distgan.errors import DataError, ReadError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")

SIZES = [6, 9, 5, 8, 7, 7]
COUNT = sum(SIZES)
REPLACE = {"bad_pictures": "replace"}


@pytest.fixture(params=["png", "npy"])
def shards(request, tmp_path):
    """42 pictures in six uneven shards, indexed."""
    folder = write_shards(tmp_path / "shards", SIZES, request.param, labelled=True)
    dataset(folder)
    return folder


def path_of(folder: Path, shard: int) -> Path:
    return folder / f"x-{shard:05d}.tar"


def cut_within(folder: Path, shard: int, place: int) -> int:
    """Where to cut a shard in the middle of its picture number `place`."""
    rows = dataset(folder, **REPLACE).shards.samples
    row = rows[sum(SIZES[:shard]) + place]
    return int(row["offset"]) + int(row["size"]) // 2


def damage(folder: Path, shard: int, how: str) -> set[int]:
    """Makes a shard bad; the pictures that are lost by it."""
    path, whole, start = path_of(folder, shard), path_of(folder, shard).read_bytes(), sum(SIZES[:shard])
    lost = set(range(start, start + SIZES[shard]))
    cut = cut_within(folder, shard, 3)
    path.unlink()
    if how == "cut":
        path.write_bytes(whole[:cut])
        return lost - set(range(start, start + 3))
    if how == "longer":
        path.write_bytes(whole + bytes(10240))
        return set()
    if how == "other":
        path.write_bytes(np.random.default_rng(0).bytes(len(whole)))
    elif how == "other of another size":
        path.write_bytes(np.random.default_rng(0).bytes(len(whole) // 2))
    elif how == "folder":
        path.mkdir()
    elif how == "link to itself":
        path.symlink_to(path)
    elif how == "empty":
        path.touch()
    return lost


BAD = ["gone", "cut", "longer", "other", "other of another size", "folder", "link to itself", "empty"]


def streamed(data, world_size: int, batches: int, position: int = 0, batch_size: int = 6) -> tuple[list[int], set]:
    """The numbers of so many global batches, and the bad pictures that any process has met."""
    streams = [data.stream(batch_size, 0, position, Place(rank, world_size)) for rank in range(world_size)]
    found, replaced = [], set()
    try:
        for _ in range(batches):
            for stream in streams:
                batch = next(stream)
                numbers = numbers_of(batch.pixels)
                assert batch.labels.tolist() == [number % 3 for number in numbers]
                found += numbers
        for stream in streams:
            replaced |= stream.replaced
    finally:
        for stream in streams:
            stream.close()
    return found, {int(name) for name in replaced}


@pytest.mark.parametrize("how", BAD)
def test_what_is_lost_is_replaced_alike_on_all_world_sizes_and_tiers(shards, how):
    calm, _ = streamed(dataset(shards), 1, 14)
    fingerprint = dataset(shards).fingerprint
    lost = damage(shards, 1, how)
    whole = None
    for world_size, tier in [(1, "stream"), (2, "stream"), (3, "stream"), (1, "memory"), (2, "memory"), (1, "device")]:
        data = dataset(shards, tier=tier, **REPLACE)
        assert data.fingerprint == fingerprint
        found, replaced = streamed(data, world_size, 14)
        assert replaced == lost, (world_size, tier)
        whole = whole or found
        assert found == whole, (world_size, tier)
    for before, after in zip(calm, whole, strict=True):
        assert after not in lost and (before == after or before in lost)


def test_a_resume_in_the_middle_goes_on_with_the_same(shards):
    damage(shards, 1, "gone")
    damage(shards, 4, "cut")
    data = dataset(shards, **REPLACE)
    whole, _ = streamed(data, 1, 14)
    assert streamed(data, 2, 9, position=30)[0] == whole[30:]


@pytest.mark.parametrize("tier", ["stream", "memory", "device"])
@pytest.mark.parametrize("holdout", ["20 images", ["x-00000.tar", "x-00004.tar"]])
def test_a_lost_picture_is_never_replaced_by_one_that_is_held_out(shards, tier, holdout):
    data = dataset(shards, holdout=holdout, tier=tier, **REPLACE)
    lost = damage(shards, 1, "gone") | damage(shards, 2, "other")
    held = set(data.split.held_out.tolist())
    found = set(streamed(data, 1, 12, batch_size=4)[0])
    assert found <= set(range(COUNT)) - held - lost and found


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=6),
    bad=st.data(),
    position=st.integers(0, 60),
    world_size=st.sampled_from([2, 4]),
    holdout=st.booleans(),
)
def test_whatever_is_lost_the_stream_is_one(tmp_path_factory, sizes, bad, position, world_size, holdout):
    folder = write_shards(tmp_path_factory.mktemp("lost"), [*sizes, 12], labelled=True)
    dataset(folder)
    settings = {"holdout": "1 images"} if holdout else {}
    cuts = bad.draw(st.lists(st.none() | st.floats(0, 1), min_size=len(sizes), max_size=len(sizes)))
    for shard, share in enumerate(cuts):
        whole = path_of(folder, shard).read_bytes()
        if share is not None:
            path_of(folder, shard).write_bytes(whole[: int(share * len(whole))])
            if share == 0:
                path_of(folder, shard).unlink()
    alone, met = streamed(dataset(folder, **settings, **REPLACE), 1, 8, position, batch_size=4)
    spread, met_by_all = streamed(dataset(folder, **settings, **REPLACE), world_size, 8, position, batch_size=4)
    kept, met_at_once = streamed(dataset(folder, tier="memory", **settings, **REPLACE), 1, 8, position, batch_size=4)
    assert alone == spread == kept
    assert not set(alone) & (met | met_by_all | met_at_once)
    shutil.rmtree(folder)


def test_the_pictures_of_a_lost_shard_are_replaced_by_as_many_of_few_others(tmp_path):
    folder = write_shards(tmp_path, [20] * 40)
    dataset(folder)
    for shard in (3, 17, 30):
        data = dataset(folder, **REPLACE)
        calm = read(data, 100)
        path = path_of(folder, shard).rename(tmp_path / "away")
        found = read(dataset(folder, **REPLACE), 100)
        path.rename(path_of(folder, shard))
        others = {new for old, new in zip(calm, found, strict=True) if old // 20 == shard}
        assert len(others) == 20 and len({number // 20 for number in others}) <= 4


def test_each_lost_shard_is_told_once_and_at_the_start(shards, capfd):
    damage(shards, 1, "gone")
    damage(shards, 3, "cut")
    data = dataset(shards, **REPLACE)
    summary = data.summary().splitlines()
    assert len(summary) == 2
    assert "x-00001.tar: the shard is missing (and 1 more)" in summary[1] and "data.bad_limit 100" in summary[1]
    data.first(COUNT, 0)
    streamed(data, 2, 14)
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("distgan:")]
    assert len(told) == 2
    gone, cut = sorted(told)
    assert "x-00001.tar: cannot be read: No such file or directory; those of its 9 pictures" in gone
    assert f"x-00003.tar: the shard ends at byte {path_of(shards, 3).stat().st_size} of " in cut


def test_pictures_of_lost_shards_count_against_the_limit(shards):
    before = dataset(shards, bad_limit=8, **REPLACE)
    damage(shards, 1, "gone")
    assert len(streamed(dataset(shards, bad_limit=9, **REPLACE), 1, 14)[1]) == 9
    with pytest.raises(DataError, match=r"9 of 42 pictures are lost, more than data\.bad_limit 8; copy it again, or"):
        dataset(shards, bad_limit=8, **REPLACE)
    line = (
        r"x-00001\.tar: picture \d of 9: cannot be read: No such file or directory; with it 9 pictures are "
        r"bad, more than data\.bad_limit 8; look at the shards with `distgan doctor --data`"
    )
    with pytest.raises(ReadError, match=line):
        streamed(before, 1, 14)


def test_a_set_of_which_nothing_is_left_ends_with_one_line(shards):
    for shard in range(len(SIZES)):
        damage(shards, shard, "gone")
    with pytest.raises(ReadError, match=r"picture \d of \d: cannot be read, and no picture was found to put in its"):
        streamed(dataset(shards, **REPLACE), 1, 14)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("gone", "picture {n} of 9: cannot be read: No such file or directory"),
        ("cut", r"0\d+\.(png|npy)|picture {n} of 9: the shard has \d+ bytes, and \d+ when it was indexed"),
        ("longer", r"0\d+\.(png|npy): the shard has \d+ bytes, and \d+ when it was indexed"),
        ("folder", "picture {n} of 9: the shard has "),
    ],
)
def test_without_replacing_shard_and_picture_are_named_and_both_ways_out(shards, how, reason):
    data = dataset(shards)
    damage(shards, 1, how)
    with pytest.raises(ReadError) as caught:
        streamed(data, 1, 14)
    pattern = rf"x-00001\.tar: ({reason.format(n='[1-9]')}).*copy it again.*, or set data\.bad_pictures: replace"
    caught.match(pattern)
    assert "\n" not in str(caught.value)


def test_a_shard_cut_while_it_is_open_is_named_with_the_member(shards):
    data = dataset(shards)
    stream = data.stream(COUNT, 0, 0, Place())
    next(stream)
    os.truncate(path_of(shards, 1), cut_within(shards, 1, 8))
    line = r"x-00001\.tar: 000014\.(png|npy): the shard ends at byte \d+ of \d+; copy it again, or set data\.bad_pict"
    with pytest.raises(ReadError, match=line):
        for _ in range(10):
            next(stream)
    stream.close()


def test_a_shard_cut_while_it_is_open_is_replaced_as_one_cut_before(shards):
    """Also by the fast ways, which read what has been checked before."""
    data = dataset(shards, **REPLACE)
    streams = [data.stream(6, 0, 0, Place(rank, 2)) for rank in range(2)]
    for _ in range(7 * 3):  # three epochs: everything is open, and was read by both
        for stream in streams:
            next(stream)
    os.truncate(path_of(shards, 1), cut_within(shards, 1, 3))
    for _ in range(7):  # what has been read ahead
        for stream in streams:
            next(stream)
    found = [n for _ in range(14) for stream in streams for n in numbers_of(next(stream).pixels)]
    for stream in streams:
        stream.close()
    assert found == streamed(dataset(shards, **REPLACE), 1, 14, position=7 * 4 * 6)[0]


def test_a_shard_that_vanishes_while_it_is_open_is_read_to_the_end(shards):
    calm, _ = streamed(dataset(shards), 1, 28)
    stream = dataset(shards).stream(6, 0, 0, Place())
    found = [n for _ in range(7) for n in numbers_of(next(stream).pixels)]
    for shard in range(len(SIZES)):
        path_of(shards, shard).unlink()
    found += [n for _ in range(21) for n in numbers_of(next(stream).pixels)]
    stream.close()
    assert found == calm


@pytest.mark.parametrize("how", ["gone", "cut", "longer", "empty"])
def test_at_a_start_a_bad_shard_is_refused_unless_it_may_be_replaced(shards, how):
    damage(shards, 1, how)
    with pytest.raises(DataError, match=r"x-00001\.tar: the shard (is missing|has \d+ bytes where|is empty)"):
        dataset(shards)
    named = [str(path_of(shards, shard)) for shard in (1, 4)]
    assert dataset(f"{shards}/x-{{00000..00005}}.tar", **REPLACE).shards.count == COUNT
    assert len(dataset(shards, **REPLACE).shards.faults) == 1
    assert dataset(named[0], **REPLACE).shards.count == 9


def test_without_an_index_a_missing_shard_is_refused(shards):
    damage(shards, 1, "gone")
    (shards / "index.json").unlink()
    with pytest.raises(DataError, match=r"x-00001\.tar: the shard is missing"):
        dataset(f"{shards}/x-{{00000..00005}}.tar", **REPLACE)


def test_sets_of_several_folders_keep_their_faults(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "other")
    damage(tmp_path / "other", 2, "gone")
    from distgan.data.index import open_shards

    opened = open_shards([shards, tmp_path / "other"], lenient=True)
    assert opened.count == 2 * COUNT and len(opened.faults) == 1 and "other/x-00002.tar" in opened.faults[0]


def test_a_verification_names_a_vanished_and_a_cut_shard(shards):
    damage(shards, 1, "gone")
    damage(shards, 3, "cut")
    report = verify(named_targets(str(shards), default_caching()), default_caching())
    told = sorted(str(fault) for fault in report.faults)
    assert len(told) == 2
    assert "x-00001.tar: cannot be read: No such file or directory; copy it again" in told[0]
    assert "x-00003.tar: the shard has " in told[1] and "when it was indexed" in told[1]


class TestFarAway:
    """Over HTTP."""

    @pytest.fixture(autouse=True)
    def _needs_http(self):
        pytest.importorskip("aiohttp", reason="remote shards need aiohttp: pip install 'distgan[http]'")

    @pytest.mark.parametrize("fault", ["404", "403", "shorter", "longer", "changed"])
    @pytest.mark.parametrize("tier", ["stream", "device"])
    def test_a_shard_that_cannot_be_had_is_replaced_as_a_missing_one(self, tmp_path, fault, tier):
        folder = write_shards(tmp_path / "origin" / "set", SIZES, labelled=True)
        dataset(folder)
        path = path_of(folder, 1)
        whole = path.read_bytes()
        path.unlink()
        local, lost = streamed(dataset(folder, **REPLACE), 1, 14)
        cache = {"cache": str(tmp_path / "cache")}
        changed = {"shorter": whole[:-1024], "longer": whole + whole, "changed": whole[:-1] + b"x"}
        path.write_bytes(changed.get(fault, whole))
        with FlakyServer(folder.parent) as server:
            if fault.isdigit():
                server.always["set/x-00001.tar"] = fault
            data = dataset(server.url("set/"), tier=tier, **REPLACE, **cache)
            for world_size in (1, 2):
                assert streamed(data, world_size, 14) == (local, lost)
            assert len(server.gets("set/x-00001.tar")) <= 3 * 4  # not for each picture
            with pytest.raises(DataError, match=r"x-00001\.tar: picture \d of 9: .*, or set data\.bad_pictures: rep"):
                streamed(dataset(server.url("set/"), tier=tier, **cache), 1, 14)

    def test_what_may_be_the_network_of_one_machine_is_never_replaced(self, tmp_path, monkeypatch):
        monkeypatch.setattr(failures, "ATTEMPTS", 2)
        folder = write_shards(tmp_path / "origin" / "set", SIZES)
        dataset(folder)
        with FlakyServer(folder.parent) as server:
            server.always["set/x-00001.tar"] = "500"
            data = dataset(server.url("set/"), cache=str(tmp_path / "cache"), **REPLACE)
            with pytest.raises(DataError, match=r"x-00001\.tar: gave up after 2 attempts"):
                read(data, 14, batch_size=6)

    @pytest.mark.parametrize("tier", ["stream", "device"])
    def test_the_cache_keeps_within_its_bound(self, tmp_path, tier):
        folder = write_shards(tmp_path / "origin" / "set", [330] * 14)  # of about half a megabyte each
        order = {"order": "window", "window": 2, "partitions": 1, "bad_limit": 2000}
        dataset(folder)
        path = path_of(folder, 0)
        size = path.stat().st_size
        away = [path_of(folder, shard).rename(tmp_path / f"away{shard}") for shard in (2, 5, 6)]
        local = read(dataset(folder, **order, **REPLACE), 300, batch_size=24)
        assert len(away) == 3
        limit = 10 * size
        with FlakyServer(folder.parent) as server:
            cache = tmp_path / "cache"
            bound = {"cache": str(cache), "cache_size": f"{limit / 1e6:.3f} MB"}
            stream = dataset(server.url("set/"), tier=tier, **order, **REPLACE, **bound).stream(24, 0, 0, Place())
            found, most = [], 0
            for _ in range(300):
                found += numbers_of(next(stream).pixels)
                most = max(most, sum(path.stat().st_size for path in cache.glob("*.tar")))
            opened = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
            held = [name for name in opened if name.startswith(str(cache)) and name.endswith(".tar")]
            stream.close()
            assert found == local and most <= limit and len(held) <= 2 + 2 + 4
            fetched = sum(server.sent(f"set/x-{shard:05d}.tar") for shard in range(14)) / size
            assert fetched < 2 * 11 + 2 * 3 * 3  # two epochs, in each of which a lost shard may cost a few others


def test_more_shards_than_files_may_be_open_are_refused_in_one_line(tmp_path):
    """In a process of its own, whose limit may be lowered for good."""
    program = (
        "import resource, sys; sys.path.insert(0, sys.argv[2]);"
        "from made_shards import dataset; from distgan.data.place import Place;"
        "data = dataset(sys.argv[1]); resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60));"
        "data.stream(6, 0, 0, Place())"
    )
    shards = write_shards(tmp_path, SIZES)
    words = [sys.executable, "-c", program, str(shards), str(Path(__file__).parent)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    last = done.stderr.splitlines()[-1]
    assert "data.shards names 6 shards on this machine" in last and "`ulimit -Hn` allows a process 60 files" in last
    assert "fewer and larger shards" in last


def test_a_process_that_has_too_many_files_open_replaces_nothing(shards):
    data = dataset(shards, **REPLACE)
    shelf = Shelf(data.shards.shards, any_size=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(
            ReadError, match=r"x-00001\.tar: cannot be opened: .*as `ulimit -n` allows, \d+; raise it"
        ) as caught:
            shelf.descriptor(1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not isinstance(caught.value, failures.ShardLost)
    assert shelf.descriptor(1) > 0
    shelf.close()
