"""Every experiment of docs/results.md: data, trainings, evaluations, pictures and tables.

    python -m benchmarks.experiments [NAME ...] --data FOLDER_OF_ARCHIVES --out FOLDER [--processes 2] [key.path=value ...]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.experiments.cases import EXPERIMENTS
from benchmarks.experiments.running import Bench
from distgan.errors import ConfigError, UserError


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="of archives, as in docs/results.md")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for shards, runs, pictures, tables")
    parser.add_argument("--processes", type=int, default=1, metavar="N")
    parser.add_argument("words", nargs="*", metavar="NAME or key.path=value", help=", ".join(EXPERIMENTS))
    options = parser.parse_intermixed_args()
    overrides = [word for word in options.words if "=" in word]
    names = [word for word in options.words if "=" not in word] or list(EXPERIMENTS)
    bench = Bench(options.data.absolute(), options.out.absolute(), options.processes, overrides)
    try:
        _check(names)
        for name in names:
            bench.prepare(EXPERIMENTS[name].source)
            bench.train(name)
    except ConfigError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 1
    return 0


def _check(names: list[str]) -> None:
    for name in names:
        if name not in EXPERIMENTS:
            raise ConfigError(f"{name}: no such experiment; there are {', '.join(EXPERIMENTS)}")


if __name__ == "__main__":
    sys.exit(main())
