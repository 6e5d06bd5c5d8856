"""`distgan sample`: what is asked for, and whether it makes sense. Loads torch only when it does."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from distgan.errors import ConfigError

if TYPE_CHECKING:
    from distgan.sampling.drawing import Artist, Wanted
    from distgan.sampling.source import Found

_COUNT = 64
_MOST = 10**6
"""Pictures of one command."""
_NEAR = 8
"""Samples whose neighbours are looked for, where nothing is said."""
_FRAMES = 60
_FPS = 30
_LONGEST = 10**5
"""Frames of a video, about an hour at 30 a second."""
_TILES = 64
"""Most pictures of a frame."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `distgan sample`."""
    add = parser.add_argument
    add("source", metavar="RUN", help="run folder, checkpoint folder, or .safetensors file of a generator")
    add("--out", metavar="PATH", help="x.png: a grid; FOLDER/: a file each; x.tar: shard to train on (RUN/sampled.png)")
    add("--step", type=int, metavar="N", help="the run's checkpoint of this step (default: the newest)")
    add("--raw", action="store_true", help="the last weights instead of their running average")
    add("--config", metavar="FILE", help="config of the run, for a file that does not say what network it is of")
    add("--count", type=int, metavar="N", help=f"the seeds 0 to N - 1 (default {_COUNT})")
    add("--seeds", metavar="LIST", help="seeds such as 0-63 or 0,5,7-9: one latent each, the same wherever it is drawn")
    add("--label", type=_label, metavar="K", help="class of a conditional run (grid: each class a row; else in turns)")
    add("--truncation", type=float, metavar="T", help="normals within T standard deviations only: less variety")
    add(
        "--interpolate", action="append", metavar="LIST", help="a video from seed to seed, e.g. 0,5,9; again: beside it"
    )
    add("--frames", type=int, metavar="N", help=f"with --interpolate: from one seed to the next (default {_FRAMES})")
    add("--fps", type=int, metavar="N", help=f"with --interpolate: frames a second (default {_FPS})")
    add("--loop", action="store_true", help="with --interpolate: back to the first seed")
    add("--neighbours", type=int, metavar="N", help="beside each sample the N nearest training pictures")
    add("--shards", metavar="PLACE", help="with --neighbours: where the training pictures are now")


def run(args: argparse.Namespace) -> int:
    """Runs `distgan sample` from parsed arguments. Raises UserError."""
    _check(args)
    from distgan.sampling.drawing import Artist
    from distgan.sampling.source import find

    found = find(Path(args.source), step=args.step, raw=args.raw, config=args.config and Path(args.config))
    _check_label(args.label, found.classes)
    artist = Artist(found.generator, args.truncation)
    action = _film if args.interpolate else _neighbours if args.neighbours else _pictures
    print(action(args, found, artist), flush=True)
    return 0


def _pictures(args: argparse.Namespace, found: Found, artist: Artist) -> Path:
    from distgan.sampling import outputs

    kind = outputs.kind_of(args.out or "sampled.png", (".png", "folder", ".tar"))
    out = _out(args, found, "sampled.png")
    if kind == ".png":
        outputs.write_grid(artist, *_of_grid(args, found), found.resolution, out)
    elif kind == ".tar":
        outputs.write_tar(artist, _in_turns(args, found), out)
    else:
        outputs.write_folder(artist, _in_turns(args, found), out)
    return out


def _film(args: argparse.Namespace, found: Found, artist: Artist) -> Path:
    from distgan.sampling import outputs, video

    outputs.kind_of(args.out or "x.mp4", (".mp4", ".gif"))
    paths = [outputs.parse_seeds(text, "--interpolate", 10**4) for text in args.interpolate]
    for path, text in zip(paths, args.interpolate, strict=True):
        if len(path) < 2 or len(path) != len(paths[0]):
            raise ConfigError(f"--interpolate {text}: two seeds or more, and equally many each time")
    labels = list(range(found.classes)) if found.classes and args.label is None else [args.label]
    if len(paths) * len(labels) > _TILES:
        raise ConfigError(f"--interpolate: {len(paths) * len(labels)} pictures a frame, {_TILES} at most; give --label")
    frames = args.frames or _FRAMES
    if frames * len(paths[0]) > _LONGEST:
        most = _LONGEST // len(paths[0])
        raise ConfigError(
            f"--frames {frames}: with {len(paths[0])} seeds {most} at most: a video has up to {_LONGEST} frames; give "
            "fewer frames or seeds"
        )
    film = video.Film(artist, paths, labels, frames, args.loop)
    return video.write_film(film, _out(args, found, "interpolated.mp4"), args.fps or _FPS)


