from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flaky_server import FlakyServer

from distgan.data import cache as cache_module
from distgan.data import failures
from distgan.data.cache import RemoteShard, ShardCache, default_folder
from distgan.data.failures import RemoteError, Stopped
from distgan.errors import DataError

SIZE = 300_000
ROOMY = 100 * SIZE

WORKER = """
import hashlib, json, os, random, sys
from concurrent.futures import ThreadPoolExecutor
from distgan.data import failures
from distgan.data.cache import RemoteShard, ShardCache
failures.FIRST_PAUSE, failures.LONGEST_PAUSE = 0.01, 0.05
folder, limit, threads, shards = json.loads(sys.argv[1])
cache = ShardCache(folder, limit)
def take(shard):
    descriptor = cache.open(RemoteShard(*shard))
    content = b""
    while data := os.pread(descriptor, 2**20, len(content)):
        content += data
    os.close(descriptor)
    return hashlib.sha256(content).hexdigest()
random.shuffle(order := list(range(len(shards))))
with ThreadPoolExecutor(threads) as pool:
    digests = dict(zip(order, pool.map(take, [shards[i] for i in order])))
print(json.dumps([[digests[i] for i in range(len(shards))], cache.bytes_downloaded]))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(failures, "LONGEST_PAUSE", 0.05)


@pytest.fixture
def served(tmp_path):
    """A folder of 8 shards of `SIZE` bytes, "0.tar" to "7.tar"."""
    folder = tmp_path / "served"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.tar").write_bytes(random.Random(number).randbytes(SIZE))
    return folder


@pytest.fixture
def server(served):
    with FlakyServer(served) as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def start():
    """Starts a process that opens, reads and closes shards; whatever still runs at the end is killed."""
    started = []

    def call(folder: Path, limit: int, shards: list[RemoteShard], threads: int = 2) -> subprocess.Popen:
        listed = [[shard.url, shard.bytes, shard.sha256] for shard in shards]
        arguments = json.dumps([str(folder), limit, threads, listed])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, "-c", WORKER, arguments], **pipes))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


def shard(server: FlakyServer, number: int, **changes: object) -> RemoteShard:
    content = (server.folder / f"{number}.tar").read_bytes()
    known = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}
    return RemoteShard(server.url(f"{number}.tar", "sig=S3CRET"), **known)


def result(process: subprocess.Popen) -> tuple[list[str], int]:
    """The sha256 of what a process read of each shard, and how many bytes it fetched."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return tuple(json.loads(out))


def content(descriptor: int) -> bytes:
    """What an open shard holds; closes it."""
    with open(descriptor, "rb") as file:
        return file.read()


def use(cache: ShardCache, shard: RemoteShard) -> bytes:
    return content(cache.open(shard))


def held(folder: Path) -> int:
    """Bytes of shards and parts in a cache."""
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_size if path.suffix in (".tar", ".part") else 0
        except FileNotFoundError:
            pass
    return total


def test_a_shard_is_fetched_once_and_read_whole(server, folder):
    cache, first = ShardCache(folder, ROOMY), shard(server, 0)
    assert use(cache, first) == (server.folder / "0.tar").read_bytes() == use(cache, first)
    assert len(server.gets("0.tar")) == 1 and cache.bytes_downloaded == SIZE and cache.seconds_downloading > 0
    assert sorted(path.name for path in folder.iterdir()) == ["room.lock", f"sha256-{first.sha256}.tar"]
    with pytest.raises(OSError):
        os.write(descriptor := cache.open(first), b"x")
    os.close(descriptor)


@pytest.mark.parametrize("known", [{}, {"sha256": None}, {"sha256": None, "bytes": None}, {"bytes": None}])
def test_processes_that_open_the_same_shards_fetch_each_once(server, folder, start, known):
    shards = [shard(server, number, **known) for number in range(6)]
    server.always = {f"{number}.tar": "slow" for number in range(6)}
    results = [result(process) for process in [start(folder, ROOMY, shards, 3) for _ in range(3)]]
    digests = [shard(server, number).sha256 for number in range(6)]
    assert [found for found, _ in results] == [digests] * 3
    assert [len(server.gets(f"{number}.tar")) for number in range(6)] == [1] * 6
    assert sum(count for _, count in results) == 6 * SIZE


def test_threads_that_open_the_same_shard_fetch_it_once(server, folder):
    cache, only = ShardCache(folder, ROOMY), shard(server, 0)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: use(cache, only), range(16)))
    assert set(map(len, found)) == {SIZE} and len(server.gets("0.tar")) == 1


