"""The stream over HTTP, from a server that fails, by processes that are killed: the batches of a calm local run."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flaky_server import FlakyServer
from made_shards import dataset, numbers_of, read, write_shards

from distgan.data.place import Place
from distgan.errors import ConfigError, DataError

pytest.importorskip("aiohttp", reason="remote shards need aiohttp: pip install 'distgan[http]'")

SIZES = [30, 5, 41, 17, 60, 22, 8, 33]
FAULTS = ("500", "cut", "short", "no_range", "503")

WORKER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from made_shards import dataset, numbers_of
from distgan.data.place import Place
settings = json.loads(sys.argv[2])
rank, world_size, position, batches, pause = (int(word) for word in sys.argv[3:8])
stream = dataset(settings.pop("shards"), **settings).stream(24, 0, position, Place(rank, world_size))
for _ in range(batches):
    print(json.dumps(numbers_of(next(stream).pixels)), flush=True)
    time.sleep(pause / 1000)
stream.close()
"""


@pytest.fixture
def shards(tmp_path):
    """216 pictures in 8 uneven shards, indexed."""
    folder = write_shards(tmp_path / "origin" / "set", SIZES)
    dataset(folder)
    return folder


@pytest.fixture
def start(tmp_path):
    """A process that prints the numbers of its part of each batch; killed at the end if it still runs."""
    started = []

    def call(settings: dict, rank: int, world_size: int, position: int, batches: int, pause: int = 0):
        words = [Path(__file__).parent, json.dumps(settings), rank, world_size, position, batches, pause]
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()


def bytes_in(cache: Path) -> int:
    """Of the whole shards; one may be removed while they are looked at."""
    found = 0
    for path in cache.glob("*.tar"):
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


def joined(processes, batches: int) -> list[int]:
    """The global batches that the processes printed, each of which must have ended well."""
    printed = []
    for process in processes:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        printed.append([json.loads(line) for line in out.splitlines()])
    return [number for batch in range(batches) for lines in printed for number in lines[batch]]


@pytest.mark.parametrize(
    "order",
    [{"order": "window", "window": 2}, {"order": "window", "window": 4, "partitions": 2}, {}],
    ids=["window", "partitions", "shuffle"],
)
def test_killed_and_resumed_on_other_processes_over_a_failing_server(shards, tmp_path, start, order):
    calm = read(dataset(shards, **order), 30, batch_size=24)
    with FlakyServer(shards.parent, seed=3, chance=0.3, at_random=FAULTS) as server:
        server.always["set/index.json"] = server.always["set/samples.npy"] = "ok"
        settings = {"shards": server.url("set/"), "cache": str(tmp_path / "cache"), **order}
        first = [start(settings, rank, 3, 0, 30, pause=100) for rank in range(3)]
        lines = [process.stdout.readline() for _ in range(5) for process in first]
        for process in first:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert [n for line in lines for n in json.loads(line)] == calm[: 5 * 24]
        second = [start(settings, rank, 2, 5 * 24, 25) for rank in range(2)]
        assert joined(second, 25) == calm[5 * 24 :]
        faults = {seen.fault for seen in server.seen}
        assert faults & set(FAULTS), "the server has not failed: the test shows nothing"


def test_a_machine_fetches_each_shard_once_and_keeps_within_its_bound(shards, tmp_path, start):
    sizes = {path.name: path.stat().st_size for path in shards.glob("*.tar")}
    with FlakyServer(shards.parent) as server:
        settings = {"shards": server.url("set/"), "cache": str(tmp_path / "cache"), "order": "window", "window": 2}
        one_epoch = sum(SIZES) // 24
        joined([start(settings, rank, 2, 0, one_epoch) for rank in range(2)], one_epoch)
        for name, size in sizes.items():
            assert server.sent(f"set/{name}") == size, name
        kept = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar"))
        assert kept == sum(sizes.values())


def test_a_cache_smaller_than_the_set_serves_a_window(tmp_path):
    folder = write_shards(tmp_path / "origin" / "set", [330] * 12)  # of about half a megabyte each
    size = (folder / "x-00000.tar").stat().st_size
    limit = 9 * size / 1e6
    calm = read(dataset(folder, order="window", window=2), 300, batch_size=24)
    with FlakyServer(folder.parent) as server:
        cache = tmp_path / "cache"
        data = dataset(server.url("set/"), order="window", window=2, cache=str(cache), cache_size=f"{limit:.3f} MB")
        most, found = 0, []
        stream = data.stream(24, 0, 0, Place())
        for _ in range(300):
            found += numbers_of(next(stream).pixels)
            most = max(most, bytes_in(cache))
        stream.close()
        assert found == calm and most <= limit * 1e6
        assert server.sent("set/x-00000.tar") >= 2 * size  # the second epoch fetched it again
        with pytest.raises(ConfigError, match="data.cache_size: .* cannot hold the .* use data.order: window"):
            dataset(server.url("set/"), cache=str(cache), cache_size="1 MB")


