from __future__ import annotations

import errno
import io
import os
import random
import subprocess
import sys
import threading
import time

import fsspec
import pytest
from flaky_server import FlakyServer
from fsspec.implementations.memory import MemoryFileSystem

from distgan.data import failures, pipes, remote
from distgan.data.failures import Denied, RemoteError, Stopped
from distgan.data.remote import download, read_small
from distgan.data.urls import check_url, is_remote, join_url, masked, shown
from distgan.errors import DataError

DATA = random.Random(5).randbytes(1_000_003)
SIZE = len(DATA)
SECRET = "sig=S3CRET&token=abc"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(failures, "LONGEST_PAUSE", 0.05)


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.tar").write_bytes(DATA)
    with FlakyServer(folder) as server:
        yield server


@pytest.fixture
def url(server):
    return server.url("a.tar", SECRET)


def fetched(url: str, size: int | None = SIZE, have: bytes = b"", **options: object) -> bytes:
    file = io.BytesIO(have)
    download(url, file, size=size, **options)
    return file.getvalue()


def starts(server: FlakyServer) -> list[int]:
    return [seen.start for seen in server.gets("a.tar")]


def test_neither_torch_nor_fsspec_is_loaded_by_importing():
    code = "import sys, distgan.data.cache; assert not {'torch', 'fsspec', 'aiohttp'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "spec", ["https://h/x.tar", "s3://b/x-{0..3}.tar", "hf://datasets/u/r", "pipe:cat x", "gs://b"]
)
def test_urls_and_commands_are_remote(spec):
    assert is_remote(spec)


@pytest.mark.parametrize("spec", ["/data/x.tar", "x-{00..07}.tar", "file:///data/x.tar", "C:x", "a/b://c", ""])
def test_paths_are_local(spec):
    assert not is_remote(spec)


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://user:pw@host:8080/a/b.tar?sig=1#x", "https://host:8080/a/b.tar"),
        ("hf://datasets/u/r@main/b.tar", "hf://datasets/u/r@main/b.tar"),
        ("https://host?key=1", "https://host"),
        ("pipe:curl -s -H 'Bearer 77' 'https://u:p@h/x.tar?k=1' | cat", "pipe:curl https://h/x.tar"),
        ("pipe:cat /data/x-01.tar | openssl enc -k 77", "pipe:cat /data/x-01.tar"),
        ("/a/b?c.tar", "/a/b?c.tar"),
        ("file:///a/b?c#d.tar", "file:///a/b?c#d.tar"),
        ("https://u:p/w@h/a.tar", "https://h/a.tar"),
        ("https://u:p?w/w#w@h:80/a.tar?k=1", "https://h:80/a.tar"),
        ("http://[::1]:80/r@main/a.tar", "http://[::1]:80/r@main/a.tar"),
        ("http://h:80/r@main/a.tar", "http://h:80/r@main/a.tar"),
        ("https://u:p@h/https://u:p@i/a.tar", "https://h/https://i/a.tar"),
        ("simplecache::https://u:p@h/a.tar", "simplecache::https://h/a.tar"),
        ("a.tar,https://u:p@h/b.tar", "a.tar,https://h/b.tar"),
    ],
)
def test_what_is_shown_of_a_url_holds_no_secret(url, seen):
    assert shown(url) == seen


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("shards=[http://u:p@h/a.tar,http://u:p@h/b.tar]", "shards=[http://h/a.tar,http://h/b.tar]"),
        ("[x.tar,https://u:p@h/a.tar?k=1,s3://k:p@b/c.tar?k=2,y.tar]", "[x.tar,https://h/a.tar,s3://b/c.tar"),
        ("[https://u:p,w@h/a.tar,https://u:p;w)|@h/b.tar]", "[https://h/a.tar,https://h/b.tar]"),
        ("'https://u:p/w@h/a.tar', \"https://h/b.tar?k=1;l=2,3\" fail", "'https://h/a.tar', \"https://h/b.tar\" fail"),
        (
            "https://h/x-{a,b}.tar and file:///x?y,https://u:p@h/c.tar",
            "https://h/x-{a,b}.tar and file:///x?y,https://h/c.tar",
        ),
    ],
)
def test_every_url_of_a_text_is_masked(text, seen):
    assert masked(text) == seen


@pytest.mark.parametrize(
    ("folder", "joined"),
    [
        ("https://h/d", "https://h/d/x 1.tar".replace(" ", "%20")),
        ("https://h/d/?sig=1", "https://h/d/x%201.tar?sig=1"),
        ("s3://b/d/", "s3://b/d/x 1.tar"),
    ],
)
def test_a_name_is_joined_before_the_query(folder, joined):
    assert join_url(folder, "x 1.tar") == joined