@pytest.mark.parametrize("known", [{}, {"bytes": None}, {"sha256": None}])
def test_a_killed_process_leaves_a_part_that_the_next_goes_on_with(server, folder, start, known):
    (server.folder / "0.tar").write_bytes(random.Random(9).randbytes(2_000_000))
    server.always["0.tar"], server.pause = "slow", 0.05
    process = start(folder, ROOMY, [shard(server, 0, **known)])
    while not (parts := list(folder.glob("*.part"))) or parts[0].stat().st_size < 300_000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.always.clear()
    cache = ShardCache(folder, ROOMY)
    assert use(cache, shard(server, 0, **known)) == (server.folder / "0.tar").read_bytes()
    assert server.gets("0.tar")[1].start >= 300_000 and cache.bytes_downloaded <= 1_700_000
    assert not list(folder.glob("*.part")) and not list(folder.glob("*-*.lock"))


def test_what_a_killed_process_had_set_aside_is_free_again(server, folder, start):
    server.always["0.tar"] = "hang"
    process = start(folder, SIZE, [shard(server, 0)])
    while not list(folder.glob("*.part")) or not held(folder):
        time.sleep(0.01)
    with pytest.raises(DataError, match="in use"):
        use(ShardCache(folder, SIZE, give_up=0.2), shard(server, 1))
    process.kill()
    process.wait()
    assert len(use(ShardCache(folder, SIZE, give_up=0.2), shard(server, 1))) == SIZE
    assert held(folder) == SIZE


def test_room_set_aside_under_a_lock_that_nobody_holds_is_free(server, folder):
    folder.mkdir()
    (folder / f"{shard(server, 0).key}.lock").write_text(str(SIZE))
    assert len(use(ShardCache(folder, SIZE, give_up=0), shard(server, 1))) == SIZE
    assert not list(folder.glob("*-*.lock"))


def test_a_part_needs_room_only_once(server, folder):
    folder.mkdir()
    (folder / f"{shard(server, 0).key}.part").write_bytes((server.folder / "0.tar").read_bytes()[:1000])
    assert len(use(ShardCache(folder, SIZE, give_up=0.2), shard(server, 0))) == SIZE
    assert [seen.start for seen in server.gets("0.tar")] == [1000]


@pytest.mark.parametrize("seed", range(3))
def test_random_faults_do_no_harm(served, folder, start, seed):
    faults = ("500", "429", "cut", "short", "no_range", "no_range cut", "no_length short")
    with FlakyServer(served, seed=seed, chance=0.6, at_random=faults) as server:
        shards = [shard(server, number) for number in range(8)]
        results = [result(process) for process in [start(folder, 5 * SIZE, shards, 2) for _ in range(2)]]
        assert [found for found, _ in results] == [[one.sha256 for one in shards]] * 2


def test_never_more_than_the_limit_is_on_the_disk(server, folder, start):
    limit = 4 * SIZE + SIZE // 2
    server.always = {f"{number}.tar": "slow" for number in range(8)}
    shards = [shard(server, number, **({"bytes": None} if number % 4 == 0 else {})) for number in range(8)] * 3
    processes = [start(folder, limit, shards, 2) for _ in range(2)]
    most = 0
    while any(process.poll() is None for process in processes):
        most = max(most, held(folder) if folder.exists() else 0)
        time.sleep(0.002)
    assert [result(process)[0] for process in processes] == [[one.sha256 for one in shards]] * 2
    assert 3 * SIZE < most <= limit


