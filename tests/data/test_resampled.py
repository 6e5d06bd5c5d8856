from __future__ import annotations

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flaky_server import FlakyServer
from PIL import Image

from distgan.data import failures
from distgan.data.decode import Decoder
from distgan.data.headers import LARGEST_PICTURE
from distgan.data.resampled import ResampledStream
from distgan.errors import DataError, ReadError

SIDE = 16
CODED = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp"}
SCRIPT = """
import sys
from distgan.data.decode import Decoder
from distgan.data.resampled import ResampledStream
if __name__ == "__main__":
    stream = ResampledStream(sys.argv[1:], Decoder(16, 3), batch_size=8, seed=1, workers=2, allow_shell=True)
    next(stream)
    print("reading", flush=True)
    {then}
"""


def raw(shard: int, number: int) -> bytes:
    """A picture that tells which it is."""
    return bytes([shard, number, 7]) * SIDE**2


def encoded(form: str, size: tuple[int, int] = (SIDE, SIDE), colour: tuple[int, int, int] = (200, 100, 50)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> str:
    with tarfile.open(path, mode, format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def members_of(shard: int, count: int) -> list[tuple[str, bytes]]:
    return [
        member
        for number in range(count)
        for member in (
            (f"s{shard}-{number:03d}.raw", raw(shard, number)),
            (f"s{shard}-{number:03d}.cls", b"%d" % number),
        )
    ]


@pytest.fixture
def shard(tmp_path) -> Callable[..., str]:
    """Writes shard `number` with `count` pictures and returns its place."""

    def write(number: int, count: int = 40, suffix: str = "tar") -> str:
        packed = suffix.partition(".")[2]
        return write_tar(tmp_path / f"{number}.{suffix}", members_of(number, count), f"w:{packed}")

    return write


@pytest.fixture
def opened():
    """Opens streams, and closes them in the end."""
    streams = []

    def open_stream(places: list[str], fit: str = "exact", **settings: object) -> ResampledStream:
        options = {"batch_size": 8, "seed": 1, "workers": 0, "allow_shell": False, **settings}
        streams.append(ResampledStream(places, Decoder(SIDE, 3, fit), **options))
        return streams[-1]

    yield open_stream
    for stream in streams:
        stream.close()


def told(stream: ResampledStream, batches: int) -> list[tuple[int, int]]:
    """Which pictures (shard, number) the next batches hold; their labels must be those of the pictures."""
    found = []
    for _ in range(batches):
        pixels, labels = next(stream)
        assert pixels.dtype == torch.uint8 and pixels.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64 and torch.equal(labels, pixels[:, 1, 0, 0].long())
        assert torch.equal(pixels, pixels[:, :, :1, :1].expand_as(pixels)) and (pixels[:, 2] == 7).all()
        found += [(int(p[0, 0, 0]), int(p[1, 0, 0])) for p in pixels]
    return found


def marked(mark: str) -> list[int]:
    """The processes whose environment has `mark` in it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes() and " Z " not in (folder / "stat").read_text():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def gone(mark: str, seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < end:
        time.sleep(0.1)
    return not left


def begin(folder: Path, then: str, *places: str) -> tuple[subprocess.Popen, str]:
    """A process that reads with two workers, and then does `then`; and the mark of all that come from it."""
    script, mark = folder / "reads.py", f"DISTGAN_MARK={uuid.uuid4()}"
    folder.mkdir(exist_ok=True)
    script.write_text(SCRIPT.format(then=then))
    name, _, value = mark.partition("=")
    environment = {**os.environ, name: value, "PYTHONPATH": str(Path(__file__).parents[2])}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen([sys.executable, str(script), *places], **options), mark


def test_one_shard_feeds_two_ranks_of_two_workers(shard, opened):
    for rank in range(2):
        stream = opened([shard(3, 10)], rank=rank, world_size=2, workers=2)
        batch = next(stream)
        assert batch.pixels.shape == (4, 3, SIDE, SIDE) and batch.labels.shape == (4,)
        found = told(stream, 60)
        assert set(found) == {(3, number) for number in range(10)} and stream.wait_seconds > 0


def test_uneven_shards_go_on_for_epochs_on_every_rank_and_worker(shard, opened):
    places = [shard(0, 1), shard(1, 5), shard(2, 90)]
    streams = [opened(places, rank=rank, world_size=2, workers=2, shuffle=100) for rank in range(2)]
    found = [told(stream, 150) for stream in streams]
    assert all({shard for shard, _ in one} == {0, 1, 2} for one in found)
    assert len(found[0]) == len(found[1]) == 600 and found[0] != found[1]


def test_every_rank_and_worker_reads_its_own_sequence(shard, opened):
    places = [shard(number, 50) for number in range(3)]
    sequences = []
    for rank in range(2):
        found = told(opened(places, rank=rank, world_size=2, workers=2), 12)
        batches = [tuple(found[start : start + 4]) for start in range(0, 48, 4)]
        sequences += [tuple(batches[0::2]), tuple(batches[1::2])]  # the workers take turns
    assert len(set(sequences)) == 4
    assert len({batch for sequence in sequences for batch in sequence}) == 24


def test_the_sequence_is_a_function_of_the_arguments(shard, opened):
    places = [shard(number, 30) for number in range(3)]
    state, drawn = torch.get_rng_state(), np.random.get_state()[1].copy()
    here = told(opened(places), 20)
    assert here == told(opened(places), 20) == told(opened(places, workers=1), 20)
    assert told(opened(places, workers=2), 20) == told(opened(places, workers=2), 20) != here
    for other in ({"seed": 2}, {"position": 160}, {"rank": 1}):
        assert told(opened(places, **{"world_size": 1, **other}), 20) != here
    assert torch.equal(state, torch.get_rng_state()) and (drawn == np.random.get_state()[1]).all()


def test_samples_of_several_shards_are_mixed(shard, opened):
    places = [shard(number, 60) for number in range(8)]
    mixed, plain = (told(opened(places, shuffle=shuffle), 15) for shuffle in (400, 0))
    assert len({number for number, _ in mixed[:60]}) > 1
    assert plain[:60] == [(plain[0][0], number) for number in range(60)]


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.xz"])
def test_packed_tars_are_read(shard, opened, suffix):
    places = [shard(1, suffix=suffix), shard(2, suffix=suffix)]
    assert {number for number, _ in told(opened(places, workers=1), 30)} == {1, 2}


def test_gzip_in_parts_is_read_to_its_end(shard, opened, tmp_path):
    import gzip

    data = Path(shard(1, 40)).read_bytes()
    place = tmp_path / "parts.tar.gz"
    place.write_bytes(gzip.compress(data[:20_000]) + gzip.compress(data[20_000:]))
    assert len(set(told(opened([str(place)]), 60))) == 40


def test_pictures_of_all_forms_and_labels_of_all_kinds(tmp_path, opened):
    array = np.full((SIDE, SIDE, 3), (200, 100, 50), np.uint8)
    forms = {**{form: encoded(name) for form, name in CODED.items()}, "raw": array.tobytes()}
    members = [(f"{form}.{form}", data) for form, data in forms.items()]
    members += [("hwc.npy", npy(array)), ("chw.npy", npy(array.transpose(2, 0, 1).copy())), ("chw.cls", b"1\n")]
    members += [
        ("json.png", forms["png"]),
        ("json.json", b'{"label": 2}'),
        ("txt.png", forms["png"]),
        ("txt.txt", b"3"),
    ]
    members += [("caption.png", forms["png"]), ("caption.txt", b"a cat"), ("only.cls", b"9"), ("only.other", b"x")]
    pixels, labels = next(opened([write_tar(tmp_path / "a.tar", members)], batch_size=200, shuffle=20))
    wanted = torch.tensor([200, 100, 50]).view(1, 3, 1, 1)
    assert (pixels.int() - wanted).abs().max() <= 6 and labels.unique().tolist() == [-1, 1, 2, 3]


def test_pictures_of_other_sizes_are_cropped_or_refused(tmp_path, opened):
    place = write_tar(tmp_path / "a.tar", [("a.png", encoded("png", (40, 30))), ("b.jpg", encoded("jpeg", (20, 50)))])
    pixels, labels = next(opened([place], fit="crop", workers=1))
    assert pixels.shape == (8, 3, SIDE, SIDE) and (pixels[:, 0].int() - 200).abs().max() <= 4 and (labels == -1).all()
    with pytest.raises(ReadError, match=r"a\.tar: [ab]\.\w+: it is \d+ x \d+ pixels.*data\.fit: crop"):
        next(opened([place]))


def spoilt(tmp_path: Path) -> str:
    """A shard in which one picture of three cannot be read."""
    bad = ("s1-001.png", encoded("png")[:40])
    return write_tar(tmp_path / "spoilt.tar", [*members_of(1, 1), bad, ("s1-002.raw", raw(1, 2)), ("s1-002.cls", b"2")])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_ends_the_stream_with_one_line(tmp_path, opened, capfd, workers):
    stream = opened([spoilt(tmp_path)], workers=workers)
    for _ in range(2):
        with pytest.raises(ReadError, match=r"spoilt\.tar: s1-001\.png: .*data\.bad_pictures: replace") as caught:
            next(stream)
        assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_picture_is_left_out_and_told_once(tmp_path, opened, capfd, workers):
    stream = opened([spoilt(tmp_path)], workers=workers, bad="replace")
    assert set(told(stream, 30)) == {(1, 0), (1, 2)} and len(stream.replaced) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and "spoilt.tar: s1-001.png: " in lines[0] and lines[0].endswith("; left out")


def test_more_bad_pictures_than_the_limit_end_the_stream(tmp_path, opened):
    bad = [(f"bad{number}.png", b"none") for number in range(5)]
    place = write_tar(tmp_path / "a.tar", [*members_of(1, 20), *bad])
    assert told(opened([place], bad="replace", limit=5), 60)
    with pytest.raises(ReadError, match=r"5 pictures or shards are bad, more than data\.bad_limit 4"):
        told(opened([place], bad="replace", limit=4, workers=2), 60)


def test_a_shard_of_nothing_but_bad_pictures_does_not_spin(tmp_path, opened):
    with pytest.raises(ReadError, match=r"a\.tar: a\.png: .*in a row"):
        next(opened([write_tar(tmp_path / "a.tar", [("a.png", b"none")])], bad="replace"))


def test_a_picture_bomb_is_refused_before_it_is_decoded(tmp_path, opened):
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (LARGEST_PICTURE // 2).to_bytes(4, "big") + (4).to_bytes(4, "big")
    with pytest.raises(ReadError, match=r"a\.png: .*a picture bomb"):
        next(opened([write_tar(tmp_path / "a.tar", [("a.png", head + bytes(100))])], fit="crop"))


def test_a_label_that_is_no_number_is_bad(tmp_path, opened):
    with pytest.raises(ReadError, match=r"a\.cls holds b'cat', not a class number"):
        next(opened([write_tar(tmp_path / "a.tar", [("a.raw", raw(1, 1)), ("a.cls", b"cat")])]))


def cut(data: bytes) -> bytes:
    return data[:30_100]


def zeroed(data: bytes) -> bytes:
    return data[:20_480] + bytes(2048) + data[22_528:]


def scratched(data: bytes) -> bytes:
    at = 1024 * (20_480 // 1024)
    while data[at + 257 : at + 262] != b"ustar":
        at += 512
    return data[:at] + b"\xff" * 200 + data[at + 200 :]


def unended(data: bytes) -> bytes:
    return data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512)


@pytest.mark.parametrize("damage", [cut, zeroed, scratched, unended, lambda data: b"<html>" * 400, lambda data: b""])
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_tar_is_no_shorter_tar(shard, tmp_path, opened, capfd, damage, packed):
    import gzip

    place, data = tmp_path / "damaged.tar", damage(Path(shard(1)).read_bytes())
    place.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(ReadError, match=r"damaged\.tar: the shard is bad: "):
        told(opened([str(place)]), 60)
    stream = opened([str(place), shard(2, 5)], bad="replace")
    assert {number for number, _ in told(stream, 30)} >= {2} and len(stream.replaced) == 1
    assert capfd.readouterr().err.count("damaged.tar: the shard is bad") == 1


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.xz"])
def test_a_packed_tar_that_is_cut_or_has_a_wrong_bit_is_found(shard, tmp_path, opened, suffix):
    data = Path(shard(1, 200, suffix)).read_bytes()
    for spoilt in (data[: len(data) // 2], data[:-12], data[:-40] + bytes([data[-40] ^ 4]) + data[-39:]):
        place = tmp_path / f"spoilt.{suffix}"
        place.write_bytes(spoilt)
        with pytest.raises(ReadError, match=r"spoilt\.tar"):
            told(opened([str(place)]), 60)


def test_a_sample_that_a_shard_breaks_off_in_is_not_used_without_its_label(tmp_path, opened, shard):
    data = Path(write_tar(tmp_path / "whole.tar", members_of(1, 3))).read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: data.index(b"s1-002.cls")])
    found = told(opened([str(tmp_path / "cut.tar"), shard(2, 3)], bad="replace"), 30)  # checks labels
    assert (1, 1) in found and (1, 2) not in found


@pytest.mark.parametrize("bad", ["fail", "replace"])
def test_shards_of_which_none_can_be_read_end_the_stream(tmp_path, opened, bad):
    (tmp_path / "text.tar").write_bytes(b"no tar")
    places = [str(tmp_path / "text.tar"), write_tar(tmp_path / "empty.tar", [("a.cls", b"1")]), str(tmp_path / "none")]
    with pytest.raises(ReadError, match="2|3 tried in vain" if bad == "replace" else "the shard is bad"):
        next(opened(places, bad=bad, workers=1))


def test_commands_are_run_only_where_they_may(shard, opened, tmp_path):
    place = f"pipe:cat {shard(4)}"
    with pytest.raises(DataError, match=r"data\.allow_shell"):
        opened([place])
    assert {number for number, _ in told(opened([place, shard(5)], allow_shell=True, workers=2), 30)} == {4, 5}
    failing = f"pipe:head -c 3000 {shard(4)}; echo broken >&2; exit 3"
    with pytest.raises(ReadError, match="broke off after 3000 bytes"):
        told(opened([failing], allow_shell=True), 60)


def test_a_feed_without_an_end_is_read_and_its_command_ends_with_the_stream(tmp_path, opened, shard):
    feed = tmp_path / "feed.py"
    feed.write_text(
        "import io, sys, tarfile\n"
        "with tarfile.open(fileobj=sys.stdout.buffer, mode='w|') as archive:\n"
        "    n = 0\n"
        "    while True:\n"
        "        for name, data in ((f'{n}.raw', bytes([1, n % 250, 7]) * 256), (f'{n}.cls', b'%d' % (n % 250))):\n"
        "            member = tarfile.TarInfo(name); member.size = len(data)\n"
        "            archive.addfile(member, io.BytesIO(data))\n"
        "        archive.members.clear(); n += 1\n"
    )
    mark = str(uuid.uuid4())
    for workers in (0, 2):
        place = f"pipe:MARK={mark} exec {sys.executable} {feed}"
        stream = opened([place], allow_shell=True, workers=workers, bad="fail")
        assert len(set(told(stream, 100))) > 100 and marked(mark)
        stream.close()
        assert gone(mark, 5), "the command goes on"
        with pytest.raises(ReadError, match="closed"):
            next(stream)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(failures, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(failures, "LONGEST_PAUSE", 0.05)
    with FlakyServer(tmp_path) as server:
        yield server


def test_urls_are_read_through_broken_connections(shard, opened, server):
    shard(1, suffix="tar.gz"), shard(2)
    server.script["1.tar.gz"] = ["503", "cut", "short"]
    server.script["2.tar"] = ["cut", "no_range", "500"]
    found = told(opened([server.url("1.tar.gz", "sig=SECRET"), server.url("2.tar")]), 40)
    assert set(found) == {(shard, number) for shard in (1, 2) for number in range(40)}
    assert {number for number, _ in told(opened([server.url("2.tar")], workers=2), 10)} == {2}


def test_a_connection_that_is_lost_for_good_costs_the_rest_of_a_shard(shard, opened, server, capfd):
    shard(1, 250), shard(2, 250)
    server.script["1.tar"] = ["slow cut", *["503"] * 40]
    places = [server.url("1.tar", "sig=SECRET"), server.url("2.tar")]
    stream = opened(places, bad="replace", shuffle=0)
    found = told(stream, 120)
    assert {number for number, _ in found} == {1, 2} and len(stream.replaced) == 1
    error = capfd.readouterr().err
    assert error.count("1.tar: gave up after") == 1 and "SECRET" not in error
    server.script["1.tar"] = ["slow cut", *["503"] * 40]
    with pytest.raises(ReadError, match=r"1\.tar: gave up after"):
        told(opened(places), 200)
    with pytest.raises(ReadError, match=r"none\.tar: nothing is there"):
        next(opened([server.url("none.tar")], bad="replace"))


def test_a_worker_that_is_killed_ends_the_stream(shard, opened):
    stream = opened([shard(1)], workers=2)
    next(stream)
    victim, other = multiprocessing.active_children()
    os.kill(victim.pid, signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(ReadError, match="a process that reads pictures has died") as caught:
        while True:
            next(stream)
    assert time.monotonic() - started < 30 and "\n" not in str(caught.value)
    stream.close()
    other.join(5)
    assert not other.is_alive()


def test_stop_signals_for_the_whole_job_do_not_end_workers(shard, opened):
    stream = opened([shard(1)], workers=2)
    next(stream)
    workers = multiprocessing.active_children()
    server = int(Path(f"/proc/{workers[0].pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert server != os.getpid()
    for pid in (server, *(worker.pid for worker in workers)):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(pid, number)
    time.sleep(0.3)
    told(stream, 60)
    assert all(worker.is_alive() for worker in workers)
    os.kill(server, 0)


def test_nothing_stays_when_the_trainer_is_killed(shard, tmp_path):
    process, mark = begin(tmp_path, "import time; time.sleep(100)", f"pipe:cat {shard(2, 250)}; sleep 100")
    assert process.stdout.readline() == "reading\n", process.stderr.read()
    assert len(marked(mark)) >= 6  # it, the server, two workers and their commands at least
    process.kill()
    process.communicate()
    assert gone(mark)


def test_a_trainer_that_ends_without_closing_does_not_hang(shard, tmp_path):
    statuses = {"raise SystemExit(3)": 3, "1 / 0": 1, "stream.close()": 0}
    begun = [begin(tmp_path / str(status), then, shard(1)) for then, status in statuses.items()]  # all three at once
    for (process, mark), (then, status) in zip(begun, statuses.items(), strict=True):
        _, error = process.communicate(timeout=200)  # hung for good it would be; to start takes long on a busy machine
        assert process.returncode == status, error
        assert ("ZeroDivisionError" in error) == (then == "1 / 0") and gone(mark, 20)
