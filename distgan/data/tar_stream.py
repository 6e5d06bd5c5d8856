"""Tars that are read once from front to back, packed or plain, from a file, a URL or a command; without end if need be.

webdataset's own opener runs curl in a shell, and its tar reader takes a damaged header, or a file that is cut there,
for the end of the archive. Imports no torch.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import threading
import weakref
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from distgan.data.failures import Stopped
from distgan.data.remote import download
from distgan.data.scan import LABELS, LARGEST_FILE, MEMBER, PICTURES, printable
from distgan.data.urls import is_remote
from distgan.errors import DataError

UNREADABLE = (tarfile.TarError, DataError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
"""What `read_members` raises where a tar cannot be had, is damaged, or ends too early."""
_PIECE = 1 << 18  # bytes of one read
_HELD = 16 << 20  # bytes of a download that wait to be read


def read_members(place: str, allow_shell: bool) -> Iterator[tuple[str, str, bytes]]:
    """Key, extension and bytes of the pictures and labels in a tar; of equal names in a sample the first.

    `place` is a path, a URL, or where `allow_shell` a `pipe:`. Raises one of `UNREADABLE`."""
    with _opened(place, allow_shell) as stream, _archive(stream) as archive:
        current, seen = None, set()
        while (member := archive.next()) is not None:
            archive.members.clear()  # it keeps every header
            match = MEMBER.fullmatch(member.name)
            extension = match[2].lower() if match else ""
            if extension not in (*PICTURES, *LABELS) or not member.isreg() or member.issparse():
                continue
            if match[1] != current:
                current, seen = match[1], set()
            if member.size > LARGEST_FILE:
                raise ValueError(f"{printable(member.name)}: {member.size} bytes are no picture")
            if extension not in seen:
                seen.add(extension)
                yield current, extension, archive.extractfile(member).read()
        while rest := archive.fileobj.read(_PIECE):
            if rest.count(0) != len(rest):
                raise ValueError(f"damaged at byte {archive.offset}: data that no header announces")


def end_downloads() -> None:
    """Ends all downloads of this process, and the commands that they run."""
    for fetching in list(_downloads):
        fetching.close()


class _Header(tarfile.TarInfo):
    """tarfile ends an archive at a header that is damaged or not there; only a block of zeros may."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            if archive.offset == 0:
                raise tarfile.ReadError(f"not a tar, plain or packed by gzip, bzip2 or xz ({error})") from None
            raise tarfile.ReadError(f"damaged or cut at byte {archive.offset} ({error})") from None


def _archive(stream: io.BufferedReader) -> tarfile.TarFile:
    return tarfile.open(fileobj=_unpacked(stream), mode="r|", tarinfo=_Header, bufsize=_PIECE)


def _unpacked(stream: io.BufferedReader) -> BinaryIO:
    """What a file holds, by its first bytes. Not left to tarfile, which checks no sum and ends at gzip's first part."""
    head = stream.peek(6)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    return lzma.LZMAFile(stream) if head.startswith(b"\xfd7zXZ\0") else stream


def _opened(place: str, allow_shell: bool) -> io.BufferedReader:
    if is_remote(place):
        return io.BufferedReader(_Download(place, allow_shell), _PIECE)
    return open(place.removeprefix("file://"), "rb", buffering=_PIECE)


class _Download(io.RawIOBase):
    """What is at a URL, or what a command prints, while a thread fetches it; a broken connection goes on by itself."""

    def __init__(self, url: str, allow_shell: bool) -> None:
        self._inlet = _Inlet()
        self._thread = threading.Thread(target=self._fetch, args=(url, allow_shell), daemon=True)
        _downloads.add(self)
        self._thread.start()

    def _fetch(self, url: str, allow_shell: bool) -> None:
        error = None
        try:
            download(url, self._inlet, size=None, allow_shell=allow_shell, stop=self._inlet.stop)
        except BaseException as trouble:  # raised by the reader
            error = trouble
        self._inlet.end(error)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        return self._inlet.take(buffer)

    def close(self) -> None:
        self._inlet.stop.set()
        self._inlet.end(None)
        self._thread.join(10)
        super().close()


class _Inlet:
    """A file for `download` to write: holds the bytes until they are taken, and lets the writer wait meanwhile."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._bytes, self._total = bytearray(), 0
        self._ended, self._error = False, None
        self._change = threading.Condition()

    def write(self, data: bytes | memoryview) -> int:
        with self._change:
            self._change.wait_for(lambda: len(self._bytes) < _HELD or self.stop.is_set())
            if self.stop.is_set():
                raise Stopped
            self._bytes += data
            self._total += len(data)
            self._change.notify_all()
        return len(data)

    def tell(self) -> int:
        return self._total

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._total if whence == os.SEEK_END else offset

    def truncate(self, size: int) -> None:
        """A download begins anew: too late when something has been read."""
        if self._total:
            raise EOFError(f"it broke off after {self._total} bytes; run the command by hand to see why")

    def end(self, error: BaseException | None) -> None:
        with self._change:
            self._ended, self._error = True, self._error or error
            self._change.notify_all()

    def take(self, buffer: memoryview) -> int:
        with self._change:
            # Not less than a tar's header, so that the first bytes tell what it is.
            self._change.wait_for(lambda: len(self._bytes) >= tarfile.BLOCKSIZE or self._ended)
            count = min(len(buffer), len(self._bytes))
            buffer[:count] = self._bytes[:count]
            del self._bytes[:count]
            self._change.notify_all()
            if not count and self._error is not None:
                raise self._error
        return count


_downloads: weakref.WeakSet[_Download] = weakref.WeakSet()
