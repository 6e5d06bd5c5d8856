"""Quick, Draw! bitmaps: each .npy or .npz file holds the drawings of one class, white on black."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from distgan.data.sources.source import Joined, Request, Rows, Source, fingerprint, identity
from distgan.errors import DataError

PREFIX = "full_numpy_bitmap_"  # of the files in Google's bucket
SIDE = 28


def quickdraw(request: Request) -> Source:
    """The drawings of one file or of a folder of files; the class of a file is its name."""
    path = request.input
    files = [path] if path.is_file() else _array_files(path)
    if not files:
        raise DataError(f"{path}: no .npy or .npz files here; give a file or a folder of Quick, Draw! bitmaps")
    classes = tuple(file.stem.removeprefix(PREFIX) for file in files)
    if len(set(classes)) != len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise DataError(f"{path}: two files for the class {twice!r}; keep one of them")
    rows = [_rows(file, label) for label, file in enumerate(files)]
    return Source(Joined(rows), classes, fingerprint(identity(files)))


def _array_files(path: Path) -> list[Path]:
    return sorted(f for f in path.iterdir() if f.suffix in (".npy", ".npz") and not f.name.startswith("."))


def _rows(file: Path, label: int) -> Rows:
    array = _load(file)
    if array.dtype != np.uint8 or array.ndim < 2 or array[:1].size != SIDE * SIDE * min(len(array), 1):
        raise DataError(
            f"{file}: holds {array.dtype} {list(array.shape)} where uint8 [N, 28, 28] or [N, 784] is wanted; "
            "give the numpy bitmaps"
        )
    return Rows(file.name, array.reshape(-1, SIDE, SIDE), np.full(len(array), label))


def _load(file: Path) -> np.ndarray:
    """The array of a file; a .npy is mapped, not read, since the full set is tens of gigabytes."""
    try:
        loaded = np.load(file, mmap_mode="r" if file.suffix == ".npy" else None, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            if len(loaded.files) != 1:
                raise ValueError(f"{len(loaded.files)} arrays where one is wanted: {', '.join(loaded.files)}")
            return loaded[loaded.files[0]]
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file}: not a file of numpy bitmaps ({error}); get the file again") from None
