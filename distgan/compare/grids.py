"""Sample grids for a page: the same moments of all runs, in as few bytes as are allowed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from distgan.compare.run_data import RunData

_MOMENTS = 12
_MOST_BYTES = 15_000_000
"""Of all pictures; four thirds of it as text."""
_SIDES = (640, 512, 384, 256, 160)
"""Pixels of the longer side, at most."""
_QUALITY = 85
_TRIED = 8


@dataclass
class Grids:
    """The pictures of a page."""

    moments: list[float] = field(default_factory=list)
    """kimg, ascending."""
    shown: list[list[tuple[float, int | None]]] = field(default_factory=list)
    """For each run and moment the kimg of its nearest grid and the number of its picture, None where that cannot be
    read; empty of a run without any."""
    reals: list[tuple[str, int]] = field(default_factory=list)
    """For each data set its shards and the number of a picture of reals."""
    pictures: list[str] = field(default_factory=list)
    """As data URIs."""
    unreadable: list[Path] = field(default_factory=list)


def grids_of(runs: Sequence[RunData]) -> Grids:
    """Of runs that have pictures; moments are chosen evenly from the first grid of any run to the last."""
    reals = _reals(runs)
    for moments in (_MOMENTS, _MOMENTS // 2, 3, 1):
        chosen = _moments(runs, moments)
        nearest = [_nearest(run, chosen) for run in runs]
        files = dict.fromkeys([path for row in nearest for _, path in row] + list(reals.values()))
        encoded, unreadable = _encoded(list(files))
        if sum(map(len, encoded.values())) <= _MOST_BYTES:
            break
    numbers: dict[bytes, int] = {}
    number = {path: numbers.setdefault(data, len(numbers)) for path, data in encoded.items()}
    return Grids(
        moments=chosen,
        shown=[[(kimg, number.get(path)) for kimg, path in row] for row in nearest],
        reals=[(shards, number[path]) for shards, path in reals.items() if path in number],
        pictures=[f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" for data in numbers],
        unreadable=unreadable,
    )


def _reals(runs: Sequence[RunData]) -> dict[str, Path]:
    """A grid of real pictures of each data set, by its shards."""
    found: dict[str, Path] = {}
    for run in runs:
        if run.reals:
            found.setdefault(str(run.config.get("data.shards", run.name)), run.reals)
    return found


def _moments(runs: Sequence[RunData], most: int) -> list[float]:
    """Among the times at which any run has a grid, evenly, the first and the last with them."""
    times = sorted({kimg for run in runs for kimg in run.grids})
    if len(times) <= most:
        return times
    wanted = [times[-1]] if most == 1 else [times[0] + (times[-1] - times[0]) * i / (most - 1) for i in range(most)]
    return sorted({min(times, key=lambda time: abs(time - want)) for want in wanted})


def _nearest(run: RunData, moments: Sequence[float]) -> list[tuple[float, Path]]:
    times = [min(run.grids, key=lambda kimg: abs(kimg - moment)) for moment in moments] if run.grids else []
    return [(kimg, run.grids[kimg]) for kimg in times]


def _encoded(paths: Sequence[Path]) -> tuple[dict[Path, bytes], list[Path]]:
    """The pictures as JPEG, as large as all of them may be by some of them; and those that cannot be read."""
    side = next((side for side in _SIDES if _expected(paths, side) <= _MOST_BYTES), _SIDES[-1])
    found = {path: _jpeg(path, side) for path in paths}
    return {path: data for path, data in found.items() if data}, [path for path, data in found.items() if not data]


def _expected(paths: Sequence[Path], side: int) -> float:
    tried = paths[:: max(1, len(paths) // _TRIED)]
    return sum(len(_jpeg(path, side) or b"") for path in tried) / max(1, len(tried)) * len(paths)


def _jpeg(path: Path, side: int) -> bytes | None:
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        small.save(data, format="JPEG", quality=_QUALITY, optimize=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow says of a damaged file
        return None
    return data.getvalue()
