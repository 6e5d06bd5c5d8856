"""What a run has told so far, for a view that lacks the end of it: metrics.jsonl and the pictures beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distgan.run_folder import RunFolder, grids_in, read_lines

GRIDS = ("samples", "samples/raw")
"""Of the averaged weights, and of the weights themselves: the names of the pictures, and of their folders."""


@dataclass
class Held:
    """What a view has: the step of its last line, and of the last picture of each name. No line has step 0."""

    line: int = 0
    pictures: dict[str, int] = field(default_factory=dict)

    def lacks_line(self, step: int) -> bool:
        return step > self.line

    def lacks_picture(self, name: str, step: int) -> bool:
        return step > self.pictures.get(name, -1)


def backlog(folder: RunFolder, held: Held, step: int) -> Iterator[dict | tuple[str, Path, int]]:
    """The lines, and the pictures as name, path and step, that a view lacks up to `step`, in the order of their steps.

    The pictures of real data are of no step: they come first, with the step of the last line that the view has."""
    if "reals" not in held.pictures and folder.reals.exists():
        yield "reals", folder.reals, held.line
    later = [
        (number, (name, path, number))
        for name in GRIDS
        for number, path in grids_in(folder.path / name).items()
        if held.lacks_picture(name, number) and number <= step
    ]
    lines = ((line["step"], line) for line in read_lines(folder.metrics) if held.line < line["step"] <= step)
    yield from _merged(lines, iter(sorted(later)))


def _merged(lines: Iterator[tuple[int, dict]], pictures: Iterator[tuple[int, tuple[str, Path, int]]]) -> Iterator:
    """Of two ascending streams, the line first where both have the same step."""
    picture = next(pictures, None)
    for number, line in lines:
        while picture is not None and picture[0] < number:
            yield picture[1]
            picture = next(pictures, None)
        yield line
    while picture is not None:
        yield picture[1]
        picture = next(pictures, None)
