"""What is read: the pictures of each case, as files of their own, from which each contender makes what it reads."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from distgan.data import shapes

LABELS = 10
"""Labels of the made-up kind: they are read and delivered, and mean nothing."""

SHARDS = 16


@dataclass(frozen=True)
class Source:
    """Pictures that cases share. Without `archive` as many as `drawn` are drawn in their place, of `size`."""

    archive: str
    suffix: str
    make: Callable[[bytes], Iterator[bytes]]
    """From a picture of the archive to those that are read."""
    size: tuple[int, int]
    drawn: int
    copies: int = 1
    """An epoch of a few hundred pictures would time the beginnings and ends of epochs."""


@dataclass(frozen=True)
class Case:
    """Pictures of a source, delivered square with `side` pixels; `resize` where they are of another size."""

    title: str
    source: str
    side: int
    resize: bool = False

    @property
    def suffix(self) -> str:
        return SOURCES[self.source].suffix

    @property
    def raw(self) -> bool:
        return self.suffix == "npy"


@dataclass(frozen=True)
class Prepared:
    """A case whose pictures lie in `root`/files/LABEL/NUMBER.SUFFIX."""

    case: Case
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "files"

    def pictures(self) -> Iterator[tuple[int, Path]]:
        """Label and file of each picture, in order of their numbers."""
        for path in sorted(self.folder.glob("*/*"), key=lambda path: path.name):
            yield int(path.parent.name), path

    def made(self, name: str, write: Callable[[Path], None]) -> Path:
        """The folder `name`, written once by `write`, in the page cache."""
        return warmed(made(self.root / name, write))

    def tars(self) -> Path:
        """The pictures as webdataset shards."""
        pictures = [(label, path.read_bytes()) for label, path in self.pictures()]
        return self.made("tars", lambda folder: write_tars(folder, pictures, self.case.suffix, SHARDS))


def prepare(case: Case, data: Path, work: Path) -> Prepared:
    """The pictures of a case in `work`, from the archives in `data` or drawn."""
    source = SOURCES[case.source]
    drawn = not (data / source.archive).is_file()
    prepared = Prepared(case, work / (case.source + "-drawn" * drawn))

    def write(folder: Path) -> None:
        for label in range(LABELS):
            (folder / str(label)).mkdir()
        pictures = [made for each in _originals(source, data, drawn) for made in source.make(each)]
        for number, picture in enumerate(pictures * source.copies):
            (folder / str(number % LABELS) / f"{number:08d}.{source.suffix}").write_bytes(picture)

    warmed(made(prepared.folder, write))
    return prepared


def write_tars(folder: Path, pictures: Sequence[tuple[int, bytes]], suffix: str, shards: int) -> None:
    """Labels and pictures as so many shards of webdataset's."""
    from webdataset import TarWriter

    for shard in range(shards):
        with TarWriter(str(folder / f"pictures-{shard:05d}.tar"), encoder=False, mtime=0) as tar:
            for number in range(shard * len(pictures) // shards, (shard + 1) * len(pictures) // shards):
                label, picture = pictures[number]
                tar.write({"__key__": f"{number:08d}", suffix: picture, "cls": str(label).encode()})


def made(folder: Path, write: Callable[[Path], None]) -> Path:
    """A folder that `write` fills, whole or not at all."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write(part)
        part.rename(folder)
    return folder


def warmed(folder: Path) -> Path:
    """The same folder, its files in the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()
    return folder


def _originals(source: Source, data: Path, drawn: bool) -> Iterator[bytes]:
    if drawn:
        for index in range(source.drawn):
            yield drawn_picture(index, source.size, "JPEG" if source.suffix == "jpg" else "PNG")
        return
    with zipfile.ZipFile(data / source.archive) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield archive.read(member)


def drawn_picture(index: int, size: tuple[int, int], form: str) -> bytes:
    """A picture of the data set `shapes`, cut to width and height `size`."""
    return _encoded(shapes.draw(0, index, max(size)).crop((0, 0, *size)), form)


def _as_it_is(picture: bytes) -> Iterator[bytes]:
    yield picture


def _crops(picture: bytes) -> Iterator[bytes]:
    """JPEGs of 256 pixels: the centre, and nine places around it."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    side = min(image.size) * 7 // 8
    left, top = ((edge - side) / 2 for edge in image.size)
    reach = min(image.size) / 16
    places = [(0, 0), *((x, y) for x in (-1, 0, 1) for y in (-1, -0.5, 1))]
    for x, y in places:
        box = (left + x * reach, top + y * reach, left + x * reach + side, top + y * reach + side)
        crop = image.resize((256, 256), Image.Resampling.LANCZOS, box=box)
        yield _encoded(crop, "JPEG", quality=90)


def _raw(side: int) -> Callable[[bytes], Iterator[bytes]]:
    """Arrays of uint8 [side, side, 3], in numpy's format."""

    def make(picture: bytes) -> Iterator[bytes]:
        image = Image.open(io.BytesIO(picture)).convert("RGB")
        edge = min(image.size)
        left, top = ((length - edge) // 2 for length in image.size)
        image = image.crop((left, top, left + edge, top + edge)).resize((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(image))
        yield buffer.getvalue()

    return make


def _encoded(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


_CIFAR, _CELEBA, _HIGHRES = "cifar10_8k.zip", "celeba_original_558.zip", "highres_41.zip"
SOURCES = {
    "cifar-png": Source(_CIFAR, "png", _as_it_is, (32, 32), 8000),
    "celeba-jpeg": Source(_CELEBA, "jpg", _as_it_is, (178, 218), 558, copies=8),
    "highres-jpeg": Source(_HIGHRES, "jpg", _crops, (512, 512), 41, copies=8),
    "celeba-raw64": Source(_CELEBA, "npy", _raw(64), (178, 218), 558, copies=8),
    "cifar-raw32": Source(_CIFAR, "npy", _raw(32), (32, 32), 8000),
}
CASES = {
    "png32": Case("CIFAR PNG 32", "cifar-png", 32),
    "jpeg64": Case("CelebA JPEG 178×218 → 64", "celeba-jpeg", 64, resize=True),
    "jpeg128": Case("CelebA JPEG 178×218 → 128", "celeba-jpeg", 128, resize=True),
    "jpeg256": Case("JPEG 256", "highres-jpeg", 256),
    "raw64": Case("raw uint8 64", "celeba-raw64", 64),
    "raw32": Case("raw uint8 32", "cifar-raw32", 32),
}
