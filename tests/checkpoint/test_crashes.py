"""Whatever part of the writes survived a crash: the newest complete checkpoint is found, and loads."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distgan import checkpoint
from distgan.checkpoint import files

SAVES = 3


class Crash(BaseException):
    """The machine has lost its power."""


class Disk:
    """Counts every call that changes the disk, and loses power at one of them.

    What is then left is what a file system may leave: files that were not flushed have lost any part of their end (or
    are as long, and hold zeros), and a rename whose folder was not flushed may not have happened.
    """

    def __init__(self, crash_at: int, torn: list[float], undo: bool) -> None:
        self.calls, self._crash_at, self._torn, self._undo = 0, crash_at, torn, undo
        self._flushed: set[tuple[int, int]] = set()
        self._renamed: list[tuple[Path, Path]] = []

    def wrap(self, function, flushes=lambda *args: ()):
        def call(*args, **kwargs):
            self.calls += 1
            if self.calls == self._crash_at:
                raise Crash
            result = function(*args, **kwargs)
            self._flushed |= set(flushes(*args))
            return result

        return call

    def rename(self, source, target):
        self.calls += 1
        if self.calls == self._crash_at:
            raise Crash
        os.replace(source, target) if not Path(target).exists() else os.rename(source, target)
        self._renamed.append((Path(source), Path(target)))

    def sync_folder(self, folder):
        self.calls += 1
        if self.calls == self._crash_at:
            raise Crash
        self._renamed = [pair for pair in self._renamed if pair[1].parent != Path(folder)]

    def leave(self, folder: Path) -> None:
        """Makes of the folder what the crash has left of it."""
        if self._undo and self._renamed:
            source, target = self._renamed[-1]
            if target.exists() and not source.exists():
                os.rename(target, source)
        unflushed = [p for p in sorted(folder.rglob("*")) if p.is_file() and _inode(p) not in self._flushed]
        for path, share in zip(unflushed, self._torn * len(unflushed), strict=False):
            data = path.read_bytes()
            cut = data[: int(len(data) * share)]
            path.write_bytes(cut if self.calls % 2 else cut + b"\0" * (len(data) - len(cut)))


def _inode(path: Path | int) -> tuple[int, int]:
    about = os.fstat(path) if isinstance(path, int) else path.stat()
    return about.st_dev, about.st_ino


def state(step: int = 0) -> checkpoint.TrainState:
    networks = {name: nn.Linear(2, 2) for name in (checkpoint.GENERATOR, checkpoint.GENERATOR_EMA, checkpoint.CRITIC)}
    for network in networks.values():
        with torch.no_grad():
            network.weight.fill_(step)
    return checkpoint.TrainState(networks, {}, checkpoint.Progress(step=step))


def run(folder: Path, disk: Disk, patch: pytest.MonkeyPatch) -> int:
    """Saves and prunes a few times; returns the step of the last save that came back."""
    done = 0
    patch.setattr(files, "save_file", disk.wrap(files.save_file))
    patch.setattr(files.os, "fsync", disk.wrap(os.fsync, lambda descriptor: [_inode(descriptor)]))
    patch.setattr(files.os, "rename", disk.rename)
    patch.setattr(files, "sync_folder", disk.sync_folder)
    patch.setattr(files.shutil, "rmtree", disk.wrap(_half_removed(disk, shutil.rmtree)))
    try:
        for step in range(1, SAVES + 1):
            checkpoint.save(folder / f"{step:08d}", state(step), {})
            checkpoint.prune(folder, step, 1)
            done = step
    except Crash:
        pass
    finally:
        patch.undo()
    return done


def _half_removed(disk: Disk, rmtree):
    """Removes file after file, and may lose power between two."""

    def remove(path, ignore_errors=False):
        for file in sorted(Path(path).glob("*")):
            disk.wrap(file.unlink)()
        rmtree(path, ignore_errors=ignore_errors)

    return remove


@given(st.integers(1, 64), st.lists(st.floats(0, 1), min_size=1, max_size=4), st.booleans())
def test_whatever_survives_the_newest_complete_one_loads(crash_at, torn, undo):
    with tempfile.TemporaryDirectory() as name:
        folder, disk = Path(name), Disk(crash_at, torn, undo)
        done = run(folder, disk, pytest.MonkeyPatch())
        disk.leave(folder)
        newest = checkpoint.newest_complete(folder)
        if newest is None:
            assert done == 0
            return
        step, loaded = int(newest.name), state()
        assert step in (done, done + 1)
        checkpoint.load(newest, loaded)
        assert loaded.progress.step == step
        assert all(bool((network.weight == step).all()) for network in loaded.networks.values())
        checkpoint.save(folder / f"{step + 1:08d}", state(step + 1), {})  # and the run goes on
        checkpoint.prune(folder, step + 1, 1)
        assert [path.name for path in folder.iterdir()] == [f"{step + 1:08d}"]


def test_all_moments_are_covered():
    """The number above is beyond the last call of a calm run."""
    with tempfile.TemporaryDirectory() as name:
        disk = Disk(10**9, [0.0], False)
        assert run(Path(name), disk, pytest.MonkeyPatch()) == SAVES
        assert 50 < disk.calls < 64