def _neighbours(args: argparse.Namespace, found: Found, artist: Artist) -> Path:
    from distgan.sampling import neighbours, outputs
    from distgan.tracking import pictures

    outputs.kind_of(args.out or "x.png", (".png",))
    if found.config is None:
        raise ConfigError(
            f"--neighbours: {args.source} does not say what it was trained on; name it with --config FILE"
        )
    out, wanted = _out(args, found, "neighbours.png"), _in_turns(args, found)
    dataset = neighbours.open_set(found.config, args.shards)
    samples = artist.all(wanted)
    compared = neighbours.compare(dataset, samples, args.neighbours)
    sheet = pictures.sheet(neighbours.rows_of(dataset, samples, compared.samples), args.neighbours + 1)
    with outputs.writing(out):
        pictures.save(sheet, out)
    print(neighbours.told(wanted, compared))
    return out


def _of_grid(args: argparse.Namespace, found: Found) -> tuple[list[Wanted], int]:
    """What a grid shows, and how many in a row: each class a row of the same seeds, where there are classes."""
    from distgan.sampling.drawing import Wanted
    from distgan.tracking.pictures import columns

    if not found.classes or args.label is not None:
        seeds = _seeds(args, _COUNT)
        return [Wanted(seed, args.label) for seed in seeds], columns(len(seeds), 0)
    seeds = _seeds(args, _COUNT)
    if args.seeds is None:
        seeds = seeds[: columns(len(seeds), found.classes)]
    return [Wanted(seed, label) for label in range(found.classes) for seed in seeds], len(seeds)


def _in_turns(args: argparse.Namespace, found: Found) -> list[Wanted]:
    """A picture a seed; of all classes in turns, where none is named."""
    from distgan.sampling.drawing import Wanted

    turns = found.classes and args.label is None
    seeds = _seeds(args, _NEAR if args.neighbours else _COUNT)
    return [Wanted(seed, seed % found.classes if turns else args.label) for seed in seeds]


def _seeds(args: argparse.Namespace, default: int) -> list[int]:
    from distgan.sampling.outputs import parse_seeds

    if args.seeds is None:
        return list(range(args.count or default))
    seeds = parse_seeds(args.seeds, "--seeds", _MOST)
    seed, times = Counter(seeds).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"--seeds {args.seeds}: {seed} is named twice")
    return seeds


def _out(args: argparse.Namespace, found: Found, name: str) -> Path:
    """Where nothing is said: into the run folder, or what is under way where the source is no run."""
    return Path(args.out).expanduser() if args.out else (found.run or Path()) / name


def _check(args: argparse.Namespace) -> None:
    """Raises ConfigError for options that make no sense, alone or together."""
    for name in ("count", "frames", "fps", "neighbours"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: must be at least 1")
    if args.count is not None and args.count > _MOST:
        raise ConfigError(f"--count {args.count}: {_MOST} at most; --seeds names others, in several commands")
    if args.truncation is not None and not (args.truncation > 0 and math.isfinite(args.truncation)):
        raise ConfigError(f"--truncation {args.truncation}: must be above 0, in standard deviations, such as 0.5 to 2")
    if args.count is not None and args.seeds is not None:
        raise ConfigError(f"--count {args.count}: --seeds {args.seeds} says already which pictures; leave one out")
    needs = {"frames": "interpolate", "fps": "interpolate", "loop": "interpolate", "shards": "neighbours"}
    for name, other in needs.items():
        if getattr(args, name) and not getattr(args, other):
            raise ConfigError(f"--{name}: has no effect without --{other}; leave it out")
    for name in ("neighbours", "seeds", "count"):
        if args.interpolate and getattr(args, name):
            raise ConfigError(f"--{name}: not together with --interpolate, which names its own seeds; leave one out")


def _label(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; a class is its place in index.json, from 0") from None


def _check_label(label: int | None, classes: int) -> None:
    if label is not None and not 0 <= label < classes:
        known = f"labels are 0 to {classes - 1}" if classes else "the run has no classes; leave it out"
        raise ConfigError(f"--label {label}: {known}")