def test_two_that_wait_for_room_do_not_wait_for_each_other(server, folder, start):
    """Each has begun one shard, and there is room for one only."""
    folder.mkdir()
    for number in (0, 1):
        part = folder / f"{shard(server, number).key}.part"
        part.write_bytes((server.folder / f"{number}.tar").read_bytes()[: SIZE // 2])
    processes = [start(folder, SIZE, [shard(server, number)]) for number in (0, 1)]
    assert [result(process)[0] for process in processes] == [[shard(server, n).sha256] for n in (0, 1)]


def test_the_least_recently_used_go_first(server, folder):
    cache = ShardCache(folder, 3 * SIZE)
    for number in (0, 1, 2, 0):
        use(cache, shard(server, number))
        time.sleep(0.02)
    use(cache, shard(server, 3))
    present = {path.stem for path in folder.glob("*.tar")}
    assert present == {shard(server, number).key for number in (2, 0, 3)}


def test_other_files_in_the_folder_are_left_alone(server, folder):
    folder.mkdir()
    (folder / "mine.tar").write_bytes(b"x" * 3 * SIZE)
    use(ShardCache(folder, SIZE), shard(server, 0))
    assert (folder / "mine.tar").stat().st_size == 3 * SIZE


def test_a_shard_in_use_is_not_evicted(server, folder):
    cache = ShardCache(folder, SIZE, give_up=0.3)
    descriptor = cache.open(shard(server, 0))
    with pytest.raises(RemoteError) as caught:
        cache.open(shard(server, 1))
    for words in (f"{SIZE} of its {SIZE} bytes", "data.cache_size", "data.window", "data.partitions"):
        assert words in str(caught.value)
    assert "S3CRET" not in str(caught.value) and "\n" not in str(caught.value)
    assert content(descriptor) == (server.folder / "0.tar").read_bytes()
    assert len(use(cache, shard(server, 1))) == SIZE


def test_room_is_waited_for(server, folder):
    cache = ShardCache(folder, SIZE, give_up=20)
    descriptor = cache.open(shard(server, 0))
    threading.Timer(0.3, os.close, [descriptor]).start()
    assert len(use(cache, shard(server, 1))) == SIZE


@pytest.mark.parametrize("known", [{}, {"bytes": None}])
def test_a_shard_larger_than_the_cache_is_refused_at_once(server, folder, known):
    with pytest.raises(DataError, match=f"{SIZE} bytes, more than the whole cache.*data.cache_size"):
        ShardCache(folder, SIZE - 1).open(shard(server, 0, **known))
    assert not server.gets("0.tar")


def test_a_shard_of_unknown_size_is_bounded_as_it_grows(server, folder):
    server.always["0.tar"] = "no_length"
    with pytest.raises(DataError, match="more than the whole cache"):
        ShardCache(folder, SIZE - 1).open(shard(server, 0, bytes=None, sha256=None))
    assert held(folder) < SIZE
    cache = ShardCache(folder, 2 * SIZE)
    use(cache, shard(server, 1))
    assert len(use(cache, shard(server, 0, bytes=None, sha256=None))) == SIZE


def test_a_shard_that_arrives_wrong_is_fetched_once_more(server, folder):
    server.script["0.tar"] = ["wrong", "ok"]
    assert use(ShardCache(folder, ROOMY), shard(server, 0)) == (server.folder / "0.tar").read_bytes()


def test_a_shard_that_stays_wrong_is_refused_and_not_kept(server, folder):
    server.always["0.tar"] = "wrong"
    with pytest.raises(RemoteError, match=r"0\.tar: fetched twice.*changed since it was indexed") as caught:
        ShardCache(folder, ROOMY).open(shard(server, 0))
    assert "S3CRET" not in str(caught.value) and "\n" not in str(caught.value)
    assert len(server.gets("0.tar")) == 2 and held(folder) == 0


def test_a_spoilt_part_is_thrown_away(server, folder):
    folder.mkdir()
    (folder / f"{shard(server, 0).key}.part").write_bytes(b"\0" * 1000)
    assert use(ShardCache(folder, ROOMY), shard(server, 0)) == (server.folder / "0.tar").read_bytes()
    assert [seen.start for seen in server.gets("0.tar")] == [1000, 0]


def test_a_part_that_nothing_vouches_for_is_not_gone_on_with(server, folder):
    server.always["0.tar"] = "no_length"
    unknown = shard(server, 0, bytes=None, sha256=None)
    folder.mkdir()
    (folder / f"{unknown.key}.part").write_bytes(b"\0" * 1000)
    assert use(ShardCache(folder, ROOMY), unknown) == (server.folder / "0.tar").read_bytes()


def test_a_shard_that_was_cut_off_in_the_cache_is_fetched_again(server, folder):
    cache, first = ShardCache(folder, ROOMY), shard(server, 0)
    use(cache, first)
    os.truncate(folder / f"{first.key}.tar", 1000)
    assert len(use(cache, first)) == SIZE


def test_a_server_that_ignores_ranges_corrupts_nothing(server, folder):
    folder.mkdir()
    server.always["0.tar"] = "no_range"
    unchecked = shard(server, 0, sha256=None)
    (folder / f"{unchecked.key}.part").write_bytes((server.folder / "0.tar").read_bytes()[:1000])
    assert use(ShardCache(folder, ROOMY), unchecked) == (server.folder / "0.tar").read_bytes()


def test_a_missing_shard_fails_at_once(server, folder):
    with pytest.raises(RemoteError, match=r"/9\.tar: nothing is there \(HTTP status 404\)"):
        ShardCache(folder, ROOMY).open(RemoteShard(server.url("9.tar", "sig=S3CRET"), 5, None))
    assert len(server.gets("9.tar")) == 1 and not list(folder.glob("*-*.lock"))


def test_shards_of_the_same_name_do_not_collide(server, folder):
    for place in ("a", "b"):
        (server.folder / place).mkdir()
        (server.folder / place / "x.tar").write_bytes(place.encode() * 1000)
    cache = ShardCache(folder, ROOMY)
    for size in (1000, None):
        found = [use(cache, RemoteShard(server.url(f"{place}/x.tar"), size)) for place in ("a", "b")]
        assert found == [b"a" * 1000, b"b" * 1000]


def test_equal_content_is_kept_once(server, folder):
    (server.folder / "copy.tar").write_bytes((server.folder / "0.tar").read_bytes())
    cache, first = ShardCache(folder, ROOMY), shard(server, 0)
    use(cache, first)
    use(cache, RemoteShard(server.url("copy.tar"), SIZE, first.sha256.upper()))
    assert not server.gets("copy.tar")


def test_a_sha256_cannot_name_another_place(folder):
    with pytest.raises(DataError, match="is no sha256"):
        ShardCache(folder, ROOMY).open(RemoteShard("https://h/x.tar", 1, "../../x"))


def test_commands_run_only_where_allowed(served, folder):
    piped = RemoteShard(f"pipe:cat {served}/0.tar")
    with pytest.raises(DataError, match="data.allow_shell"):
        ShardCache(folder, ROOMY).open(piped)
    cache = ShardCache(folder, ROOMY, allow_shell=True)
    assert use(cache, piped) == use(cache, piped) == (served / "0.tar").read_bytes()
    assert cache.bytes_downloaded == SIZE


def test_close_ends_those_who_wait(server, folder):
    server.always["0.tar"] = "hang"
    cache = ShardCache(folder, ROOMY)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(cache.open, shard(server, 0)) for _ in range(3)]
        time.sleep(0.5)
        cache.close()
        started = time.monotonic()
        assert [type(one.exception()) for one in waiting] == [Stopped] * 3
    assert time.monotonic() - started < 2 and held(folder) == SIZE // 2


class TestDisks:
    def test_a_full_disk_makes_the_cache_evict(self, server, folder, monkeypatch):
        cache = ShardCache(folder, ROOMY)
        use(cache, shard(server, 0))
        plain, calls = cache_module.download, []

        def full_at_first(*arguments, **options):
            calls.append(1)
            if len(calls) == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            plain(*arguments, **options)

        monkeypatch.setattr(cache_module, "download", full_at_first)
        assert len(use(cache, shard(server, 1))) == SIZE
        assert held(folder) == SIZE and len(calls) == 2

    def test_a_disk_that_stays_full_is_told(self, server, folder, monkeypatch):
        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(cache_module, "download", full)
        with pytest.raises(DataError, match=r"No space left on device; make room.*another data\.cache$"):
            ShardCache(folder, ROOMY).open(shard(server, 0))

    def test_a_folder_that_cannot_be_written_is_told(self, tmp_path):
        (tmp_path / "file").touch()
        for place in (tmp_path / "file", tmp_path / "file" / "cache"):
            with pytest.raises(DataError, match=r"file.*: .*; give another data\.cache"):
                ShardCache(place, ROOMY)

    def test_the_default_folder_follows_the_environment(self, monkeypatch, tmp_path):
        for name in ("DISTGAN_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_folder() == tmp_path / ".cache" / "distgan"
        monkeypatch.setenv("XDG_CACHE_HOME", "/x")
        assert default_folder() == Path("/x/distgan")
        monkeypatch.setenv("DISTGAN_CACHE", "~/y")
        assert default_folder() == tmp_path / "y"


def test_opening_while_others_evict_never_gives_wrong_bytes(server, folder, start):
    """Room for two, many who want all: every opening races with an eviction."""
    shards = [shard(server, number) for number in range(4)] * 12
    processes = [start(folder, 2 * SIZE, shards, 1) for _ in range(2)]
    assert [result(process)[0] for process in processes] == [[one.sha256 for one in shards]] * 2


def test_a_process_forked_during_a_download_holds_nobody_up(server, folder):
    server.always["0.tar"], server.pause = "slow", 0.1
    cache = ShardCache(folder, ROOMY, give_up=1)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(use, cache, shard(server, 0))
        while not list(folder.glob("*.part")):
            time.sleep(0.01)
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        try:
            assert len(fetching.result()) == SIZE
            assert len(use(ShardCache(folder, SIZE, give_up=1), shard(server, 1))) == SIZE
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
