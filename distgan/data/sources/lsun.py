"""LSUN as it is distributed: LMDB databases, one a category, whose values are picture files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from distgan.data.pictures import FORMATS, Item
from distgan.data.sources.source import Joined, Request, Source, fingerprint, identity
from distgan.errors import ConfigError, DataError

DATABASE = "data.mdb"
SUFFIX = "_lmdb"


@dataclass(frozen=True, slots=True)
class LmdbPicture:
    """A picture that is a value of a database, which is read where it lies."""

    folder: str
    key: bytes

    def open(self) -> Image.Image:
        with _opened(self.folder).begin() as transaction:
            data = transaction.get(self.key)
        if data is None:
            raise ValueError("it is no longer in the database")
        return Image.open(io.BytesIO(data), formats=FORMATS)


class Entries(Sequence):
    """The values of one database as items, in order of their keys; each is made when it is asked for."""

    def __init__(self, folder: Path, keys: list[bytes], label: int) -> None:
        self.folder, self.keys, self.label = folder, keys, label

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        key = self.keys[index]
        name = f"{self.folder.name}/{key.decode('ascii', 'backslashreplace')}"
        return Item(name, LmdbPicture(str(self.folder), key), self.label)


def lsun(request: Request) -> Source:
    """A database's folder, such as `bedroom_train_lmdb`; or a folder of several, each of which is a class.

    Raises `ConfigError` where the library lmdb is not installed, `DataError` where there is no sound database.
    """
    path = request.input.parent if request.input.name == DATABASE else request.input
    found = [path] if (path / DATABASE).is_file() else sorted(file.parent for file in path.glob(f"*/{DATABASE}"))
    if not found:
        raise DataError(f"{path}: no {DATABASE} in it or in a folder below; unpack the zips of LSUN there first")
    several = len(found) > 1
    classes = tuple(folder.name.removesuffix(SUFFIX) for folder in found) if several else ()
    parts = [Entries(folder, _keys(folder), number if several else -1) for number, folder in enumerate(found)]
    lines = [line for folder in found for line in (folder.name, *identity([folder / DATABASE]))]
    return Source(Joined(parts), classes, fingerprint(lines))


def _keys(folder: Path) -> list[bytes]:
    environment = _opened(str(folder))
    pages = environment.info()["last_pgno"] + 1
    if (folder / DATABASE).stat().st_size < pages * environment.stat()["psize"]:
        raise DataError(f"{folder / DATABASE}: truncated; copy or unpack it again")  # reading it would end the process
    with environment.begin() as transaction:
        return list(transaction.cursor().iternext(keys=True, values=False))


def _library():
    """The library. Raises `ConfigError` where it is not installed."""
    try:
        import lmdb
    except ImportError:
        raise ConfigError("lsun: its databases are read by the library lmdb: pip install lmdb") from None
    return lmdb


@lru_cache(maxsize=16)
def _opened(folder: str):
    """An environment of lmdb, to read from. In a process a database may be opened once only."""
    lmdb = _library()
    try:
        return lmdb.open(folder, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise DataError(f"{folder}: not a sound LMDB database ({error}); copy or unpack it again") from None
