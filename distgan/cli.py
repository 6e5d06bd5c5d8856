"""The `distgan` command: what is done before and after training."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # on a shared machine spinning threads wait for each other
if not __package__:  # run as a script: this folder's files must not stand before the standard library's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from distgan import config as configs  # noqa: E402
from distgan import doctor  # noqa: E402
from distgan.compare import command as compare  # noqa: E402
from distgan.data import index_command, prepare  # noqa: E402
from distgan.errors import ConfigError  # noqa: E402
from distgan.evaluation import command as evaluate  # noqa: E402
from distgan.exit_status import exit_status, leave  # noqa: E402
from distgan.sampling import command as sample  # noqa: E402
from distgan.slurm import runs, submit  # noqa: E402
from distgan.toys import commands as toys  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 failed, 2 bad usage or config."""
    parser = argparse.ArgumentParser(
        prog="distgan",
        description="Tools around the training of GANs.",
        epilog="To train: accelerate launch distgan/train.py --config FILE",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    preparing = commands.add_parser("prepare", help="pictures to shards", description="Writes pictures as shards.")
    prepare.add_arguments(preparing)
    preparing.set_defaults(action=prepare.run)

    indexing = commands.add_parser(
        "index", help="an index of tars from elsewhere", description="Indexes webdataset tars, so that runs need not."
    )
    index_command.add_arguments(indexing)
    indexing.set_defaults(action=index_command.run)

    sampling = commands.add_parser(
        "sample", help="pictures from a run", description="Draws pictures, videos and comparisons from a generator."
    )
    sample.add_arguments(sampling)
    sampling.set_defaults(action=sample.run)

    evaluating = commands.add_parser(
        "evaluate", help="how good a run's pictures are", description="Measures the pictures of a run's checkpoints."
    )
    evaluate.add_arguments(evaluating)
    evaluating.set_defaults(action=evaluate.run)

    examining = commands.add_parser(
        "doctor", help="will this run be right?", description="Checks a config on the processes that it will run on."
    )
    doctor.add_arguments(examining)
    examining.set_defaults(action=doctor.run)

    submitting = commands.add_parser(
        "submit", help="a run, or an array of runs, to Slurm", description="Queues a run on a Slurm cluster."
    )
    submit.add_arguments(submitting)
    submitting.set_defaults(action=submit.run)

    listing = commands.add_parser(
        "runs", help="how runs stand", description="Lists runs with state, progress, speed, time left and job."
    )
    runs.add_arguments(listing)
    listing.set_defaults(action=runs.run)

    comparing = commands.add_parser(
        "compare", help="runs side by side", description="Compares runs: their curves, configs, results and samples."
    )
    compare.add_arguments(comparing)
    comparing.set_defaults(action=compare.run)

    toys.add_arguments(commands.add_parser("toy", help="critics where the truth is known", description=toys.__doc__))

    showing = commands.add_parser(
        "config", help="all keys of a config, or a resolved config", description="Shows every key, or a whole config."
    )
    showing.add_argument("--config", action="append", default=[], metavar="FILE", help="show this config resolved")
    showing.add_argument("overrides", nargs="*", metavar="key.path=value")
    showing.set_defaults(action=_config)

    args, rest = parser.parse_known_args(argv)
    if rest and hasattr(args, "overrides") and not any(word.startswith("-") for word in rest):
        args.overrides, rest = [*args.overrides, *rest], []  # argparse takes them in one place only
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}; see distgan {args.command} --help")
    return leave(exit_status(lambda: _until_read(args)), orderly=False)


def _until_read(args: argparse.Namespace) -> int:
    """The action's status. A reader of its output that has seen enough, such as `head`, is no failure."""
    try:
        return args.action(args)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _config(args: argparse.Namespace) -> int:
    if args.overrides and not args.config:
        raise ConfigError(f"{args.overrides[0]}: an override of what? Give --config FILE too")
    text = configs.dump_config(configs.load_config(args.config, args.overrides)) if args.config else configs.reference()
    print(text, end="", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
