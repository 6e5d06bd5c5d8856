"""Whether shards are as their index says and every picture in them can be read; names all that is not."""

from __future__ import annotations

import os
import tarfile
import threading
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distgan.data.failures import MADE_ANEW
from distgan.data.headers import picture_size
from distgan.data.index import Shard, ShardSet, open_shards
from distgan.data.index_file import INDEX_FILE, SAMPLES_FILE, read_index, read_samples
from distgan.data.indexing import Caching, default_caching
from distgan.data.pool import default_workers
from distgan.data.progress import Progress
from distgan.data.scan import SAMPLE, Kind, member_at, picture_after, scan_tar
from distgan.data.shelf import DOWNLOADS, Shelf, name_of
from distgan.data.specs import Spec, locate, named_shards
from distgan.data.urls import check_url, is_remote
from distgan.errors import DataError
from distgan.files import sha256_of

KEPT = 1000
"""Faults that a report holds; more are only counted."""
ANY_SIZE = 16  # pixels a side that pictures are decoded to where no size is asked of them


class Fault(NamedTuple):
    """Something bad: its shard, the member of the tar ("" for the shard as a whole), and what is wrong."""

    shard: str
    member: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(part for part in self if part)


class Target(NamedTuple):
    """A shard to verify, and its rows of the index; None where they have to be read from the tar."""

    shard: Shard
    samples: np.ndarray | None


class Targets(NamedTuple):
    """Shards to verify. `resolution` and `channels` are those that their pictures must have, None for any; `faults` is
    what was found bad before any shard was opened."""

    shards: Sequence[Target]
    resolution: int | None
    channels: int | None
    classes: tuple[str, ...] = ()
    faults: Sequence[Fault] = ()


@dataclass
class Report:
    """What a verification has found. `encodings` counts the pictures that were looked at by what they are."""

    shards: int
    bytes: int = 0
    encodings: Counter = field(default_factory=Counter)
    bad: int = 0
    unreadable: int = 0
    """Pictures that cannot be read, of local shards only those in files that can be opened."""
    faults: list[Fault] = field(default_factory=list)
    """The first `KEPT` of the `bad`."""

    @property
    def pictures(self) -> int:
        return self.encodings.total()

    def summary(self) -> str:
        """One line for a person."""
        verdict = f"{self.bad} fault{'s' * (self.bad > 1)}" if self.bad else "all sound"
        shards = f"{self.shards} shard{'s' * (self.shards != 1)}"
        return f"verified {self.pictures} pictures in {shards}, {self.bytes / 1e6:.1f} MB: {verdict}"


def verify_named(spec: Spec, caching: Caching | None = None, threads: int | None = None) -> int:
    """Verifies the shards that a spec names, faults on stderr, a summary on stdout. Returns 0, or 1 for any fault.

    Raises `DataError` where the spec names nothing, or the index itself cannot be read.
    """
    caching = caching or default_caching()
    report = verify(named_targets(spec, caching), caching, threads)
    print(report.summary(), flush=True)
    return int(report.bad > 0)


def targets_of(shards: ShardSet) -> Targets:
    """The shards of a set that could be opened."""
    rows = np.split(shards.samples, shards.starts[1:-1])
    listed = [Target(shard, part) for shard, part in zip(shards.shards, rows, strict=True)]
    return Targets(listed, shards.resolution, shards.channels, shards.classes)


def named_targets(spec: Spec, caching: Caching) -> Targets:
    """The shards that a spec names, those too that would keep `open_shards` from opening the set."""
    groups: dict[str, list[str]] = defaultdict(list)
    for place, source in named_shards(spec):
        groups[source].append(place)
    parts = [_group(source, places, caching) for source, places in groups.items()]
    shards = [target for part in parts for target in part.shards]
    return parts[0]._replace(shards=shards, faults=[fault for part in parts for fault in part.faults])


