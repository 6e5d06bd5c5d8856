"""The command line: `python -m benchmarks.loader --help`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.loader import report, startup
from benchmarks.loader.cases import CASES, SOURCES
from benchmarks.loader.contenders import Contender, contenders
from benchmarks.loader.driver import ROOT, Field, Settings


def main() -> None:
    known = contenders()
    options = _options(known)
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    os.sched_setaffinity(0, cores)  # of the contenders too, before their libraries count the cores
    chosen = {name: known[name] for name in known if name in options.contenders}
    there, missing = _installed(chosen)
    drawn = sorted({CASES[case].title for case in options.cases if not _archive(options.data, case).is_file()})
    head = report.header(len(cores), drawn)
    print("\n".join(f"{key}: {value}  " for key, value in head.items()), end="\n\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = (options.work or Path(scratch)).resolve()
        settings = Settings(options.data.resolve(), work, len(cores), options.batch_size)
        results = _race(options, list(there), settings)
        if results:
            print(report.tables(results, there), flush=True)
        print("\n".join(missing), end="\n\n", flush=True)
        wanted = {name: section for name, section in startup.SECTIONS.items() if getattr(options, name)}
        sections = {name: section(work, len(cores)) for name, section in wanted.items()}
    if options.json:
        options.json.write_text(json.dumps(report.as_json(head, results, sections), indent=1) + "\n")


def _race(options: argparse.Namespace, names: Sequence[str], settings: Settings) -> report.Results:
    field = Field(names, settings)
    results = {}
    try:
        for case in options.cases:
            print(CASES[case].title, file=sys.stderr, flush=True)
            results[case] = field.race(case, options.rounds, options.seconds)
    finally:
        field.stop()
    return results


def _installed(chosen: Mapping[str, Contender]) -> tuple[dict[str, Contender], list[str]]:
    """The contenders that can be imported, and a line for each that cannot."""
    there, missing = {}, []
    for name, contender in chosen.items():
        if importlib.util.find_spec(contender.module):
            there[name] = contender
        else:
            first = f"first {contender.extra}, then " if contender.extra else ""
            install = f"{first}pip install {contender.package} (see benchmarks/loader/__init__.py)"
            missing.append(f"* {contender.title}: skipped, {contender.package} is not installed: {install}")
    return there, missing


def _archive(data: Path, case: str) -> Path:
    return data / SOURCES[CASES[case].source].archive


def _options(known: Mapping[str, Contender]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.loader", description=__doc__)
    add = parser.add_argument
    data = Path(os.environ.get("DISTGAN_TEST_DATA") or ROOT.parent / "shared" / "data")
    add("--data", type=Path, default=data, help="folder of the picture archives (%(default)s)")
    add("--work", type=Path, help="folder that keeps what is prepared (default: a temporary one)")
    add("--json", type=Path, metavar="FILE", help="write all rounds there")
    add("--cases", nargs="*", choices=list(CASES), default=list(CASES), metavar="NAME", help=", ".join(CASES))
    add("--contenders", nargs="+", choices=list(known), default=list(known), metavar="NAME", help=", ".join(known))
    add("--rounds", type=int, default=5, help="how often each is measured (%(default)s)")
    add("--seconds", type=float, default=1.0, help="how long each time (%(default)s)")
    add("--threads", type=int, default=os.cpu_count(), help="cores, and threads or worker processes (%(default)s)")
    add("--batch-size", type=int, default=64, metavar="N", help="images of a batch (%(default)s)")
    add("--first-batch", action="store_true", help="time a new process from 1,000 shards to the first batch too")
    add("--index", action="store_true", help="time and weigh an index of ten million pictures too")
    options = parser.parse_args()
    if options.data != data and not options.data.is_dir():
        parser.error(f"--data {options.data}: no such folder")
    return options


if __name__ == "__main__":
    main()
