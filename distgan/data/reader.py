"""Random access to the pictures of a set of shards, and what becomes of one that cannot be read."""

from __future__ import annotations

import os
import threading
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from distgan.data.decode import Decoder, Scratch, as_pictures
from distgan.data.failures import ShardLost
from distgan.data.index import ShardSet
from distgan.data.scan import Kind, member_at
from distgan.data.shelf import Shelf, name_of
from distgan.data.substitutes import Substitutes
from distgan.errors import PictureError, ReadError

_IF_CACHED = getattr(os, "RWF_NOWAIT", 0)
"""For a read that fails where it would have to wait for a disk."""


class Pictures:
    """Reads and decodes samples by number, from any thread.

    A picture that cannot be read raises `ReadError` naming shard and member; with `substitutes` another takes its
    place.
    """

    def __init__(
        self, shards: ShardSet, decoder: Decoder, shelf: Shelf, substitutes: Substitutes | None = None
    ) -> None:
        self.decoder, self.shelf = decoder, shelf
        self._shards, self._substitutes = shards, substitutes
        self._samples = np.asarray(shards.samples)  # a memory map's own indexing is slow
        self._scratch = Scratch()
        self._checked = np.zeros(shards.count, bool)
        first = self._samples[:1]
        self.are_bare = decoder.are_plain(first["kind"], first["size"])
        """Whether the first picture, and so most likely all, need only be copied."""
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
        return frozenset() if self._substitutes is None else self._substitutes.replaced

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
            label = self._read_or_replace(sample, entry, pictures[row], scratch)
            if label != entry[3]:
                labels[row] = label

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

    def _read_or_replace(
        self, sample: int, entry: tuple, picture: np.ndarray, scratch: tuple[memoryview, Tensor]
    ) -> int:
        """Decodes one sample or another in its place; the label of which it was."""
        if self._substitutes is None or not self._substitutes.has(sample):
            try:
                self._read(sample, entry, picture, scratch)
                return entry[3]
            except (PictureError, ShardLost) as error:
                self._note(sample, error)
        for other in self._substitutes.of(sample):
            entry = self._samples[other].tolist()
            try:
                with self.shelf.borrowed(entry[0]) as descriptor:
                    self._read(other, entry, picture, self._scratch.of(entry[2]), descriptor)
                return entry[3]
            except (PictureError, ShardLost) as error:
                self._note(other, error)
        shard = name_of(self._shards.shards[int(self._samples["shard"][sample])])
        raise ReadError(
            f"{shard}: {self._member(sample)}: cannot be read, and no picture was found to put in its place; look at "
            "the shards with `distgan doctor --data`, and make them again"
        )

    def _read(
        self,
        sample: int,
        entry: tuple,
        picture: np.ndarray,
        scratch: tuple[memoryview, Tensor],
        descriptor: int | None = None,
    ) -> None:
        """Decodes one sample into `picture`, [H, W, C]; `scratch` has room for its bytes. Raises `PictureError` or
        `ShardLost`."""
        number, offset, size, _, crc, kind = entry
        memory, tensor = scratch
        if descriptor is None:
            descriptor = self.shelf.ready.get(number) or self.shelf.descriptor(number)
        shard = self._shards.shards[number]
        try:
            got = os.preadv(descriptor, (memory[:size],), offset)
        except OSError as error:
            raise self.shelf.unreadable(number, error) from None
        if got < size:
            raise self.shelf.lost(number, f"the shard ends at byte {os.fstat(descriptor).st_size} of {shard.bytes}")
        try:
            if not self._checked[sample]:
                self.decoder.check(memory[:size], kind, crc)
                self._checked[sample] = True
            self.decoder.decode(tensor.resize_(size), kind, picture)  # resize_ is twice as fast as a slice
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise PictureError(f"{name_of(shard)}: {self._member(sample, descriptor)}: {reason}") from None

    def _note(self, sample: int, error: PictureError | ShardLost) -> None:
        """Counts a bad picture that may be replaced. Raises `ReadError` where it may not, or is one too many."""
        lost_with = error if isinstance(error, ShardLost) else None

        def named() -> str:
            if lost_with is None:
                return str(error)
            name, reason, _ = lost_with.args
            return f"{name}: {self._member(sample)}: {reason}"

        if self._substitutes is not None:
            self._substitutes.note(sample, lost_with, named)
            return
        way_out = "make the shard again" if lost_with is None else lost_with.args[2]
        kind = PictureError if lost_with is None else ReadError
        raise kind(f"{named()}; {way_out}, or set data.bad_pictures: replace") from None

    def _member(self, sample: int, descriptor: int | None = None) -> str:
        """What a message calls a picture: its member of the tar, or its place where the tar cannot tell any more."""
        number, offset = self._samples[sample].tolist()[:2]
        file = descriptor or self.shelf.ready.get(number) or self._shards.shards[number].place
        with self._lock:  # it moves the descriptor's place in the file
            name = member_at(file, offset)
        shard = self._shards.shards[number]
        return name if name != "?" else f"picture {sample - self._shards.starts[number] + 1} of {shard.samples}"
