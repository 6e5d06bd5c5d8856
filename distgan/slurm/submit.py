"""`distgan submit`: a run, or an array of them, checked, written down and queued."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

from distgan.config import dump_config
from distgan.errors import ConfigError, RunFolderError, UserError
from distgan.run_folder import write_atomically
from distgan.slurm import client, options
from distgan.slurm.checks import Run, check_folders, planned
from distgan.slurm.history import History
from distgan.slurm.options import Request
from distgan.slurm.queue import jobs_in_queue
from distgan.slurm.script import Job, batch_script, ranges
from distgan.slurm.sweep import numbered
from distgan.trouble import tell

_OTHERWISE = {"time": "TIMELIMIT", "array": "ARRAY_INX", "requeue": "NO_REQUEUE", "no-requeue": "REQUEUE"}
"""Options of sbatch whose variable has another name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML; later files win")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="laid on the files")
    parser.add_argument("--dry-run", action="store_true", help="show the batch script; write and submit nothing")
    parser.add_argument("--allow-config-change", action="store_true", help="go on although the config has changed")
    parser.add_argument(
        "--init-from", type=Path, metavar="CHECKPOINT", help="a new run begins with its weights; also a run folder"
    )
    options.add_arguments(parser)
    parser.epilog = (
        "What cannot work is refused before it is queued. The same command again resumes; of an array it leaves out "
        "what has finished and what is in the queue."
    )


def run(args: argparse.Namespace) -> int:
    """0 when the job is queued, or nothing is left to do. Raises UserError."""
    request, folder, runs = planned(args)
    if not (args.dry_run or client.is_here()):
        raise client.SlurmError("sbatch: no such command; submit on a machine of the cluster, or look with --dry-run")
    history = History(folder)
    lines, numbers = numbered(history.elements, [run.name for run in runs if run.name])
    runs = _unfinished(runs)
    runs = runs if args.dry_run else _not_queued(runs)
    check_folders(runs, args.allow_config_change)
    if not runs:
        tell("nothing to submit")
        return 0
    job = Job(
        folder=folder,
        python=os.path.abspath(sys.executable),
        start=Path.cwd(),
        arguments=_arguments(args),
        indexes=tuple(sorted(numbers[run.name] for run in runs)) if args.array or args.array_file else None,
    )
    script = batch_script(job, request)
    if args.dry_run:
        print(script, end="", flush=True)
        return 0
    _write(history, runs, script, lines)
    number = client.submit(str(history.script), env=_environment(script))
    names = {run.name: f"{number}_{numbers[run.name]}" if run.name else number for run in runs}
    try:
        for run in runs:
            _record(run, names[run.name], request, history.script)
    finally:
        _print(number, history, runs, names)
    return 0


def _unfinished(runs: list[Run]) -> list[Run]:
    for run in runs:
        if run.is_finished:
            tell(f"{run.folder.path}: finished; with a longer train.length it goes on")
    return [run for run in runs if not run.is_finished]


def _not_queued(runs: list[Run]) -> list[Run]:
    """Those of an array without a job in the queue. Raises ConfigError for a single run that has one."""
    queue = jobs_in_queue(job for run in runs for job in run.jobs)
    kept = []
    for run in runs:
        jobs = [queue[job] for job in run.jobs if job in queue]
        if not jobs:
            kept.append(run)
            continue
        text = f"{run.folder.path}: its job {jobs[0].id} is in the queue ({jobs[0].state.lower()})"
        if not run.name:
            raise ConfigError(f"run_dir {text}; wait for it, or end it with scancel {jobs[0].id}")
        tell(f"{text}; left out")
    return kept


def _arguments(args: argparse.Namespace) -> tuple[str, ...]:
    """What distgan/train.py is given beside the config."""
    change = ["--allow-config-change"] if args.allow_config_change else []
    begin = ["--init-from", str(args.init_from.absolute())] if args.init_from else []
    return (*change, *begin)


def _write(history: History, runs: list[Run], script: str, elements: list[str]) -> None:
    """All files that the job reads. Raises UserError for a disk that does not take them."""
    for run in runs:
        run.folder.create()
        _make(run.history.path)
        write_atomically(run.history.config, dump_config(run.config))
    _make(history.path)
    if elements:
        write_atomically(history.elements, "\n".join(elements) + "\n")
    write_atomically(history.script, script)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be made: {error.strerror}; make room, or use another run_dir") from None


def _environment(script: str) -> dict[str, str]:
    """What sbatch and the job are given: not what belongs to a job that this command may run in, nor variables by which
    sbatch would overrule the script."""
    given = re.findall(r"^#SBATCH --([a-z-]+)", script, re.MULTILINE)
    overruling = {f"SBATCH_{name.upper().replace('-', '_')}" for name in given}
    overruling |= {f"SBATCH_{_OTHERWISE[name]}" for name in given if name in _OTHERWISE}
    foreign = re.compile(r"SLURM_(?!CONF$)|DISTGAN_(?!CACHE$)")
    return {name: value for name, value in os.environ.items() if name not in overruling and not foreign.match(name)}


def _record(run: Run, job: str, request: Request, script: Path) -> None:
    processes = request.nodes[0] * request.processes
    try:
        run.history.add_job(job=job, nodes=request.nodes_text, processes=processes, script=str(script))
    except UserError as error:
        raise UserError(f"job {job} is in the queue, but not in the run folder: {error}") from None


def _print(number: str, history: History, runs: list[Run], names: dict[str, str]) -> None:
    """What a person wants to know now."""
    first = runs[0]
    log = shlex.quote(str(history.path / f"{names[first.name]}.out"))
    nodes = shlex.quote(f"{os.path.abspath(first.history.path)}/{names[first.name]}-")
    elements = ranges(sorted(int(name.partition("_")[2]) for name in names.values())) if first.name else ""
    rows = {
        "job": f"{number}, array {elements}" if elements else number,
        "script": shlex.quote(str(history.script)),
        "log": log,
        "watch": f"distgan runs {shlex.quote(str(history.path.parent))}; once it runs: tail -F {log} {nodes}*.out",
        "stop": f"scancel {number} (saves first, and is not queued again)",
        "resume": "the same command again",
    }
    for name, text in rows.items():
        print(f"{name:8}{text}", flush=True)
