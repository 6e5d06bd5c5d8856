"""From the bytes of a picture to its pixels in a row of a batch: uint8, [H, W, C].

torchvision's decoders, called without the layers of Python above them: measured beside others in docs/performance.md.
"""

from __future__ import annotations

import threading
import warnings
import zlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode

from distgan.data.headers import LARGEST_PICTURE, npy_picture, picture_size
from distgan.data.png import check_png, is_png
from distgan.data.scan import Kind

_decode = torch.ops.image.decode_image.default
_resize = torch.ops.aten._upsample_bilinear2d_aa.default


def _decode_all(data: Tensor, starts: list[int], sizes: list[int], mode: int, crop: bool, out: Tensor) -> bool:
    side, channels = out.size(2), out.size(1)
    rows = max(1, 32767 // (side * channels))  # of a copy: more would be shared out over threads
    for i in range(len(starts)):
        picture = torch.ops.image.decode_image(data.narrow(0, starts[i], sizes[i]), mode, True)
        height, width = picture.size(1), picture.size(2)
        if picture.size(0) != channels or picture.dtype != torch.uint8:
            return False
        if height != side or width != side:
            if not crop:
                return False
            edge = min(height, width)
            square = picture.narrow(1, (height - edge) // 2, edge).narrow(2, (width - edge) // 2, edge)
            if edge == side:
                picture = square
            else:
                picture = torch.ops.aten._upsample_bilinear2d_aa(square.unsqueeze(0), [side, side], False, None, None)
                picture = picture.squeeze(0)
        target = out.select(0, i)
        for row in range(0, side, rows):
            count = min(rows, side - row)
            target.narrow(1, row, count).copy_(picture.narrow(1, row, count))
    return True


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., bool] | None:
    """`_decode_all` for TorchScript's interpreter, which does not hold Python's lock: two threads that decode side by
    side take 0.6 of the time. None where this torch has it no more."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is deprecated
            return torch.jit.script(_decode_all)
    except Exception:  # noqa: BLE001  the longer way does the same
        return None


class Decoder:
    """Makes every picture `resolution` pixels square with `channels` 1 or 3. Safe to use from many threads.

    `fit` exact refuses pictures of another size; crop takes the largest centred square and resizes it, antialiased and
    bilinear.
    """

    def __init__(self, resolution: int, channels: int, fit: str = "exact") -> None:
        self.resolution, self.channels, self.fit = resolution, channels, fit
        self.shape = (resolution, resolution, channels)
        self.bytes = resolution * resolution * channels
        self._mode = (ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB).value

    def decode(self, data: Tensor, kind: int, out: np.ndarray) -> None:
        """Decodes `data`, uint8 [bytes], into `out`, uint8 [H, W, C]. Raises ValueError or RuntimeError saying what is
        wrong with the picture.

        The copy is numpy's: torch would share one of 32,768 bytes out over threads of its own, for each of the threads
        that read.
        """
        if kind == Kind.ENCODED:
            picture = _decode(data, self._mode, True)
        else:
            picture = self._bare(data, kind)
        if picture.shape != (self.channels, self.resolution, self.resolution):
            picture = self._fitted(picture)
            if len(picture) != self.channels:  # a WebP knows no grey
                picture = self._in_channels(picture)
        if picture.dtype != torch.uint8:  # PNGs of 16 bits
            picture = (picture.to(torch.int32) >> 8).to(torch.uint8)
        np.copyto(out, picture.numpy().transpose(1, 2, 0))

    def decode_all(self, data: Tensor, starts: list[int], sizes: list[int], out: Tensor) -> bool:
        """Decodes PNG, JPEG and WebP files that lie one after the other in `data` into `out`, uint8 [n, C, H, W] with
        the channels last in memory, without Python between them. False where one of them is not as easy as that."""
        together = _compiled()
        if together is None:
            return False
        try:
            return together(data, starts, sizes, self._mode, self.fit == "crop", out)
        except RuntimeError:  # a picture that cannot be decoded: told of by the longer way
            return False

    def are_plain(self, kinds: np.ndarray, sizes: np.ndarray) -> bool:
        """Whether the bytes of all these samples are rows of a batch as they stand."""
        bare = (kinds == Kind.HWC) | ((kinds == Kind.CHW) & (self.channels == 1))
        return bool(bare.all() and (sizes == self.bytes).all())

    def check(self, data: memoryview | np.ndarray, kind: int, crc: int) -> None:
        """What is looked at once, before a picture is decoded for the first time. Raises ValueError."""
        if zlib.crc32(data) != crc:
            raise ValueError("it has changed since it was indexed (another checksum)")
        if kind in (Kind.ENCODED, Kind.NPY):
            height, width = picture_size(data)
            if height * width > LARGEST_PICTURE:
                raise ValueError(f"{width} x {height} pixels, more than the {LARGEST_PICTURE} allowed: a picture bomb")
            if self.fit == "exact" and (height, width) != (self.resolution, self.resolution):
                raise ValueError(self._other_size(width, height))
        if kind == Kind.ENCODED and is_png(data):
            check_png(data)  # a damaged one would end the process

    def _bare(self, data: Tensor, kind: int) -> Tensor:
        """[C, H, W] of bare pixels, which are square, or of those in a .npy file."""
        if kind == Kind.NPY:
            height, width, last, head = npy_picture(memoryview(data.numpy()))
            data, kind = data[head:], Kind.HWC if last else Kind.CHW
        else:
            height = width = round((len(data) / self.channels) ** 0.5)
            if height * width * self.channels != len(data):
                height = width = round((len(data) / (4 - self.channels)) ** 0.5)
        channels = len(data) // (height * width) if height else 0
        if channels not in (1, 3) or channels * height * width != len(data):
            raise ValueError(f"{len(data)} bytes of pixels are no square picture")
        if kind == Kind.CHW:
            picture = data.view(channels, height, width)
        else:
            picture = data.view(height, width, channels).permute(2, 0, 1)
        return picture

    def _in_channels(self, picture: Tensor) -> Tensor:
        if self.channels == 3:
            return picture.expand(3, -1, -1)
        weights = torch.tensor([299, 587, 114], dtype=torch.int32)[:, None, None]  # ITU-R BT.601, as the decoders
        return ((picture.to(torch.int32) * weights).sum(0, keepdim=True).add(500) // 1000).to(torch.uint8)

    def _fitted(self, picture: Tensor) -> Tensor:
        height, width = picture.shape[1:]
        if height == width == self.resolution:
            return picture
        if self.fit == "exact":
            raise ValueError(self._other_size(width, height))
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        square = picture[None, :, top : top + edge, left : left + edge]
        if square.dtype != torch.uint8:
            square = (square.to(torch.int32) >> 8).to(torch.uint8)
        if edge == self.resolution:
            return square[0]
        return _resize(square, [self.resolution, self.resolution], False, None, None)[0]

    def _other_size(self, width: int, height: int) -> str:
        return (
            f"it is {width} x {height} pixels, and the config asks for {self.resolution} x {self.resolution}; "
            "data.fit: crop takes any size"
        )


class Scratch(threading.local):
    """A buffer of each thread for the bytes of one picture."""

    def __init__(self) -> None:
        self._grow(1 << 16)

    def _grow(self, size: int) -> None:
        array = np.empty(size, np.uint8)
        self._memory, self._tensor = memoryview(array), torch.from_numpy(array)

    def of(self, size: int) -> tuple[memoryview, Tensor]:
        """The same bytes as memory and as uint8 tensor: at least `size` of them."""
        if size > len(self._memory):
            self._grow(2 * size)
        return self._memory, self._tensor


def as_pictures(rows: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Rows [n, H * W * C] as pictures [n, C, H, W], channels last in memory; not copied."""
    return rows.view(-1, *shape).permute(0, 3, 1, 2)
