"""Random access to the pictures of a set of shards, and what becomes of one that cannot be read."""

from __future__ import annotations

import os
import sys
import threading
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from distgan import randomness
from distgan.data.decode import Decoder, Scratch, as_pictures
from distgan.data.index import ShardSet
from distgan.data.scan import Kind, member_at
from distgan.data.shelf import Shelf, name_of
from distgan.errors import PictureError, ReadError

_IF_CACHED = getattr(os, "RWF_NOWAIT", 0)
"""For a read that fails where it would have to wait for a disk."""
_ATTEMPTS = 64  # draws of a substitute before its shard is taken for worthless


class Pictures:
    """Reads and decodes samples by number, from any thread.

    A picture that cannot be read raises `PictureError` naming shard and member; or, where `bad` is replace, another of
    the same shard takes its place: which one is a function of the sample alone, so that it is the same for every number
    of processes. `allowed`, bool [samples], says which may take a place. More than `limit` replaced pictures raise
    `ReadError`. A shard that is gone, shorter or another than it was when indexed is never replaced.
    """

    def __init__(
        self,
        shards: ShardSet,
        decoder: Decoder,
        shelf: Shelf,
        *,
        bad: str = "fail",
        limit: int = 100,
        allowed: np.ndarray | None = None,
    ) -> None:
        self.decoder, self.shelf = decoder, shelf
        self._shards, self._bad, self._limit, self._allowed = shards, bad, limit, allowed
        self._samples = np.asarray(shards.samples)  # a memory map's own indexing is slow
        self._scratch = Scratch()
        self._checked = np.zeros(shards.count, bool)
        first = self._samples[:1]
        self.are_bare = decoder.are_plain(first["kind"], first["size"])
        """Whether the first picture, and so most likely all, need only be copied."""
        self._replaced: dict[int, str] = {}
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Samples of the set."""
        return self._shards.count

    @property
    def shard_of(self) -> np.ndarray:
        """The shard of each sample."""
        return self._shards.shard_of

    @property
    def replaced(self) -> frozenset[str]:
        """The pictures that this process has found bad and replaced, by number."""
        with self._lock:
            return frozenset(map(str, self._replaced))

    def read_at_once(self, samples: np.ndarray, rows: Tensor, labels: Tensor) -> bool:
        """`read` where it is a matter of microseconds: bare pixels that have been checked before, in open shards whose
        pages the system holds in memory. False, with nothing said of `rows`, where it is not."""
        if not (self.are_bare and self._checked[samples].all()):
            return False
        table = self._samples[samples]
        if not self.decoder.are_plain(table["kind"], table["size"]):
            return False
        memory, length, start = memoryview(rows.numpy().reshape(-1)), self.decoder.bytes, 0
        preadv, descriptors = os.preadv, self.shelf.ready
        try:
            for shard, offset in zip(table["shard"].tolist(), table["offset"].tolist(), strict=True):
                if preadv(descriptors[shard], (memory[start : start + length],), offset, _IF_CACHED) != length:
                    return False
                start += length
        except (KeyError, OSError):  # a shard that is not open, pages on the disk, a file system that cannot tell
            return False
        labels.copy_(torch.from_numpy(table["label"].astype(np.int64)))
        return True

    def read(self, samples: np.ndarray, rows: Tensor, labels: Tensor) -> None:
        """Decodes samples, int64 [n], into `rows`, uint8 [n, H * W * C] and contiguous; fills `labels`, int64 [n]."""
        table = self._samples[samples]
        labels.copy_(torch.from_numpy(table["label"].astype(np.int64)))
        if self._checked[samples].all() and (table["kind"] == Kind.ENCODED).all() and self._read_together(table, rows):
            return
        pictures = rows.numpy().reshape(len(rows), *self.decoder.shape)
        scratch = self._scratch.of(int(table["size"].max()))
        for row, (sample, entry) in enumerate(zip(samples.tolist(), table.tolist(), strict=True)):
            try:
                self._read(sample, entry, pictures[row], scratch)
            except PictureError as error:
                labels[row] = self._replace(sample, error, pictures[row])

    def _read_together(self, table: np.ndarray, rows: Tensor) -> bool:
        """Reads files that have been checked before one after the other, and decodes them in one call. False where
        something is not as easy as that."""
        sizes = table["size"].tolist()
        starts = list(accumulate(sizes, initial=0))
        memory, tensor = self._scratch.of(starts[-1])
        preadv, descriptors = os.preadv, self.shelf.ready
        try:
            for shard, offset, start, size in zip(
                table["shard"].tolist(), table["offset"].tolist(), starts, sizes, strict=False
            ):
                if preadv(descriptors[shard], (memory[start : start + size],), offset) != size:
                    return False
        except (KeyError, OSError):
            return False
        files = tensor.resize_(starts[-1])
        return self.decoder.decode_all(files, starts[:-1], sizes, as_pictures(rows, self.decoder.shape))

    def _read(self, sample: int, entry: tuple, picture: np.ndarray, scratch: tuple[memoryview, Tensor]) -> None:
        """Decodes one sample into `picture`, [H, W, C]; `scratch` has room for its bytes."""
        shard, offset, size, _, crc, kind = entry
        memory, tensor = scratch
        descriptor = self.shelf.ready.get(shard) or self.shelf.descriptor(shard)
        try:
            got = os.preadv(descriptor, (memory[:size],), offset)
        except OSError as error:
            raise self._shard_error(shard, f"cannot be read: {error.strerror}") from None
        if got < size:
            raise self._shard_error(shard, f"ends {size - got} bytes before the picture at byte {offset} does")
        try:
            if not self._checked[sample]:
                self.decoder.check(memory[:size], kind, crc)
                self._checked[sample] = True
            self.decoder.decode(tensor.resize_(size), kind, picture)  # resize_ is twice as fast as a slice
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            with self._lock:  # it moves the descriptor's place in the file
                name = member_at(descriptor, offset)
            raise PictureError(f"{name_of(self._shards.shards[shard])}: {name}: {reason}") from None

    def _replace(self, sample: int, error: PictureError, picture: np.ndarray) -> int:
        """Another picture of the same shard in its place; returns the label of that one."""
        if self._bad != "replace":
            raise PictureError(f"{error}; make the shard again, or set data.bad_pictures: replace") from None
        self._note(sample, error)
        shard = int(self._samples["shard"][sample])
        start, stop = (int(edge) for edge in self._shards.starts[shard : shard + 2])
        for attempt in range(_ATTEMPTS):
            other = start + randomness.key("substitute", sample, attempt) % (stop - start)
            if other == sample or (self._allowed is not None and not self._allowed[other]):
                continue
            entry = self._samples[other].tolist()
            try:
                self._read(other, entry, picture, self._scratch.of(entry[2]))
            except PictureError as again:
                self._note(other, again)
                continue
            return entry[3]
        raise PictureError(f"{error}; and its shard has no picture to put in its place; make the shard again")

    def _note(self, sample: int, error: PictureError) -> None:
        """Tells of a bad picture once. Raises `ReadError` when there are too many."""
        with self._lock:
            if sample in self._replaced:
                return
            self._replaced[sample] = str(error)
            found = len(self._replaced)
        if found > self._limit:
            raise ReadError(
                f"{error}; with it {found} pictures are bad, more than data.bad_limit {self._limit}; look at the "
                "shards with `distgan doctor --data`, and make them again"
            )
        print(f"distgan: {error}; replaced by another of its shard", file=sys.stderr, flush=True)

    def _shard_error(self, shard: int, reason: str) -> ReadError:
        return ReadError(f"{name_of(self._shards.shards[shard])}: the shard {reason}; copy it again")
