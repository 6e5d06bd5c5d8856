"""`distgan toy`: what critics find where the truth is known, as a table and a picture."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EISDIR
from pathlib import Path
from tempfile import TemporaryFile

from distgan.errors import ConfigError, UserError
from distgan.files import new_file

FARTHEST = 100
DISTRIBUTIONS = ("8gaussians", "25gaussians", "swissroll")
METHODS = ("wgan-gp", "gan", "wgan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The toys of `distgan toy`, each with its arguments and its action."""
    toys = parser.add_subparsers(dest="toy", required=True, metavar="TOY")
    _add_lines(toys)
    _add_plane(toys)


def _add_lines(toys: argparse._SubParsersAction) -> None:
    lines = toys.add_parser(
        "lines",
        help="two parallel lines, theta apart",
        description="Trains critics alone on two parallel lines (WGAN, example 1) and compares what they say with the "
        "exact distances. Less than a minute on one core.",
    )
    lines.set_defaults(action=run_lines)
    add = lines.add_argument
    add("--out", default="lines.png", metavar="FILE", help="PNG to write (%(default)s)")
    add(
        "--thetas",
        default="-2,-1,-0.5,-0.25,0,0.25,0.5,1,2",
        metavar="A,B,...",
        help="where the second line is; before a minus an equals sign: --thetas=-1,0,1 (%(default)s)",
    )
    add("--steps", type=int, default=800, metavar="N", help="updates of each critic (%(default)s)")
    add("--weight", type=float, default=10.0, metavar="X", help="lambda of the gradient penalty (%(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of weights and points (%(default)s)")


def _add_plane(toys: argparse._SubParsersAction) -> None:
    plane = toys.add_parser(
        "plane",
        help="points in the plane",
        description="Trains generators of points in the plane (WGAN-GP, figure 1), measures the exact Wasserstein "
        "distance and the modes covered, and draws all on the critic's surface. About a minute on one core for each.",
    )
    plane.set_defaults(action=run_plane)
    add = plane.add_argument
    add("--data", default="25gaussians", metavar="NAME", help=f"{', '.join(DISTRIBUTIONS)} (%(default)s)")
    add("--method", default="wgan-gp", metavar="A,B,...", help=f"side by side: {', '.join(METHODS)} (%(default)s)")
    add("--out", default="plane.png", metavar="FILE", help="PNG to write (%(default)s)")
    add("--steps", type=int, default=4000, metavar="N", help="updates of each generator (%(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of weights, points and latents (%(default)s)")


def run_lines(args: argparse.Namespace) -> int:
    """Runs `distgan toy lines`. Raises ConfigError for values that make no sense, UserError where --out fails."""
    thetas = _thetas(args.thetas)
    _check_steps(args.steps)
    if not 0 < args.weight < math.inf:
        raise ConfigError(f"--weight {args.weight:g}: must be more than 0, for example 10")
    out = _writable(args.out)
    from distgan.toys import report
    from distgan.toys.lines import Training

    training = Training(args.steps, args.weight, args.seed)
    found = report.measure_all(thetas, training)
    with _told(out), new_file(out) as file:
        report.draw(found, training, file)
    print(report.table(found, training))
    print(out)
    return 0


def run_plane(args: argparse.Namespace) -> int:
    """Runs `distgan toy plane`. Raises ConfigError for names and values that make no sense, UserError where --out or
    a training fails."""
    if args.data not in DISTRIBUTIONS:
        raise ConfigError(f"--data {args.data}: must be one of {', '.join(DISTRIBUTIONS)}")
    methods = list(dict.fromkeys(args.method.split(",")))
    if not set(methods) <= set(METHODS):
        raise ConfigError(f"--method {args.method}: must be one or more, with commas, of {', '.join(METHODS)}")
    _check_steps(args.steps)
    out = _writable(args.out)
    from distgan.toys import plane_report
    from distgan.toys.plane import Training

    found = plane_report.measure_all(args.data, methods, Training(args.steps, args.seed))
    with _told(out), new_file(out) as file:
        plane_report.draw(found, file)
    print(plane_report.table(found))
    print(out)
    return 0


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ConfigError(f"--steps {steps}: must be 1 or more")


def _writable(name: str) -> Path:
    """The path of a picture that can be written."""
    out = Path(name).expanduser()
    with _told(out):
        _try(out)
    return out


def _thetas(text: str) -> list[float]:
    """Ascending and without repetition."""
    try:
        thetas = {float(part) + 0.0 for part in text.split(",")}  # + 0.0: there is no minus zero in a table
    except ValueError:
        thetas = {math.nan}
    if not all(abs(theta) <= FARTHEST for theta in thetas):
        raise ConfigError(f"--thetas {text}: must be numbers of at most {FARTHEST}, with commas: for example 0,0.5,1")
    return sorted(thetas)


def _try(path: Path) -> None:
    """Raises OSError where a picture could not be written: a minute of training must not be lost to that. Leaves
    nothing behind, however this process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
    with TemporaryFile(dir=path.parent):  # without a name, where the system has that
        pass


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what a disk can do into one clear line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written: {error.strerror}") from None
