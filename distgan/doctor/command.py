"""The command line of `distgan doctor`."""

from __future__ import annotations

import argparse
import time

from distgan.config import load_config, process_conflicts, raise_mistakes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parity",
        action="store_true",
        help="instead: compare the gradients of these processes with a float64 reference on one process",
    )
    parser.add_argument("--data", action="store_true", help="instead: read every picture of the config's shards")
    parser.add_argument("--config", action="append", default=[], required=True, metavar="FILE", help="later files win")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="laid on the files")
    parser.epilog = (
        "Without --parity and --data: will this run start? Config, run folder, free space, shards, processes, and a "
        "step of training on each of them; a table of what is fine and what is not, and exit status 1 for anything "
        "that is not."
    )


def run(args: argparse.Namespace) -> int:
    """0 when everything that was asked for is fine, else 1, on every process. Raises UserError."""
    began = time.perf_counter()
    from distgan.doctor.equality import parity
    from distgan.doctor.reading import data

    config, name = load_config(args.config, args.overrides), ", ".join(args.config)
    ill = data(config, name) if args.data else 0
    if args.data and not args.parity:
        return ill

    from distgan.runtime import launched_processes

    raise_mistakes(process_conflicts(config, launched_processes()))
    if args.parity:
        return parity(config, name) or ill

    from distgan.doctor.checkup import check_start

    return check_start(config, name, began)
