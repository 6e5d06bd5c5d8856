"""Pictures that the run has written, read again. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, PngImagePlugin


def opened(path: str | Path) -> Image.Image:
    """A PNG of any size, to be closed: `Image.open` takes a large grid for a bomb. Raises OSError where it is gone or
    damaged."""
    try:
        return PngImagePlugin.PngImageFile(path)
    except SyntaxError as error:
        raise OSError(f"{path}: {error}") from None


def check_size(path: str | Path) -> tuple[int, int, int]:
    """Width, height and channels of a PNG. Raises OSError where it is gone or damaged, and where it has so many pixels
    (179 million) that readers of the views refuse it."""
    with opened(path) as picture:
        width, height = picture.size
        if Image.MAX_IMAGE_PIXELS is not None and width * height > 2 * Image.MAX_IMAGE_PIXELS:
            raise OSError(f"{path}: {width} x {height} pixels are too many to be shown")
        return width, height, len(picture.getbands())
