"""Pictures in a folder or a zip: the sources `images` and `celeba`, and CIFAR-10 as class folders."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from distgan.data.pictures import FilePicture, Item, Picture, ZipPicture, is_picture
from distgan.data.sources.source import Request, Source, fingerprint, identity
from distgan.errors import DataError

CELEBA_FOLDER = "img_align_celeba"


def images(request: Request) -> Source:
    """Any folder or zip of pictures. Two class folders or more become labels; otherwise there are none."""
    return open_pictures(request.input, labelled=True)


def celeba(request: Request) -> Source:
    """The folder `img_align_celeba`, a folder that holds it (or its zip), or the zip. Never labelled."""
    path = request.input
    places = [path / CELEBA_FOLDER, path / "celeba" / CELEBA_FOLDER]
    archives = [path / f"{CELEBA_FOLDER}.zip", path / "celeba" / f"{CELEBA_FOLDER}.zip"]
    found = [p for p in places if p.is_dir()] + [p for p in archives if p.is_file()]
    return open_pictures(found[0] if found else path, labelled=False)


def open_pictures(path: Path, labelled: bool) -> Source:
    """The pictures under a folder or in a zip, in order of their names.

    Raises `DataError` where there are none, or where the file is no zip.
    """
    names, lines = _list_folder(path) if path.is_dir() else _list_zip(path)
    if not names:
        raise DataError(f"{path}: no pictures found; give a folder or a zip that holds .png, .jpg, .webp ...")
    classes, labels = class_folders(names) if labelled else ((), [-1] * len(names))
    place = _in_folder if path.is_dir() else ZipPicture
    items = [Item(name, place(str(path), name), label) for name, label in zip(names, labels, strict=True)]
    return Source(items, classes, fingerprint(lines))


def class_folders(names: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """Classes from the first folder of each path, once the folders common to all are taken away.

    Without at least two folders, or with pictures beside them, there are no classes and labels are -1.
    """
    parts = [name.split("/") for name in names]
    depth = 0
    while all(len(p) > depth + 1 for p in parts) and len({p[depth] for p in parts}) == 1:
        depth += 1
    if any(len(p) == depth + 1 for p in parts):
        return (), [-1] * len(names)
    classes = tuple(sorted({p[depth] for p in parts}))
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number[p[depth]] for p in parts]


def _in_folder(root: str, name: str) -> Picture:
    return FilePicture(os.path.join(root, name))


def _list_folder(root: Path) -> tuple[list[str], list[str]]:
    names, seen = [], set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up would be walked for ever
            below.clear()
            continue
        seen.add(real)
        relative = Path(folder).relative_to(root)
        names += [(relative / file).as_posix() for file in files]
    names = sorted(name for name in names if is_picture(name) and (root / name).is_file())
    return names, identity((root / name for name in names), root)


def _list_zip(path: Path) -> tuple[list[str], list[str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and is_picture(m.filename)]
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: neither a folder nor a sound zip ({error}); give one of these") from None
    # A name may be in a zip twice; the last entry is the one that is read.
    latest = {m.filename: m for m in members}
    names = sorted(latest)
    return names, [f"{name} {latest[name].file_size} {latest[name].CRC}" for name in names]
