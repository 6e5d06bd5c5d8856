"""The batch script of a run, or of an array of them, as a person would write it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distgan.errors import ConfigError
from distgan.slurm.options import Request

LAUNCHER = Path(__file__).absolute().parent / "launch.sh"
_COMMENTS = 44
"""Column in which the comments begin."""


@dataclass(frozen=True)
class Job:
    """What a script is for."""

    folder: Path
    """Run folder, or the one that holds those of the array; absolute."""
    python: str
    """Absolute path of the Python that is to train."""
    start: Path
    """Folder in which relative paths of the config begin."""
    arguments: tuple[str, ...] = ()
    """More for distgan/train.py."""
    indexes: tuple[int, ...] | None = None
    """Elements of the array; None: one run."""


def batch_script(job: Job, request: Request) -> str:
    """The text of the script. Raises ConfigError for a folder whose name Slurm cannot be given."""
    if bad := re.search(r"[\\\n]", f"{job.folder}{job.start}"):
        raise ConfigError(f"run_dir {job.folder}: Slurm takes no {bad[0]!r} in the name of a folder; use another")
    what = "the runs of the array in" if job.indexes is not None else "the run"
    lines = [
        "#!/bin/bash",
        f"# Trains {what} {job.folder}. Written by `distgan submit`; the same command writes it anew.",
        *(_commented(f"#SBATCH {option}", comment) for option, comment in _options(job, request)),
        *(f"#SBATCH {option}" for option in request.more),
        "",
        *request.before,
        *_environment(job, request),
        "",
        *_folder(job),
        "",
        "# Starts itself on every node, hands Slurm's signals on, and queues the job again where it is to go on.",
        " ".join(
            [
                f"exec bash {shlex.quote(str(LAUNCHER))}",
                '--config "$RUN_DIR/slurm/config.yaml"',
                *map(shlex.quote, job.arguments),
            ]
        ),
    ]
    return "\n".join(lines) + "\n"


def ranges(indexes: Sequence[int]) -> str:
    """Rising numbers as Slurm writes them: `0-2,5`."""
    parts: list[list[int]] = []
    for index in indexes:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _options(job: Job, request: Request) -> Iterator[tuple[str, str]]:
    """Each option of sbatch, and what it is for."""
    least, most = request.nodes
    yield f"--job-name={_quoted(job.folder.name)}", "shown by squeue"
    if job.indexes is not None:
        at_once = f"%{request.at_once}" if request.at_once else ""
        yield (
            f"--array={ranges(job.indexes)}{at_once}",
            "a line of slurm/elements each" + (", %: at once" if at_once else ""),
        )
    yield f"--nodes={request.nodes_text}", "machines" if least == most else "as many as are free: the curve is the same"
    if least == most:  # with it Slurm gives the least of a range, however many are free; srun asks for the same
        yield "--ntasks-per-node=1", "one launcher on each; it starts the processes"
    if request.gpus:
        yield f"--gpus-per-node={request.gpus}", "a process each"
    if request.cores:
        yield f"--cpus-per-task={request.cores}", "cores of each node, for all of its processes"
    if request.time:
        yield f"--time={request.time}", "limit of one start"
    for name, value in request.words.items():
        yield f"--{name}={_quoted(value)}", ""
    yield f"--signal=USR1@{request.warn}", "seconds before the limit: the run saves and leaves"
    yield ("--requeue", "it may be queued again") if request.requeue else ("--no-requeue", "it goes on in a new job")
    yield "--open-mode=append", "queued again it goes on in the same log"
    log = "%A_%a.out" if job.indexes is not None else "%j.out"
    yield f"--output={_quoted(str(job.folder / 'slurm').replace('%', '%%') + '/' + log)}", "log of the job"
    yield f"--chdir={_quoted(str(job.start))}", "where relative paths of the config begin"


def _environment(job: Job, request: Request) -> Iterator[str]:
    """The variables that the launcher reads, and those that the user gave."""
    for name, value in request.env.items():
        yield f"export {name}={shlex.quote(value)}"
    yield _export("PYTHON", job.python, "of the environment that distgan is installed in")
    yield _commented('export PATH="$(dirname "$PYTHON"):$PATH"', "its commands first")
    yield _export("PROCESSES", str(request.processes), "on each node")
    if not request.gpus:
        yield _export("DISTGAN_CPU", "1", "without GPUs")
    if request.interface:
        yield _export("DISTGAN_INTERFACE", request.interface, "network interface of NCCL and gloo")
    if request.scratch:
        yield _export("DISTGAN_SCRATCH", request.scratch, "on each node's own disk, for copies of the shards")


def _folder(job: Job) -> list[str]:
    """Which run it is."""
    if job.indexes is None:
        return [_export("RUN_DIR", str(job.folder), "a shared folder; slurm/config.yaml in it is what was submitted")]
    return [
        "# Each line of slurm/elements names the folder of a run; the first is element 0 of the array.",
        f"array={shlex.quote(str(job.folder))}",
        'element=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$array/slurm/elements")',
        'export RUN_DIR="$array/${element:?no such line in slurm/elements}"',
    ]


def _export(name: str, value: str, comment: str) -> str:
    return _commented(f"export {name}={shlex.quote(value)}", comment)


def _commented(line: str, comment: str) -> str:
    return f"{line.ljust(_COMMENTS)} # {comment}" if comment else line


def _quoted(value: str) -> str:
    """A value as an #SBATCH line takes it, where a # begins a comment."""
    if re.fullmatch(r"[\w@%+=:,./|&*()\[\]-]+", value, re.ASCII):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
