"""MNIST (and its relatives in the same format): idx files, gzipped or not."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from distgan.data.sources.source import Request, Rows, Source, fingerprint, identity
from distgan.errors import DataError

FOLDERS = (".", "raw", "MNIST/raw", "FashionMNIST/raw")
IMAGES = (
    "train-images-idx3-ubyte", "train-images.idx3-ubyte", "t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte",
)  # fmt: skip


def mnist(request: Request) -> Source:
    """Pictures and labels of a folder of idx files, or of the images file with its labels beside it.

    The training set is taken where both sets are there. Without a labels file there are no classes.
    """
    images_file = find_images(request.input)
    pixels = read_idx(images_file, dimensions=3)
    labels_file = _beside(images_file)
    labels = read_idx(labels_file, dimensions=1) if labels_file else None
    if labels is not None and len(labels) != len(pixels):
        raise DataError(
            f"{labels_file}: {len(labels)} labels for the {len(pixels)} pictures of {images_file.name}; "
            "give the two files of one set"
        )
    classes = () if labels is None else tuple(str(i) for i in range(max(10, int(labels.max(initial=0)) + 1)))
    files = [file for file in (images_file, labels_file) if file]
    return Source(Rows(images_file.name, pixels, labels), classes, fingerprint(identity(files)))


def find_images(path: Path) -> Path:
    """The images file in a folder (or in a folder torchvision made there), or the file given itself."""
    if path.is_file():
        return path
    for name in IMAGES:
        for folder in FOLDERS:
            for file in (path / folder / name, path / folder / f"{name}.gz"):
                if file.is_file():
                    return file
    raise DataError(f"{path}: no {IMAGES[0]} (or .gz) here; give the folder of the idx files, or --download")


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an idx file. Raises `DataError` where the file is damaged or something else."""
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); get the file again") from None
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{path}: not an idx file of {dimensions}-dimensional bytes; get the file again")
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    if len(data) - header != int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path}: {len(data) - header} bytes, its header says {shape}; get the file again")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _beside(images_file: Path) -> Path | None:
    name = images_file.name.replace("images", "labels").replace("idx3", "idx1")
    if name == images_file.name:
        return None
    stem = name.removesuffix(".gz")
    found = [p for p in (images_file.with_name(n) for n in (name, stem, f"{stem}.gz")) if p.is_file()]
    return found[0] if found else None