@pytest.mark.parametrize("path", ["/data/x.tar", "x.tar", "file:///data/x.tar"])
def test_any_path_may_be_opened(path):
    check_url(path, False)


def test_an_unknown_scheme_is_refused_with_those_known():
    with pytest.raises(DataError, match=r"^htps://h/x: unknown scheme 'htps'; give one of https, http, s3, gs.*pipe"):
        check_url("htps://u:p@h/x?y", False)


@pytest.mark.parametrize(("scheme", "module", "extra"), [("s3", "s3fs", "s3"), ("gcs", "gcsfs", "gs")])
def test_a_scheme_that_is_not_installed_names_its_extra(monkeypatch, scheme, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    with pytest.raises(DataError, match=rf"pip install 'distgan\[{extra}\]'$"):
        check_url(f"{scheme}://b/x", False)


def test_small_files_are_read_whole(server):
    server.script["a.tar"] = ["500", "cut", "ok"]
    assert read_small(server.url("a.tar")) == DATA


def test_a_small_file_that_is_not_there_is_none(server):
    assert read_small(server.url("nothing.json")) is None
    assert read_small("memory://nowhere/index.json") is None


def test_a_small_file_that_is_large_is_refused_before_it_is_read(server):
    server.always["a.tar"] = "slow"
    with pytest.raises(DataError, match="larger than 70000 bytes"):
        read_small(server.url("a.tar"), most=70_000)
    assert server.sent("a.tar") < SIZE


def test_what_may_not_be_read_fails_at_once_without_showing_the_query(server, url):
    server.always["a.tar"] = "403"
    with pytest.raises(Denied, match=r"a\.tar: access denied \(HTTP status 403\)") as caught:
        read_small(url)
    assert "S3CRET" not in str(caught.value) and "\n" not in str(caught.value)
    assert len(server.gets("a.tar")) == 1


@pytest.mark.parametrize(
    "faults",
    [
        ["500", "503", "429"],
        ["cut", "short"],
        ["no_range short"] * 3,
        ["no_length short", "no_length"],
        ["cut", "no_range", "ok"],
        ["no_range no_length cut", "short", "500"],
    ],
)
@pytest.mark.parametrize("size", [SIZE, None])
def test_transient_trouble_is_overcome(server, url, faults, size):
    if size is None and "no_length short" in faults:
        pytest.skip("a body that is cut without any length looks whole")
    server.script["a.tar"] = list(faults)
    assert fetched(url, size) == DATA


def test_a_broken_connection_loses_little(server, url):
    server.script["a.tar"] = ["short", "ok"]
    assert fetched(url) == DATA
    first, second = starts(server)
    assert first == 0 and SIZE // 2 - 300_000 < second <= SIZE // 2  # aiohttp drops what it had not handed on


def test_a_beginning_is_gone_on_with(server, url):
    assert fetched(url, have=DATA[:999]) == DATA
    assert starts(server) == [999]


def test_a_whole_file_asks_for_nothing_and_one_too_long_begins_anew(server, url):
    assert fetched(url, have=DATA) == DATA and starts(server) == []
    assert fetched(url, have=DATA + b"x") == DATA and starts(server) == [0]


@pytest.mark.parametrize("have", [0, 1, SIZE // 2, SIZE - 1])
def test_a_server_that_ignores_ranges_corrupts_nothing(server, url, have):
    server.always["a.tar"] = "no_range"
    assert fetched(url, have=DATA[:have]) == DATA


def test_a_server_that_tells_no_length_is_read_whole(server, url):
    server.always["a.tar"] = "no_length"
    assert remote.size_of(url) is None
    assert fetched(url, None) == DATA


def test_the_size_is_asked_for_again_when_the_server_stumbles(server, url):
    server.always["a.tar"] = "500"
    threading.Timer(0.1, server.always.clear).start()
    assert remote.size_of(url) == SIZE


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_a_file_of_another_size_is_told(url, size):
    with pytest.raises(RemoteError, match=r"(more than|shorter).*index it again"):
        fetched(url, size)


@pytest.mark.parametrize("size", [SIZE, None])
def test_what_is_not_there_fails_at_once(server, size):
    with pytest.raises(RemoteError, match=r"nothing is there \(HTTP status 404\)"):
        fetched(server.url("b.tar"), size)
    assert len(server.gets("b.tar")) == 1


def test_giving_up_is_one_line_without_the_query(server, url, monkeypatch):
    monkeypatch.setattr(failures, "ATTEMPTS", 4)
    server.always["a.tar"] = "503"
    with pytest.raises(RemoteError) as caught:
        fetched(url.replace("http://", "http://joe:pw77@"))
    assert str(caught.value) == (
        f"http://127.0.0.1:{server.port}/a.tar: gave up after 4 attempts without a new byte (HTTP status 503)"
    )
    assert not caught.value.everywhere and len(server.gets("a.tar")) == 4
    assert server.gets("a.tar")[0].authorization.startswith("Basic ")


def test_proxies_of_the_environment_are_used(server, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.port}")
    assert fetched("http://elsewhere.invalid/a.tar") == DATA


def test_no_server_at_all_is_told(monkeypatch):
    monkeypatch.setattr(failures, "ATTEMPTS", 2)
    with pytest.raises(RemoteError, match=r"^http://127.0.0.1:9/x: gave up after 2 .*Connect") as caught:
        fetched("http://127.0.0.1:9/x?sig=77")
    assert "77" not in str(caught.value)


def test_pauses_double_up_to_a_bound(monkeypatch):
    class Recorder(threading.Event):
        pauses: list[float] = []

        def wait(self, timeout=None):
            self.pauses.append(timeout)

    monkeypatch.undo()
    recorder = Recorder()
    with pytest.raises(RemoteError):
        failures.patiently("x://y", lambda: open("/nonexistent/x/y").name / 0, lambda: 0, recorder)
    assert recorder.pauses == []

    def refuse():
        raise ConnectionResetError

    with pytest.raises(RemoteError, match="10 attempts"):
        failures.patiently("x://y", refuse, lambda: 0, recorder)
    assert recorder.pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])


@pytest.mark.parametrize("fault", ["hang", "mute"])
def test_silence_ends_a_request(server, url, monkeypatch, fault):
    monkeypatch.setattr(remote, "SILENCE_SECONDS", 0.3)
    server.script["a.tar"] = [fault]
    assert fetched(url) == DATA
    assert len(starts(server)) == 2 and (starts(server)[1] > 0) == (fault == "hang")


def test_a_slow_server_is_waited_for(server, url, monkeypatch):
    monkeypatch.setattr(remote, "SILENCE_SECONDS", 0.4)
    server.always["a.tar"], server.pause = "slow", 0.05  # 16 pieces: longer in all than one silence
    assert fetched(url) == DATA
    assert len(server.gets("a.tar")) == 1


def test_stop_ends_a_download_that_hangs(server, url):
    server.always["a.tar"] = "hang"
    stop, file = threading.Event(), io.BytesIO()
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Stopped):
        download(url, file, size=SIZE, stop=stop)
    assert time.monotonic() - started < 2
    assert file.getvalue() and DATA.startswith(file.getvalue())