def verify(targets: Targets, caching: Caching, threads: int | None = None, *, ends: bool = False) -> Report:
    """Reads all: each shard's size, checksum and names, each picture's checksum, size, and pixels.

    Never stops at a fault: each is a line on stderr (the first few), and in the report. `threads` (default: one a
    core) take a shard each. Loads torch. `ends` looks at each shard's size and the first and last of its pictures
    alone, and leaves stderr to the caller.
    """
    shards = [target.shard for target in targets.shards]
    remote = any(shard.is_remote for shard in shards)
    known = all(target.samples is not None for target in targets.shards)
    unit, total = ("pictures", sum(len(t.samples) for t in targets.shards)) if known else ("shards", len(shards))
    threads = min(threads or default_workers(), len(shards), DOWNLOADS if remote else len(shards))
    shelf = Shelf(shards, caching.open() if remote else None)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="verify")
    with Progress("verify", total, unit=unit) as progress:
        examiner = _Examiner(targets, shelf, progress, ends)
        try:
            for done in [pool.submit(examiner.examine, number) for number in range(len(shards))]:
                done.result()
        except BaseException:
            examiner.stop.set()
            shelf.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            shelf.close()
    return examiner.report


def _group(source: str, places: Sequence[str], caching: Caching) -> Targets:
    """The shards whose index is to be looked for in one folder or at one URL."""
    if is_remote(source):
        for place in places:
            check_url(place, caching.allow_shell)
        try:
            return targets_of(open_shards(places, caching))
        except DataError:  # one of them may be damaged: each is looked at on its own
            return Targets([Target(_unknown(place), None) for place in places], None, None)
    index = read_index(Path(source) / INDEX_FILE)
    entries = {locate(source, entry["name"]): number for number, entry in enumerate(index["shards"])} if index else {}
    if not all(place in entries for place in places):
        return Targets([Target(_unknown(place), None) for place in places], None, None)
    samples = read_samples(Path(source) / SAMPLES_FILE, index)
    starts = np.cumsum([0, *(entry["samples"] for entry in index["shards"])])
    listed = []
    for place in places:
        number = entries[place]
        entry = index["shards"][number]
        shard = Shard(place, entry["samples"], entry["bytes"], entry.get("sha256"))
        listed.append(Target(shard, None if samples is None else samples[starts[number] : starts[number + 1]]))
    faults = [Fault(source, SAMPLES_FILE, "missing, or not what index.json speaks of; prepare or index again")]
    lost = samples is None and index["version"] > 1  # version 1 had other rows, which are no longer read
    kind = (index["resolution"], index["channels"], tuple(index["classes"]))
    return Targets(listed, *kind, faults if lost else ())


def _unknown(place: str) -> Shard:
    """A shard that no index speaks of."""
    try:
        size = None if is_remote(place) else os.stat(place).st_size
    except OSError:  # told of when it is to be read
        size = 0
    return Shard(place, 0, size, None)


