"""The command line of `distgan doctor`."""

from __future__ import annotations

import argparse
import time

from distgan.config import Config, load_config, process_conflicts, raise_mistakes
from distgan.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parity",
        action="store_true",
        help="instead: compare the gradients of these processes with a float64 reference on one process",
    )
    parser.add_argument("--data", action="store_true", help="instead: read every picture of the config's shards")
    parser.add_argument(
        "--profile", action="store_true", help="instead: where a step's time goes, and what to change first"
    )
    parser.add_argument("--config", action="append", default=[], required=True, metavar="FILE", help="later files win")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="laid on the files")
    parser.epilog = (
        "Without --parity, --data and --profile: will this run start? Config, run folder, free space, shards, "
        "processes, and a step of training on each of them; a table of what is fine and what is not, and exit status "
        "1 for anything that is not. The step of a run that grows is one of the resolution that needs the most memory."
    )


def run(args: argparse.Namespace) -> int:
    """0 when everything that was asked for is fine, else 1, on every process. Raises UserError."""
    began = time.perf_counter()
    from distgan.doctor.reading import data

    config, name = load_config(args.config, args.overrides), ", ".join(args.config)
    ill = data(config, name) if args.data else 0
    if args.data and not args.parity and not args.profile:
        return ill

    from distgan.runtime import launched_processes

    raise_mistakes(process_conflicts(config, launched_processes()))
    if args.parity or args.profile:
        return _asked_for(args, config, name) or ill

    from distgan.doctor.checkup import check_start

    return check_start(config, name, began)


def _asked_for(args: argparse.Namespace, config: Config, name: str) -> int:
    """One of the two: after the first the processes have taken leave of each other."""
    if args.parity and args.profile:
        raise ConfigError("doctor: --parity and --profile are two commands; give one of them")
    if args.parity:
        from distgan.doctor.equality import parity

        return parity(config, name)

    from distgan.doctor.breakdown import breakdown

    return breakdown(config.grown, name)
