"""The whole parity matrix: `python tests/parity/matrix.py` (hours on two cores; with `--eager` half an hour).

Every network, penalty, precision, accumulation, world size, conditional or not, compiled or not: the synchronised
gradients of a critic's update against the float64 reference. Prints the worst error of each mode; exit status 1 when
one is over its bound. Compiling is what takes long: `--backend aot_eager` compares the compiler's graphs, the double
backward in them, without generating code.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # what compiles is forked afterwards
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from parity.cases import ACCUMULATIONS, NETWORKS, PENALTIES, PRECISIONS, WORLD_SIZES, Subject, subjects  # noqa: E402
from parity.processes import Result, is_equal, results_of  # noqa: E402
from tqdm import tqdm  # noqa: E402


def run(group: list[Subject], backend: str) -> list[tuple[Subject, list[Result]]]:
    """All results of some subjects, one after another."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = results_of(group, WORLD_SIZES, list(ACCUMULATIONS), Path(folder), backend)
    return list(zip(group, results, strict=True))


def groups(chosen: Iterable[Subject]) -> list[list[Subject]]:
    """Subjects that share a reference, to be run by one process; compiled ones, which take longest, in smaller
    groups."""

    def shared(subject: Subject) -> tuple:
        place = PRECISIONS.index(subject.precision) if subject.compiled else 0
        return (subject.compiled, subject.conditional, place, subject.network)

    return [list(group) for _, group in groupby(sorted(chosen, key=shared), key=shared)]


def report(found: list[tuple[Subject, list[Result]]]) -> str:
    """The worst of every mode as a table."""
    lines = [f"{'mode':32} {'comparisons':>11}  {'error':>7}  {'reduction':>9}  {'spread':>7}"]
    precisions = sorted({(subject.precision, subject.compiled) for subject, _ in found})
    for precision, compiled in precisions:
        some = [(s, r) for s, r in found if (s.precision, s.compiled) == (precision, compiled)]
        name = f"{precision}, {'compiled' if compiled else 'eager'}"
        lines.append(_line(name, [result for _, results in some for result in results]))
        for field in ("network", "penalty", "conditional"):
            for value in sorted({getattr(subject, field) for subject, _ in some}, key=str):
                results = [result for s, rs in some if getattr(s, field) == value for result in rs]
                lines.append(_line(f"  {field} {value}", results))
        for field in ("world_size", "accumulation"):
            for value in sorted({getattr(r, field) for _, rs in some for r in rs}, key=str):
                results = [r for _, rs in some for r in rs if getattr(r, field) == value]
                lines.append(_line(f"  {field.replace('_', ' ')} {value}", results))
    return "\n".join(lines)


def _line(name: str, results: list[Result]) -> str:
    worst = [max(getattr(result, field) for result in results) for field in ("error", "reduction", "spread")]
    return f"{name:32} {len(results):11}  {worst[0]:7.1e}  {worst[1]:9.1e}  {worst[2]:7.1e}"


def _is_wanted(subject: Subject, args: argparse.Namespace) -> bool:
    if (args.eager and subject.compiled) or (args.compiled and not subject.compiled):
        return False
    fields = ("network", "penalty", "precision")
    return all(getattr(args, f) is None or getattr(subject, f) in getattr(args, f) for f in fields)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eager", action="store_true", help="leave the compiled ones out")
    parser.add_argument("--compiled", action="store_true", help="the compiled ones only")
    for field, known in (("network", NETWORKS), ("penalty", PENALTIES), ("precision", PRECISIONS)):
        parser.add_argument(f"--{field}", action="append", choices=list(known), help="only this one; may be repeated")
    parser.add_argument("--backend", default="inductor", help="of torch.compile: inductor, or aot_eager (faster)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="at a time; default: cores")
    parser.add_argument("--out", type=Path, metavar="FILE", help="all results as JSON")
    args = parser.parse_args()
    chosen = [subject for subject in subjects() if _is_wanted(subject, args)]
    begun, found = time.monotonic(), []
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(run, group, args.backend) for group in groups(chosen)]
        with tqdm(total=len(chosen), unit="subject", mininterval=5) as bar:
            for job in as_completed(jobs):
                found += job.result()
                bar.update(len(job.result()))
                if args.out:
                    args.out.write_text(json.dumps([[*s, [list(r) for r in rs]] for s, rs in found]))
    wrong = [(s, r) for s, rs in found for r in rs if not is_equal(s, r)]
    print(report(found))
    print(f"torch {torch.__version__}, {time.monotonic() - begun:.0f} s, {len(found)} subjects")
    for subject, result in wrong:
        print("NOT EQUAL", subject, result)
    print(f"{len(wrong)} not equal" if wrong else "all equal")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