def test_shards_without_an_index_are_indexed_once_at_first_use(shards, tmp_path):
    calm = read(dataset(shards), 10, batch_size=24)
    for name in ("index.json", "samples.npy"):
        (shards / name).unlink()
    with FlakyServer(shards.parent, seed=1, chance=0.2, at_random=FAULTS) as server:
        server.always["set/index.json"] = "ok"
        spec = server.url("set/x-{00000..00007}.tar")
        for _ in range(2):
            assert read(dataset(spec, cache=str(tmp_path / "cache")), 10, batch_size=24) == calm
        asked = len(server.gets("set/x-00000.tar"))
        read(dataset(spec, cache=str(tmp_path / "cache")), 10, batch_size=24)
        assert len(server.gets("set/x-00000.tar")) == asked


def test_a_url_without_shards_is_named_without_its_secrets(tmp_path):
    with (
        FlakyServer(tmp_path) as server,
        pytest.raises(DataError, match="no index.json there; name the tars") as caught,
    ):
        dataset(server.url("set/", query="token=secret"))
    assert "secret" not in str(caught.value)


def test_a_shard_that_changed_since_it_was_indexed_is_refused(shards, tmp_path):
    data = bytearray((shards / "x-00002.tar").read_bytes())
    data[1000] ^= 255
    with FlakyServer(shards.parent) as server:
        opened = dataset(server.url("set/"), cache=str(tmp_path / "cache"))
        (shards / "x-00002.tar").write_bytes(data)
        with pytest.raises(DataError, match=r"x-00002\.tar"):
            read(opened, 9, batch_size=24)


def test_pipes_run_only_where_the_config_allows_it(shards, tmp_path):
    spec = f"pipe:cat {shards}/x-{{00000..00007}}.tar"
    calm = read(dataset(shards), 9, batch_size=24)
    with pytest.raises(DataError, match="data.allow_shell"):
        dataset(spec, cache=str(tmp_path / "cache"))
    assert read(dataset(spec, cache=str(tmp_path / "cache"), allow_shell=True), 9, batch_size=24) == calm


def test_waiting_for_a_slow_server_is_counted(shards, tmp_path):
    with FlakyServer(shards.parent) as server:
        server.pause = 0.3
        for path in shards.glob("*.tar"):
            server.always[f"set/{path.name}"] = "slow"
        started = time.perf_counter()
        stream = dataset(server.url("set/"), cache=str(tmp_path / "cache")).stream(24, 0, 0, Place())
        next(stream)
        elapsed = time.perf_counter() - started
        assert 0.25 < stream.wait_seconds < elapsed
        stream.close()


def test_closing_does_not_wait_for_a_server_that_hangs(shards, tmp_path):
    with FlakyServer(shards.parent) as server:
        for path in shards.glob("*.tar"):
            server.always[f"set/{path.name}"] = "hang"
        stream = dataset(server.url("set/"), cache=str(tmp_path / "cache")).stream(24, 0, 0, Place())
        stream._ahead.append(stream._start(0))  # as a next() that waits would have begun
        time.sleep(0.3)
        started = time.perf_counter()
        stream.close()
        assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "name", ["pipe:touch owned", "/etc/hostname", "file:///etc/hostname", "zip://a.tar::file:///b.zip"]
)
def test_an_index_far_away_may_not_name_files_or_commands_of_this_machine(shards, tmp_path, name):
    index = shards / "index.json"
    index.write_text(index.read_text().replace("x-00001.tar", name))
    with FlakyServer(shards.parent) as server:
        with pytest.raises(DataError, match="which is not far away; do not use it"):
            dataset(server.url("set/"), cache=str(tmp_path / "cache"), allow_shell=True)


def test_a_set_that_is_in_memory_is_not_fetched_again(shards, tmp_path):
    size = max(path.stat().st_size for path in shards.glob("*.tar"))
    small = {"cache": str(tmp_path / "cache"), "cache_size": f"{7 * size / 1e6:.3f} MB"}
    with FlakyServer(shards.parent) as server:
        data = dataset(server.url("set/"), **small, order="window", window=1, tier="memory")
        stream = data.stream(24, 0, 0, Place())
        for _ in range(3 * 9):
            next(stream)
        asked = len(server.seen)
        for _ in range(4 * 9):
            next(stream)
        stream.close()
        assert len(server.seen) == asked > 8


def test_a_set_larger_than_the_cache_is_decoded_onto_the_device(shards, tmp_path):
    size = max(path.stat().st_size for path in shards.glob("*.tar"))
    with FlakyServer(shards.parent) as server:
        small = {"cache": str(tmp_path / "cache"), "cache_size": f"{4 * size / 1e6:.3f} MB"}
        data = dataset(server.url("set/"), **small, order="window", window=1, tier="device")
        assert read(data, 9, batch_size=24) == read(dataset(shards, order="window", window=1), 9, batch_size=24)
