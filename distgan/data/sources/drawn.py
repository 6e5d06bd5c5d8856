"""The source `shapes`: no input, the pictures are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from distgan.data import shapes as drawing
from distgan.data.pictures import DrawnPicture, Item
from distgan.data.sources.source import Request, Source
from distgan.errors import ConfigError

DEFAULT_COUNT = 8000


class _Drawings(Sequence):
    def __init__(self, request: Request, count: int) -> None:
        self.request, self.count = request, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < self.count:
            raise IndexError(index)
        r = self.request
        picture = DrawnPicture(r.seed, index, r.resolution, r.channels, r.background)
        return Item(f"shapes[{index}]", picture, drawing.mode_parts(drawing.mode_of(r.seed, index))[0])


def shapes(request: Request) -> Source:
    """`count` drawings (default 8000) of the 64 modes; the label is the shape."""
    if not drawing.SMALLEST <= request.resolution <= drawing.LARGEST:
        span = f"{drawing.SMALLEST} to {drawing.LARGEST}"
        raise ConfigError(f"--resolution {request.resolution}: shapes are drawn with {span} pixels a side")
    count = DEFAULT_COUNT if request.count is None else request.count
    return Source(_Drawings(request, count), drawing.SHAPES, f"{request.seed} {count} {request.background}")
