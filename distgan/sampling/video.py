"""The way from one latent to the next as a moving picture."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from distgan.data.progress import Progress
from distgan.errors import UserError
from distgan.files import new_file
from distgan.sampling.drawing import Artist
from distgan.sampling.latents import on_way
from distgan.sampling.outputs import writing
from distgan.tracking import pictures
from distgan.trouble import tell

_SIDE = 256
"""Pixels that a small picture is enlarged to: a video has a quarter as many colours as pixels."""


class Film:
    """Frames uint8 [H, W, 3], each of one picture a path and label, side by side."""

    def __init__(
        self, artist: Artist, paths: Sequence[Sequence[int]], labels: Sequence[int | None], frames: int, loop: bool
    ) -> None:
        """Every path has equally many seeds; `frames` from one to the next."""
        self._artist, self._labels, self._frames = artist, labels, frames
        self._keyframes = [artist.latents(path) for path in paths]
        self._count = len(paths[0]) * frames if loop else (len(paths[0]) - 1) * frames + 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[np.ndarray]:
        with Progress("interpolate", len(self), unit="frames") as progress:
            for number in range(len(self)):
                yield self.frame(number)
                progress.advance(1)

    def frame(self, number: int) -> np.ndarray:
        latents = [on_way(keyframes, self._frames, number) for keyframes in self._keyframes]
        tiles = [self._artist.draw(latent, label) for latent in latents for label in self._labels]
        if len(tiles) == 1:
            picture = pictures.enlarged(tiles[0], _SIDE)
            return picture.permute(1, 2, 0).expand(-1, -1, 3).contiguous().numpy()
        per_row = pictures.columns(len(tiles), 0)
        return np.ascontiguousarray(pictures.sheet(torch.stack(tiles), per_row))


def write_film(film: Film, out: Path, fps: int) -> Path:
    """An .mp4 through the ffmpeg program, or a .gif; where there is no ffmpeg a .gif instead, which is told. Returns
    the file."""
    if out.suffix.lower() == ".mp4" and shutil.which("ffmpeg") is None:
        tell(f"there is no ffmpeg program here, so {out.with_suffix('.gif')} is written; with it {out} would be")
        out = out.with_suffix(".gif")
    with writing(out):
        if out.suffix.lower() == ".mp4":
            _write_mp4(film, out, fps)
        else:
            _write_gif(film, out, fps)
    return out


def _write_gif(film: Film, out: Path, fps: int) -> None:
    height, width, _ = film.frame(0).shape
    side = pictures.animation_side(len(film), width, height)
    frames = [pictures.within(Image.fromarray(frame), side) for frame in film]
    pictures.save_animation(frames, out, max(20, round(100 / fps) * 10))


def _write_mp4(film: Film, out: Path, fps: int) -> None:
    """H.264 that browsers play: 4:2:0, with sides that are even."""
    height, width, _ = film.frame(0).shape
    with new_file(out) as file, tempfile.TemporaryFile() as said:
        words = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        words += [
            "-s",
            f"{width}x{height}",
            "-r",
            str(fps),
            "-i",
            "pipe:0",
            "-an",
            "-vf",
            "pad=ceil(iw/2)*2:ceil(ih/2)*2",
        ]
        words += ["-c:v", "libx264", "-crf", "17", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
        command = [*words, f"file:{file.name}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": said}
        # A pipe that breaks is one that ffmpeg has left, saying why.
        with contextlib.suppress(BrokenPipeError), subprocess.Popen(command, **pipes) as process:
            for frame in film:
                process.stdin.write(frame.data)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
        if process.returncode:
            why = lines[-1] if lines else f"status {process.returncode}"
            raise UserError(f"{out}: ffmpeg failed: {why}; give --out {out.with_suffix('.gif').name} to do without it")
