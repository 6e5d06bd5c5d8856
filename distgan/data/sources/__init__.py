"""Where pictures come from: one line a source in `SOURCES`, one file a format.

To add a source: write a function from a `Request` to a `Source` and give it a line here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from distgan.data.sources.cifar10 import cifar10
from distgan.data.sources.download import DATASETS, download
from distgan.data.sources.drawn import shapes
from distgan.data.sources.folders import celeba, images
from distgan.data.sources.lsun import lsun
from distgan.data.sources.mnist import mnist
from distgan.data.sources.quickdraw import quickdraw
from distgan.data.sources.source import Request, Source
from distgan.errors import ConfigError, DataError


class Format(NamedTuple):
    """A source's reader and what it takes when nothing is said. Without a resolution one must be given."""

    open: Callable[[Request], Source]
    resolution: int | None
    channels: int
    needs_input: bool = True
    pads_to: int | None = None  # at this resolution smaller pictures are framed in black, not enlarged


SOURCES = {
    "mnist": Format(mnist, 32, 1, pads_to=32),
    "cifar10": Format(cifar10, 32, 3),
    "celeba": Format(celeba, 64, 3),
    "lsun": Format(lsun, 256, 3),
    "quickdraw": Format(quickdraw, 28, 1),
    "images": Format(images, None, 3),
    "shapes": Format(shapes, 32, 3, needs_input=False),
}


def open_source(name: str, request: Request, fetch: bool = False) -> Source:
    """The pictures of source `name`. With `fetch` they are downloaded into the input folder first.

    Raises `ConfigError` where the input is missing or superfluous, `DataError` where it cannot be read.
    """
    form = SOURCES[name]
    if form.needs_input != (request.input is not None):
        need = "needs an INPUT" if form.needs_input else "is drawn by the program and takes no INPUT"
        raise ConfigError(f"{name}: the source {need}")
    if fetch:
        _download(name, request.input)
    if request.input is not None and not request.input.exists():
        raise DataError(f"{request.input}: no such file or folder")
    try:
        return form.open(request)
    except OSError as error:
        name, reason = error.filename or request.input, error.strerror or error
        raise DataError(f"{name}: cannot be read ({reason}); look at the file and its rights") from None


def _download(name: str, folder: Path) -> None:
    if name not in DATASETS:
        raise ConfigError(f"--download: {name} cannot be downloaded; possible for {', '.join(DATASETS)}")
    download(name, folder)


__all__ = ["SOURCES", "Format", "Request", "Source", "open_source"]
