"""Where pictures go: a grid in one file, a file each in a folder, or a tar that can be trained on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from torch import Tensor

from distgan.data.encodings import ENCODINGS
from distgan.data.pictures import Rendered
from distgan.data.shards import ShardWriter
from distgan.errors import ConfigError, UserError
from distgan.files import new_file
from distgan.sampling.drawing import Artist, Wanted
from distgan.tracking import pictures

_LARGEST = 178 * 10**6
"""Pixels of a picture that viewers open; PIL takes larger ones for an attack."""


def write_grid(artist: Artist, wanted: Sequence[Wanted], per_row: int, resolution: int, out: Path) -> None:
    """All pictures in one PNG, `per_row` side by side. Raises ConfigError where that would be too large to look at."""
    size = pictures.sheet_pixels(len(wanted), per_row, resolution)
    if size > _LARGEST:
        raise ConfigError(
            f"a grid of {len(wanted)} pictures would have {size // 10**6} megapixels; take fewer, or give --out "
            "FOLDER/ for a file each"
        )
    tiles = artist.all(wanted)
    with writing(out):
        pictures.save(pictures.sheet(tiles, per_row), out)


def write_folder(artist: Artist, wanted: Sequence[Wanted], folder: Path) -> None:
    """A PNG for each picture, such as seed0007.png. Raises ConfigError where the folder holds anything else."""
    names = {_name(one) for one in wanted}
    with writing(folder / "seed0000.png"):
        for part in folder.glob(".seed*.part"):  # of a start that was killed
            part.unlink()
        others = [path.name for path in folder.iterdir() if path.name not in names]
        if others:
            raise ConfigError(
                f"--out {folder}: holds other files ({sorted(others)[0]}), and would mix with them; give a new folder"
            )
        for one, picture in artist.each(wanted):
            with new_file(folder / _name(one)) as file:
                file.write(_encoded(picture))


def write_tar(artist: Artist, wanted: Sequence[Wanted], out: Path) -> None:
    """A webdataset tar of PNGs, with labels where there are any: keys are seeds, so that data.shards takes it."""
    with writing(out), new_file(out) as file:
        writer = ShardWriter(file, "png")
        for one, picture in artist.each(wanted):
            label = -1 if one.label is None else one.label
            writer.add(one.seed, Rendered(_name(one), label, _encoded(picture)))
        writer.finish()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes the folder of a file that is to be written; turns what a disk says to that into one line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}; give another --out") from None


def kind_of(out: str, allowed: Sequence[str]) -> str:
    """What `--out` names: "folder", or its suffix among `allowed`. Raises ConfigError for any other."""
    if out.endswith("/") or Path(out).is_dir():
        kind = "folder"
    else:
        kind = Path(out).suffix.lower() or "folder"
    if kind not in allowed:
        words = ["FOLDER/" if one == "folder" else f"a {one} file" for one in allowed]
        raise ConfigError(f"--out {out}: must be {' or '.join(words)}")
    return kind


def parse_seeds(text: str, option: str, most: int) -> list[int]:
    """Seeds such as `0-63` or `0,5,7-9`, in that order. Raises ConfigError."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})\s*(?:-\s*(\d{1,18})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ConfigError(
                f"{option} {text}: {part.strip()!r} is no seed or range; write for example 0-63 or 0,5,7-9"
            )
        if len(seeds) + last - first >= most:
            raise ConfigError(
                f"{option} {text}: more than {most} seeds; use several commands, the pictures are the same"
            )
        seeds += range(first, last + 1)
    return seeds


def _name(one: Wanted) -> str:
    return f"seed{one.seed:04d}.png"


def _encoded(picture: Tensor) -> bytes:
    """A PNG of uint8 [C, H, W]."""
    return ENCODINGS["png"].encode(Image.fromarray(picture.permute(1, 2, 0).squeeze(-1).contiguous().numpy()))