class _Examiner:
    """Examines shards by number, from any thread, and gathers the report."""

    def __init__(self, targets: Targets, shelf: Shelf, progress: Progress, ends: bool) -> None:
        from distgan.data.decode import Decoder, Scratch  # import torch

        self._targets, self._shelf, self._progress, self._only_ends = targets.shards, shelf, progress, ends
        self._resolution = targets.resolution
        self._decoder = Decoder(targets.resolution or ANY_SIZE, targets.channels or 3, fit="crop")
        self._scratch, self._lock = Scratch(), threading.Lock()
        self.stop = threading.Event()
        """Set, it ends all that is being examined."""
        self.report = Report(len(self._targets))
        for fault in targets.faults:
            self._note(fault)

    def examine(self, number: int) -> None:
        """Looks at all of one shard."""
        shard, samples = self._targets[number]
        name, encodings, looked = name_of(shard), Counter(), 0
        try:
            descriptor = self._shelf.descriptor(number)
            with self._lock:
                self.report.bytes += os.fstat(descriptor).st_size
            if self._only_ends:
                members, rows = partial(member_at, descriptor), self._ends(name, samples, descriptor)
            else:
                members, sound = self._members(name, descriptor)
                rows = self._rows(name, shard, samples, descriptor, sound)
            for looked, reason in enumerate(self._pictures(descriptor, rows, encodings), 1):
                if reason:
                    self._note(Fault(name, members(int(rows["offset"][looked - 1])), reason), pictures=1)
                if samples is not None and self._progress.unit == "pictures":
                    self._progress.advance(1)
        except DataError as error:  # the shard as a whole; its pictures are moot
            self._note(Fault(name, "", str(error).removeprefix(f"{name}: ")), pictures=shard.samples * shard.is_remote)
        except OSError as error:
            self._note(Fault(name, "", f"cannot be read: {error.strerror}"), pictures=shard.samples * shard.is_remote)
        finally:
            self._shelf.give_up([number])
        with self._lock:
            self.report.encodings += encodings
        self._progress.advance(1 if self._progress.unit == "shards" else len(samples) - looked)

    def _note(self, fault: Fault, pictures: int = 0) -> None:
        """Puts down a fault, and how many `pictures` cannot be read for it."""
        if self.stop.is_set():  # its shards are closed: that is none
            return
        with self._lock:
            self.report.bad += 1
            self.report.unreadable += pictures
            if len(self.report.faults) < KEPT:
                self.report.faults.append(fault)
            if not self._only_ends:
                self._progress.say(str(fault))

    def _members(self, name: str, descriptor: int) -> tuple[Callable[[int], str], bool]:
        """What names the member of a picture by its offset; and whether all names stay within their folder."""
        starts, names, sound = [], [], True
        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            with open(descriptor, "rb", closefd=False) as file, tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    archive.members.clear()
                    called = member.name if member.name.isprintable() else ascii(member.name)
                    starts.append(member.offset_data)
                    names.append(called)
                    if member.name.startswith("/") or ".." in member.name.split("/"):
                        sound = False
                        self._note(Fault(name, called, "a name that leads out of its folder; do not use this shard"))
        except (tarfile.TarError, ValueError):
            pass  # told of by whoever reads its rows
        return lambda offset: names[bisect_right(starts, offset) - 1] if names else "?", sound

    def _rows(self, name: str, shard: Shard, samples: np.ndarray | None, descriptor: int, sound: bool) -> np.ndarray:
        """The rows of the shard's pictures: those of the index, where there are any and the tar is one."""
        same = shard.sha256 is None or sha256_of(descriptor) == shard.sha256
        if not same:
            self._note(Fault(name, "", "its sha256 is not that of its index; it has changed since, so copy it again"))
        if samples is not None and (same or not sound):
            return samples
        if not sound:
            return np.empty(0, SAMPLE)
        os.lseek(descriptor, 0, os.SEEK_SET)
        scanned = scan_tar(descriptor, called=name)
        if samples is None:
            return scanned
        for what in ("offset", "size", "label"):
            if not np.array_equal(scanned[what], samples[what]):
                self._note(Fault(name, "", f"the {what}s of its pictures are not those of its index"))
        return samples

    def _ends(self, name: str, samples: np.ndarray | None, descriptor: int) -> np.ndarray:
        """The rows of the first and the last picture; behind the last there may be no other."""
        if samples is None:
            os.lseek(descriptor, 0, os.SEEK_SET)
            samples = scan_tar(descriptor, called=name)
        if len(samples) and (more := picture_after(descriptor, int(samples[-1]["offset"] + samples[-1]["size"]))):
            self._note(Fault(name, more, f"comes after the last picture of its index; {MADE_ANEW}"))
        return samples[[0, -1]] if len(samples) > 1 else samples

    def _pictures(self, descriptor: int, rows: np.ndarray, encodings: Counter) -> Iterator[str | None]:
        """For each picture what is wrong with it, None for nothing."""
        out = np.empty(self._decoder.shape, np.uint8)
        for row in rows.tolist():
            if self.stop.is_set():
                return
            _, offset, size, _, crc, kind = row
            memory, tensor = self._scratch.of(size)
            if os.preadv(descriptor, (memory[:size],), offset) < size:
                yield "the shard ends within it"
                continue
            encodings[_encoding(memory, kind)] += 1
            try:
                self._decoder.check(memory[:size], kind, crc)
                self._check_size(memory[:size], kind)
                self._decoder.decode(tensor.resize_(size), kind, out)
            except (ValueError, RuntimeError) as error:
                yield str(error).splitlines()[0]
            else:
                yield None

    def _check_size(self, data: memoryview, kind: int) -> None:
        side = self._resolution
        if side is None:
            return
        if kind in (Kind.ENCODED, Kind.NPY):
            height, width = picture_size(data)
            if (height, width) != (side, side):
                raise ValueError(f"it is {width} x {height} pixels, and must be {side} x {side}")
        elif len(data) not in (side * side, 3 * side * side):
            raise ValueError(f"it has {len(data)} bytes of pixels, too many or too few for {side} x {side}")


def _encoding(data: memoryview, kind: int) -> str:
    if kind != Kind.ENCODED:
        return "raw"
    marks = {b"\x89P": "png", b"\xff\xd8": "jpeg", b"RI": "webp"}
    return marks.get(bytes(data[:2]), "unknown")
