"""The two ends of a start, on the first node of its job: `job.py begin`; `job.py end`, which decides what comes next.

A run that was preempted, or that something outside of it has ended, goes on in the same job, requeued; where Slurm
forbids that, in a new one. One that failed for a reason of its own does not, nor one that is brought no further.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from distgan.errors import ConfigError, UserError  # noqa: E402
from distgan.exit_status import exit_status  # noqa: E402
from distgan.run_folder import RunFolder  # noqa: E402
from distgan.slurm.client import SlurmError, call  # noqa: E402
from distgan.slurm.history import History, now  # noqa: E402
from distgan.trouble import tell  # noqa: E402

_PATIENCE = 20.0
"""Seconds that another training in the folder is given to end."""
FRUITLESS = 3
"""Starts again that may bring a run no further."""


@dataclass(frozen=True)
class End:
    """How a start ended."""

    code: int
    """Exit status of srun."""
    status: str | None
    """What the training wrote; None where it did not come so far."""
    note: dict
    """end.json, empty where nobody wrote it."""
    asked: bool = False
    """Whether Slurm asked a node to stop."""
    silent: bool = False
    """Whether a node did not answer any more."""
    complaints: tuple[str, ...] = ()
    """What nodes found missing before they began."""
    fruitless: bool = False
    """Whether so many starts again have brought it no further."""


@dataclass(frozen=True)
class Decision:
    """What becomes of the job: `again`, or why not."""

    again: bool
    status: int
    """Exit status of the job."""
    why: str


def decide(end: End) -> Decision:
    """Whether a run that ended like this is started again."""
    said = end.note.get("why", "")
    if end.status == "finished" and end.note.get("status") != "failed":  # what failed may have been finished before
        return Decision(False, 0, "finished")
    if end.complaints:
        return Decision(False, 2, "; ".join(end.complaints))
    if end.status == "preempted":
        why = f"preempted by {said}" if said else "preempted"
    elif end.note.get("again", False):
        why = said
    elif end.status in ("failed", "finished") or said:
        return Decision(False, 1, said or "the training has failed; see what it said")
    elif end.silent:
        why = "a node does not answer"
    elif end.status == "running":
        why = "it was ended without a word"
    elif end.asked:
        why = "asked to stop before training began"
    else:
        return Decision(False, end.code or 1, "training did not begin; see the output of the nodes")
    if end.fruitless:
        return Decision(False, 1, f"{why}; no newer checkpoint since {FRUITLESS} starts again, so not once more")
    return Decision(True, 0, why)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("begin")
    ending = commands.add_parser("end")
    ending.add_argument("code", type=int, help="exit status of srun")
    ending.add_argument("marks", type=Path, help="what nodes left; removed")
    ending.add_argument("--silent", action="store_true", help="a node does not answer")
    args = parser.parse_args()
    job = Job(Path(os.environ["RUN_DIR"]))
    if args.command == "begin":
        return exit_status(job.begin)
    return exit_status(lambda: job.end(args.code, args.marks, args.silent))


class Job:
    """The one that this process is in."""

    def __init__(self, run_dir: Path) -> None:
        self.folder, self.history = RunFolder(run_dir), History(run_dir)
        places = os.environ
        self.id = places["SLURM_JOB_ID"]
        self.name = self.id  # as Slurm's commands know it; an element's own number would requeue the whole array
        if "SLURM_ARRAY_JOB_ID" in places:
            self.name = f"{places['SLURM_ARRAY_JOB_ID']}_{places['SLURM_ARRAY_TASK_ID']}"
        self.chain = places.get("DISTGAN_CHAIN", self.name)
        self.restart = int(places.get("SLURM_RESTART_COUNT", 0))
        self.nodes = places.get("SLURM_JOB_NODELIST", "")

    def begin(self) -> int:
        """Puts down that a start begins here. Raises UserError when it is one too many."""
        self._wait_for_others()
        for mark in self.history.path.glob(f".ended-{self.id}-*"):
            mark.unlink()
        if self._fruitless():  # one that Slurm itself has requeued
            why = f"no newer checkpoint since {FRUITLESS} starts again, so not once more"
            self.history.add_start(job=self.name, restart=self.restart, ended=now(), next="no progress", why=why)
            raise UserError(f"{self.folder.path}: {why}; look at the output of the starts in {self.history.path}")
        self.folder.forget_end()
        if self.folder.read_status() != "finished":  # of the start before
            self.folder.status.unlink(missing_ok=True)
        self.history.add_start(
            chain=self.chain, job=self.name, restart=self.restart, nodes=self.nodes, newest=self._newest(), time=now()
        )
        again = f", start {self.restart + 1}" if self.restart else ""
        step = self._newest()
        tell(
            f"job {self.name}{again} on {self.nodes}: {self.folder.path} {'begins' if step is None else f'from {step}'}"
        )
        return 0

    def end(self, code: int, marks: Path, silent: bool) -> int:
        """Starts it again where that is right. Returns the exit status of the job."""
        end = End(
            code=code,
            status=self.folder.read_status(),
            note=self.folder.read_end(),
            asked=_is_first(marks.with_name(f"{marks.name}.asked"), marks),
            silent=silent,
            complaints=tuple(marks.read_text().splitlines()) if marks.exists() else (),
            fruitless=self._fruitless(),
        )
        for mark in marks.parent.glob(f"{marks.name}*"):
            mark.unlink()
        decision = decide(end)
        if decision.again:
            return self._again(end, decision.why)
        what = "finished" if decision.status == 0 else "no progress" if end.fruitless else "failed"
        self._tell(end, what, decision.why)
        return decision.status

    def _again(self, end: End, why: str) -> int:
        """Requeues this job, or submits one that continues it."""
        self._tell(end, "requeued", why)  # before it is: that ends this process
        try:
            call("scontrol", "requeue", self.name)
        except SlurmError as refusal:
            try:
                self._tell(end, f"continued as {self._continue()}", str(refusal))
            except SlurmError as error:
                self._tell(end, "failed", f"{refusal}; {error}")
                return 1
        return 0

    def _tell(self, end: End, what: str, why: str) -> None:
        """In the job's output and in the history."""
        tell(f"job {self.name}: {what if what == why else f'{why}: {what}'}")
        try:
            self.history.add_start(
                job=self.name, restart=self.restart, ended=now(), code=end.code, status=end.status, next=what, why=why
            )
        except UserError as error:  # the job is over, or about to go on
            tell(str(error))

    def _continue(self) -> str:
        """The number of a new job with the same script, which begins when this one is over."""
        script = call("scontrol", "write", "batch_script", self.id, "-")
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
        element = ["--array", os.environ["SLURM_ARRAY_TASK_ID"]] if "SLURM_ARRAY_JOB_ID" in os.environ else []
        with tempfile.NamedTemporaryFile("w", suffix=".sbatch") as file:
            file.write(script)
            file.flush()
            words = ["sbatch", "--parsable", "--export=ALL", f"--dependency=afterany:{self.id}", *element, file.name]
            said = call(*words, env={**clean, "DISTGAN_CHAIN": self.chain})
        job = said.strip().partition(";")[0]
        return f"{job}_{element[1]}" if element else job

    def _wait_for_others(self) -> None:
        """Raises UserError while a training is running in the folder; one that is about to end is waited for."""
        until = time.monotonic() + _PATIENCE
        while self.folder.is_locked():
            if time.monotonic() > until:
                raise ConfigError(f"run_dir {self.folder.path}: a training is running in it; stop it, or use another")
            time.sleep(1)

    def _newest(self) -> int | None:
        """Step of the newest checkpoint."""
        return max((int(path.name) for path in self.folder.checkpoints.glob("[0-9]*") if path.is_dir()), default=None)

    def _fruitless(self) -> bool:
        began = [start.get("newest") for start in self.history.starts() if start.get("chain") == self.chain]
        newest = self._newest()
        return len(began) > FRUITLESS and all(step == newest for step in began[-FRUITLESS - 1 :])


def _is_first(asked: Path, ended: Path) -> bool:
    """Whether Slurm asked a node to stop before one had failed: upon that srun asks the others."""
    return asked.exists() and not (ended.exists() and ended.stat().st_mtime < asked.stat().st_mtime)


if __name__ == "__main__":
    sys.exit(main())
