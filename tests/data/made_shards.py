"""Small shards whose pictures say who they are: picture n has n in its first pixel."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from distgan.config.schema import Data
from distgan.data.dataset import Indexed, open_dataset
from distgan.data.place import Place

SIDE = 16


def pixels_of(number: int) -> np.ndarray:
    """uint8 [16, 16, 3]: the number in the first pixel, noise elsewhere."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    pixels[0, 0] = number & 255, number >> 8 & 255, number >> 16
    return pixels


def numbers_of(pictures: torch.Tensor) -> list[int]:
    """The numbers of pictures [n, 3, 16, 16], whose other pixels must be theirs too."""
    found = []
    for picture in pictures.permute(0, 2, 3, 1).numpy():
        number = int(picture[0, 0].astype(int) @ [1, 256, 65536])
        assert (picture == pixels_of(number)).all()
        found.append(number)
    return found


def encoded(pixels: np.ndarray, form: str) -> bytes:
    buffer = io.BytesIO()
    if form == "npy":
        np.save(buffer, pixels)
    elif form == "raw":
        buffer.write(pixels.tobytes())
    else:
        Image.fromarray(pixels).save(
            buffer, {"jpg": "JPEG"}.get(form, form.upper()), **{"lossless": True} if form == "webp" else {}
        )
    return buffer.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_shards(folder: Path, sizes: Sequence[int], form: str = "npy", labelled: bool = False) -> Path:
    """Tars x-00000.tar ... of these many pictures, numbered through; label n % 3."""
    number = 0
    for shard, size in enumerate(sizes):
        members = []
        for _ in range(size):
            members.append((f"{number:06d}.{form}", encoded(pixels_of(number), form)))
            if labelled:
                members.append((f"{number:06d}.cls", str(number % 3).encode()))
            number += 1
        write_tar(folder / f"x-{shard:05d}.tar", members, format=tarfile.USTAR_FORMAT)
    return folder


def dataset(shards: object, **settings) -> Indexed:
    """The shards as a config opens them."""
    spec = shards if isinstance(shards, list) else str(shards)
    return open_dataset(Data(shards=spec, resolution=SIDE, **{"tier": "stream", **settings}))


def read(
    data: Indexed, batches: int, *, batch_size: int = 8, seed: int = 0, world_size: int = 1, position: int = 0, cores=1
) -> list[int]:
    """The numbers of so many global batches, put together from the slices of all ranks."""
    streams = [
        data.stream(batch_size, seed, position, Place(rank, world_size, cores=cores)) for rank in range(world_size)
    ]
    try:
        return [number for _ in range(batches) for stream in streams for number in numbers_of(next(stream).pixels)]
    finally:
        for stream in streams:
            stream.close()
