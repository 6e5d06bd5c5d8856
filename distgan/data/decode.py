"""From the bytes of a picture to its pixels in a row of a batch: uint8, [H, W, C].

torchvision's decoders, called without the layers of Python above them: measured beside others in docs/performance.md.
"""

from __future__ import annotations

import threading
import zlib

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode

from distgan.data.headers import LARGEST_PICTURE, npy_picture, picture_size
from distgan.data.png import check_png, is_png
from distgan.data.scan import Kind

_decode = torch.ops.image.decode_image.default
_resize = torch.ops.aten._upsample_bilinear2d_aa.default


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
