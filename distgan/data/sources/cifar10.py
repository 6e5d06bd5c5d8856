"""CIFAR-10 in each form it is found in: python batches, binary batches, their archives, class folders."""

from __future__ import annotations

import io
import pickle
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distgan.data.sources.folders import open_pictures
from distgan.data.sources.source import Joined, Request, Rows, Source, fingerprint, identity
from distgan.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCH = re.compile(r"data_batch_\d+(\.bin)?")
FOLDERS = (".", "cifar-10-batches-py", "cifar-10-batches-bin")
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
RECORD = 1 + 3 * 32 * 32  # bytes of a binary record: the label, then the red, green and blue planes
LARGEST_BATCH = 256 * 2**20


def cifar10(request: Request) -> Source:
    """The training set: batches in a folder or an archive, or class folders in a folder or a zip."""
    path = request.input
    if path.is_dir():
        files = _batch_files(path)
        if files:
            return _from_batches(((f.name, f.read_bytes()) for f in files), files)
        archives = [path / name for name in ARCHIVES if (path / name).is_file()]
        return _from_archive(archives[0]) if archives else _from_pictures(path)
    if zipfile.is_zipfile(path):
        return _from_pictures(path)
    if BATCH.fullmatch(path.name):
        return _from_batches([(path.name, path.read_bytes())], [path])
    return _from_archive(path)


def read_batch(name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (uint8 [N, 32, 32, 3]) and labels (int64 [N]) of one batch file, python or binary."""
    try:
        labels, planes = _read_binary(data) if name.endswith(".bin") else _read_pickle(data)
        planes = planes.reshape(-1, 3, 32, 32)
        if len(labels) != len(planes) or (len(labels) and not 0 <= labels.min() <= labels.max() <= 9):
            raise ValueError("labels that do not fit its pictures")
    except (ValueError, KeyError, TypeError, IndexError, EOFError, AttributeError, MemoryError) as error:
        raise DataError(f"{name}: not a batch of CIFAR-10 ({error}); get the file again") from None
    except pickle.UnpicklingError as error:
        raise DataError(f"{name}: not a batch of CIFAR-10 ({error}); do not use this file") from None
    return planes.transpose(0, 2, 3, 1), labels


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and plain containers. Anything else, which could run code, is refused."""

    _rebuild = np.empty(0).__reduce__()[0]
    _from_buffer = np.empty(0).__reduce_ex__(5)[0]
    _allowed = {
        ("multiarray", "_reconstruct"): _rebuild,
        ("numeric", "_frombuffer"): _from_buffer,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, encoding="latin1": text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> object:
        # The module moved between versions: numpy.core.multiarray and numpy._core.multiarray are one.
        inner = module.rpartition(".")[2] if module.startswith(("numpy.core.", "numpy._core.")) else module
        if (inner, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs")
        return self._allowed[inner, name]


def _read_pickle(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    batch = ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    batch = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
    planes = np.asarray(batch["data"])
    if planes.dtype != np.uint8:
        raise ValueError(f"pixels of type {planes.dtype}, not uint8")
    return np.asarray(batch["labels"], np.int64), planes


def _read_binary(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    if not data or len(data) % RECORD:
        raise ValueError(f"{len(data)} bytes are not a whole number of {RECORD}-byte records")
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    return records[:, 0].astype(np.int64), records[:, 1:]


def _from_batches(batches, files: list[Path]) -> Source:
    rows = [Rows(name, *read_batch(name, data)) for name, data in batches]
    if not rows:
        raise DataError(f"{files[0]}: no data_batch_1 ... in it; get the archive again")
    return Source(Joined(rows), CLASSES, fingerprint(identity(files)))


def _from_pictures(path: Path) -> Source:
    train = path / "train"  # beside "test", in the copies that keep both
    return open_pictures(train if train.is_dir() else path, labelled=True)


def _from_archive(path: Path) -> Source:
    return _from_batches(_archive_batches(path), [path])


def _archive_batches(path: Path) -> Iterator[tuple[str, bytes]]:
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if member.isreg() and BATCH.fullmatch(name) and member.size <= LARGEST_BATCH:
                    found[name] = archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{path}: not a sound CIFAR-10 archive ({error}); give a folder of batches, a folder or zip of "
            f"class folders, or {ARCHIVES[0]}"
        ) from None
    return iter(sorted(found.items()))


def _batch_files(path: Path) -> list[Path]:
    for folder in FOLDERS:
        if (path / folder).is_dir():
            files = sorted(f for f in (path / folder).iterdir() if BATCH.fullmatch(f.name))
            if files:
                return files
    return []
