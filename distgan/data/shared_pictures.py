"""A whole set decoded, in memory that the processes of a machine share.

Each picture is decoded by the first process that needs it and is there for all from then on. The memory has no name in
any file system: it is a descriptor that other processes open through /proc, so that it is gone when the last of them
is, however they end.
"""

from __future__ import annotations

import mmap
import os

import numpy as np
import torch
from torch import Tensor

from distgan.data.reader import Pictures
from distgan.errors import ReadError

_PRESENT = 2  # is added to a label, of which -1 is the least, so that 0, as the memory is at first, is none
_PAGE = 4096


class SharedPictures:
    """Reads samples from shared memory, and through `pictures` those that are not there yet."""

    def __init__(self, pictures: Pictures, count: int, address: str | None = None) -> None:
        """Makes room for `count` pictures, or takes part in the room at `address`. Raises ReadError where it cannot."""
        self._pictures, self._length = pictures, pictures.decoder.bytes
        head = -(-count * 4 // _PAGE) * _PAGE
        size = head + count * self._length
        self._descriptor, memory = _room(size) if address is None else _shared_room(address, size)
        self.address = f"/proc/{os.getpid()}/fd/{self._descriptor}" if self._descriptor is not None else None
        self._labels = np.frombuffer(memory, np.int32, count)
        self._rows = np.frombuffer(memory, np.uint8, count * self._length, head).reshape(count, self._length)

    def read_at_once(self, samples: np.ndarray, rows: Tensor, labels: Tensor) -> bool:
        """As `Pictures.read_at_once`: whether all are there."""
        kept = self._labels[samples]
        if not kept.all():
            return False
        self._gather(samples, rows)
        labels.copy_(torch.from_numpy(kept.astype(np.int64) - _PRESENT))
        return True

    def read(self, samples: np.ndarray, rows: Tensor, labels: Tensor) -> None:
        """As `Pictures.read`."""
        absent = np.unique(samples[self._labels[samples] == 0])
        if len(absent):
            fresh = torch.empty(len(absent), self._length, dtype=torch.uint8)
            found = torch.empty(len(absent), dtype=torch.int64)
            self._pictures.read(absent, fresh, found)
            self._rows[absent] = fresh.numpy()
            self._labels[absent] = found.numpy() + _PRESENT  # last: who sees the label sees the picture
        self._gather(samples, rows)
        labels.copy_(torch.from_numpy(self._labels[samples].astype(np.int64) - _PRESENT))

    def close(self) -> None:
        """Gives this process's part of the memory back."""
        del self._labels, self._rows
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _gather(self, samples: np.ndarray, rows: Tensor) -> None:
        np.take(self._rows, samples, axis=0, out=rows.numpy(), mode="clip")  # torch's would start threads of its own


def needed(count: int, length: int) -> int:
    """Bytes of memory for `count` pictures of `length` bytes."""
    return count * (length + 4)


def _room(size: int) -> tuple[int | None, mmap.mmap]:
    if not hasattr(os, "memfd_create"):  # not Linux: memory of this process alone
        return None, mmap.mmap(-1, size)
    descriptor = os.memfd_create("distgan-pictures")
    os.ftruncate(descriptor, size)
    return descriptor, mmap.mmap(descriptor, size)


def _shared_room(address: str, size: int) -> tuple[int, mmap.mmap]:
    try:
        descriptor = os.open(address, os.O_RDWR)
        return descriptor, mmap.mmap(descriptor, size)
    except (OSError, ValueError) as error:
        raise ReadError(
            f"the memory shared by the first process of this machine cannot be opened by another ({error})"
        ) from None
