"""Slurm's own commands, which answer or are told of in one line."""

from __future__ import annotations

import shutil
import subprocess

from distgan.errors import UserError

_PATIENCE = 60.0
"""Seconds that a busy controller is given."""


class SlurmError(UserError):
    """What Slurm refused, or that it does not answer."""


def is_here() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("sbatch") is not None


def call(*words: str, env: dict[str, str] | None = None, patience: float = _PATIENCE) -> str:
    """What a command prints, within so many seconds. Raises SlurmError with its own complaint."""
    try:
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=patience)
    except FileNotFoundError:
        raise SlurmError(
            f"{words[0]}: no such command; this machine has no Slurm (or its folder is not on PATH)"
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{words[0]}: no answer within {patience:g} s; is the Slurm controller up?") from None
    if done.returncode:
        said = [line.removeprefix(f"{words[0]}: ").removeprefix("error: ") for line in done.stderr.split("\n") if line]
        raise SlurmError(f"{words[0]}: {'; '.join(said) or f'ended with {done.returncode}'}")
    return done.stdout


def submit(script: str, *, env: dict[str, str] | None = None) -> str:
    """Queues a batch script. Returns the number of its job. Raises SlurmError with Slurm's complaint and, where that is
    about the partition, the ones there are."""
    try:
        said = call("sbatch", "--parsable", script, env=env)
    except SlurmError as error:
        known = _partitions() if "partition" in str(error) else ""
        raise SlurmError(f"{error}{known}") from None
    return said.strip().rpartition("\n")[2].partition(";")[0]


def _partitions() -> str:
    try:
        names = sorted(set(call("sinfo", "--noheader", "--format=%R").split()))
    except SlurmError:
        return ""
    return f"; partitions here: {', '.join(names)}" if names else ""
