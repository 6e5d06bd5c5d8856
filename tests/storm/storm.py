"""Trains through a seeded storm of faults, and compares the end with a calm run:

    python tests/storm/storm.py --seed 1 --faults 50 --processes 1 2 4
    python tests/storm/storm.py --seed 1 --faults 50 --processes 2

With one number of processes the end must be the same to the bit; with several all is fp64, and equal to rounding. Exit
status 1 where it is not, or where a fault was not met as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from storm.disk import enter_namespace, make_disk  # noqa: E402
from storm.faults import KINDS, Fault, Outcome, Scene, plan  # noqa: E402
from storm.report import Event, Report, compare  # noqa: E402
from storm.run_files import is_saving, last_step, starts, state_of  # noqa: E402
from storm.spoiling import Shards  # noqa: E402
from storm.starts import Start, Trouble  # noqa: E402

from distgan.config import load_config  # noqa: E402
from distgan.data.prepare import prepare  # noqa: E402

CONFIG = Path(__file__).resolve().parent / "storm.yaml"
PICTURES = 2048
PAUSE, DISK = 0.03, 0.02
"""Seconds that each update of the critic and each fsync take longer, so that a fault finds them."""


class Storm:
    """A run, what is done to it, and what is seen."""

    def __init__(self, folder: Path, report: Report) -> None:
        self.folder, self.report = folder, report
        self.disk = make_disk(folder / "disk")
        self.run, self.calm = folder / "disk" / "run", folder / "calm"
        self.control = folder / "control"
        self.control.mkdir()
        if not (folder / "shards").exists():
            prepare("shapes", None, folder / "shards", resolution=32, count=PICTURES, shard_size=256, workers=1)
        self.shards = Shards(load_config([CONFIG], self._overrides(self.run)))
        self.start: Start | None = None
        self._open: list[tuple[Event, Outcome]] = []
        self._seen = 0
        self._startup = 8.0

    def _overrides(self, run: Path) -> list[str]:
        precision = "fp32" if len(set(self.report.processes)) == 1 else "fp64"
        length = f"train.length={self.report.steps} steps"
        return [f"data.shards={self.folder / 'shards'}", f"run_dir={run}", length, f"train.precision={precision}"]

    def launch(self, processes: int, run: Path | None = None) -> Start:
        """Another start, of the run or of the calm one."""
        calm = run is not None
        log = self.folder / ("calm.log" if calm else f"start-{self.report.starts:03d}.log")
        slower = {"STORM_PAUSE": str(0 if calm else PAUSE), "STORM_DISK": str(0 if calm else DISK)}
        environment = {**slower, "STORM_CONTROL": str(self.control)}
        self.report.starts += not calm
        words = ["--config", str(CONFIG), *self._overrides(run or self.run)]
        return Start(words, processes, log, environment)

    def be_calm(self) -> None:
        """The run without faults; from it, how long a start takes before its first step."""
        start = self.launch(self.report.processes[0], self.calm)
        start.await_(lambda: last_step(self.calm) > 0, "the first step of the calm run")
        self._startup = time.monotonic() - start.began
        if start.end():
            raise Trouble(f"the calm run failed:\n{start.text}")
        self.report.calm_seconds = time.monotonic() - start.began

    def meet(self, fault: Fault) -> None:
        """Lets one fault happen at its moment, and looks at what comes of it."""
        if self.start is None or self.start.process.poll() is not None:
            self.start = self.launch(fault.processes)
        self._metrics = state_of(self.run / "metrics.jsonl")
        self._await(fault)
        draw = Random(f"{self.report.seed} {fault}")
        scene = self._scene(fault, draw)
        reached, began = last_step(self.run), time.monotonic()
        outcome = fault_outcome(fault, scene)
        self.start = scene.start
        seconds = self._watch(fault, outcome, reached, began)
        if not outcome.goes_on:
            reached = max(reached, last_step(self.run))
        event = Event(
            fault.kind, fault.moment, scene.start.processes, scene.rank, reached, seconds, scene.start.log.name
        )
        _tell(f"{len(self.report.events) + 1:3d}  step {reached:4d}  {fault.moment:9}{fault.kind}  {seconds:.1f} s")
        self._settle()
        self.report.events.append(event)
        if outcome.goes_on or self._metrics == state_of(self.run / "metrics.jsonl"):
            event.lost = 0  # nothing had been done since the start
        if not outcome.goes_on:
            self._open.append((event, outcome))

    def finish(self) -> None:
        """The last start, without faults."""
        for _ in range(3):
            if self.start is None or self.start.process.poll() is not None:
                self.start = self.launch(self.report.processes[0])
            status = self.start.end()
            self._settle()
            if status == 0:
                return
        self._wrong(f"the run cannot be finished: status {status}, see {self.start.log}")

    def _scene(self, fault: Fault, draw: Random) -> Scene:
        processes = self.start.processes
        return Scene(
            start=self.start,
            launch=lambda: self.launch(processes),
            rank=int(fault.rank * processes),
            draw=draw,
            run=self.run,
            disk=self.disk,
            shards=self.shards,
            control=self.control,
        )

    def _await(self, fault: Fault) -> None:
        """The moment of a fault."""
        if fault.moment == "starting":
            time.sleep(max(0.0, self.start.began + fault.delay * self._startup - time.monotonic()))
            return
        self.start.await_(self._has_begun, "the start of the training")  # the lines of the one before are cut by then
        self.start.await_(lambda: last_step(self.run) >= fault.step, f"step {fault.step}")
        if fault.moment == "saving":
            self.start.await_(lambda: is_saving(self.run), "a checkpoint being written")
        time.sleep(fault.delay * {"training": 0.15, "saving": 0.2, "ending": 0.4}[fault.moment])

    def _has_begun(self) -> bool:
        return self._metrics != state_of(self.run / "metrics.jsonl")

    def _watch(self, fault: Fault, outcome: Outcome, reached: int, began: float) -> float:
        """Waits for what must come of a fault; returns the seconds that it took."""
        if outcome.goes_on:
            self.start.await_(lambda: last_step(self.run) > reached, "a step after the fault")
            return time.monotonic() - began
        status = self.start.end()
        seconds = time.monotonic() - began
        outcome.after()
        where = f"{fault.kind}, {fault.moment}, see {self.start.log}"
        if seconds > outcome.within:
            self._wrong(f"{where}: took {seconds:.1f} s, and not {outcome.within:.0f}")
        if outcome.success is not None and outcome.success != (status == 0):
            self._wrong(f"{where}: exit status {status}")
        self._require(outcome.says, self.start, where)
        return seconds

    def _settle(self) -> None:
        """What the first start that trained after the faults so far tells of them."""
        found = starts(self.run)[self._seen :]
        if not found:
            return
        self._seen += len(found)
        for event, outcome in self._open:
            event.resumed = found[0]
            event.lost = event.reached - found[0] if event.lost is None else event.lost
            where = f"{event.kind}, {event.moment}, after {event.log}"
            if event.lost and not outcome.loses:
                self._wrong(f"{where}: {event.lost} steps are lost")
            self._require(outcome.next_says, self.start, where)
        self._open.clear()

    def _require(self, said: tuple[str, ...], start: Start, where: str) -> None:
        missing = [words for words in said if words not in start.text]
        if missing:
            self._wrong(f"{where}: {start.log.name} does not say {missing}")

    def _wrong(self, problem: str) -> None:
        _tell(f"PROBLEM: {problem}")
        self.report.problems.append(problem)


def fault_outcome(fault: Fault, scene: Scene) -> Outcome:
    """What the fault does now. While it starts or ends, a training may meet it in any way that loses nothing."""
    outcome = KINDS[fault.kind].act(scene)
    if fault.moment == "starting":
        return replace(outcome, success=None)
    if fault.moment == "ending":
        return replace(outcome, success=None if outcome.success is False else outcome.success)
    return outcome


def ride(folder: Path, report: Report, faults: list[Fault]) -> None:
    """The calm run, the storm, the comparison."""
    storm = Storm(folder, report)
    try:
        storm.be_calm()
        _tell(f"the calm run took {report.calm_seconds:.0f} s")
        began = time.monotonic()
        for fault in faults:
            storm.meet(fault)
        storm.finish()
        report.seconds = time.monotonic() - began
        compare(report, storm.calm, storm.run)
    except Trouble as trouble:
        report.problems.append(str(trouble))
    finally:
        if storm.start is not None:
            storm.start.kill()
        if not report.passed:
            shutil.copytree(storm.run, folder / "run", dirs_exist_ok=True)  # the tmpfs goes with this process


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--steps", type=int, help="of the run; default: 6 for each fault")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="of the starts, drawn for each")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the report")
    parser.add_argument("--folder", type=Path, help="of all that is written; default: one that is removed at the end")
    args = parser.parse_args()
    if unknown := set(args.kinds) - KINDS.keys():
        parser.error(f"unknown faults: {', '.join(unknown)}")
    enter_namespace()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    steps = args.steps or 6 * args.faults
    report = Report(args.seed, steps, args.processes)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="storm-"))
    folder.mkdir(parents=True, exist_ok=True)
    ride(folder.resolve(), report, plan(args.seed, args.faults, steps, args.processes, args.kinds))
    print(report.table(), flush=True)
    if args.json:
        args.json.write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    if args.folder is None and report.passed:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if report.passed else 1


def _tell(line: str) -> None:
    print(f"storm: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