def test_trouble_with_the_file_is_not_taken_for_the_network(server, url):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        download(url, Full(), size=SIZE)
    assert len(server.gets("a.tar")) == 1


@pytest.mark.parametrize("seed", range(6))
def test_random_faults_do_no_harm(tmp_path, seed):
    (tmp_path / "a.tar").write_bytes(DATA)
    faults = ("500", "429", "cut", "short", "no_range", "no_range cut", "no_length short")
    with FlakyServer(tmp_path, seed=seed, chance=0.7, at_random=faults) as server:
        assert fetched(server.url("a.tar")) == DATA


def test_downloads_work_after_a_fork(server, url):
    assert fetched(url) == DATA  # fsspec's thread runs now, and will not in the child
    child = os.fork()
    if not child:
        status = 1
        try:
            status = 0 if fetched(url) == DATA else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class TestOtherStores:
    @pytest.fixture
    def stored(self):
        fsspec.filesystem("memory").pipe_file("/b/a.tar", DATA)
        yield "memory://b/a.tar"
        fsspec.filesystem("memory").rm("/b", recursive=True)

    @pytest.mark.parametrize("size", [SIZE, None])
    @pytest.mark.parametrize("have", [0, 77_777])
    def test_they_are_read_in_chunks_from_where_it_was(self, stored, monkeypatch, size, have):
        asked = []
        plain = MemoryFileSystem.cat_file

        def noted(self, path, version_id=None, start=None, end=None):  # as in s3fs
            asked.append((start, end))
            assert version_id is None
            return plain(self, path, start, end)

        monkeypatch.setattr(MemoryFileSystem, "cat_file", noted)
        monkeypatch.setattr(remote, "CHUNK", 400_000)
        assert fetched(stored, size, have=DATA[:have]) == DATA
        assert asked[0] == (have, have + 400_000) and asked[-1][1] == SIZE and len(asked) == 3

    @pytest.mark.parametrize("given", ["whole", "short", "nothing", "errors"])
    def test_what_was_not_asked_for_does_no_harm(self, stored, monkeypatch, given):
        calls = []

        def cat_file(self, path, version_id=None, start=None, end=None):
            calls.append(start)
            if given == "errors" and len(calls) % 2:
                raise TimeoutError
            part = {"short": DATA[start : start + (end - start + 1) // 2], "nothing": b""}
            return DATA if given == "whole" else DATA[start:end] if given == "errors" else part[given]

        monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
        monkeypatch.setattr(failures, "ATTEMPTS", 3)
        if given == "nothing":
            with pytest.raises(RemoteError, match="no bytes after 5 of"):
                fetched(stored, have=DATA[:5])
        else:
            assert fetched(stored, have=DATA[:5]) == DATA

    def test_small_files_are_read_and_large_ones_refused(self, stored):
        assert read_small(stored) == DATA
        with pytest.raises(DataError, match="larger than"):
            read_small(stored, most=SIZE - 1)

    def test_the_cause_of_an_error_tells_its_status(self, stored, monkeypatch):
        class FromStore(Exception):
            response = {"ResponseMetadata": {"HTTPStatusCode": 403}}

        def cat_file(self, path, version_id=None, start=None, end=None):
            raise OSError(errno.EINVAL, "what s3fs makes of it") from FromStore()

        monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
        with pytest.raises(Denied, match="HTTP status 403"):
            fetched(stored)

    def test_a_defect_of_ours_keeps_its_traceback(self, stored, monkeypatch):
        monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda self: None)
        with pytest.raises(TypeError):
            fetched(stored)


class TestPipes:
    def test_a_command_is_refused_unless_allowed(self, tmp_path):
        with pytest.raises(DataError, match=r"^pipe:touch: shell commands are not run unless data.allow_shell is true"):
            fetched(f"pipe:touch {tmp_path}/here --password 77")
        assert not (tmp_path / "here").exists()

    @pytest.mark.parametrize("size", [SIZE, None])
    def test_what_a_command_prints_is_the_shard(self, tmp_path, size):
        (tmp_path / "a.tar").write_bytes(DATA)
        assert fetched(f"pipe:cat {tmp_path}/a.tar | cat", size, have=b"stale", allow_shell=True) == DATA

    def test_a_command_that_fails_is_run_again(self, tmp_path):
        command = f"pipe:echo -n part; mkdir {tmp_path}/again || {{ echo -n s; exit 0; }}; exit 3"
        assert fetched(command, None, allow_shell=True) == b"parts"

    def test_a_command_that_keeps_failing_is_told_with_its_first_words(self, tmp_path):
        command = f"pipe:echo . >> {tmp_path}/runs; echo 'no https://h/x?sig=77 today' >&2; echo more >&2; exit 7"
        with pytest.raises(RemoteError, match=r"failed 3 times \(exit status 7: no https://h/x today\)") as caught:
            fetched(command, allow_shell=True)
        assert (tmp_path / "runs").read_text().count(".") == 3 and "\n" not in str(caught.value)

    def test_a_command_that_prints_too_little_or_too_much_is_told(self):
        with pytest.raises(RemoteError, match="printed 3 of 4 bytes"):
            fetched("pipe:echo -n abc", 4, allow_shell=True)
        with pytest.raises(RemoteError, match="prints more than the 2 bytes"):
            fetched("pipe:echo -n abc; sleep 100", 2, allow_shell=True)

    def test_stop_ends_a_command_and_all_that_it_started(self, tmp_path):
        stop = threading.Event()
        threading.Timer(0.4, stop.set).start()
        with pytest.raises(Stopped):
            fetched(f"pipe:(sleep 1; touch {tmp_path}/alive) | cat", None, allow_shell=True, stop=stop)
        time.sleep(1)
        assert not (tmp_path / "alive").exists()

    def test_a_command_that_is_silent_for_too_long_is_ended(self, monkeypatch):
        monkeypatch.setattr(pipes, "SILENCE_SECONDS", 0.2)
        with pytest.raises(RemoteError, match="printed nothing for 0 s"):
            fetched("pipe:sleep 777", allow_shell=True)
