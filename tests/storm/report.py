"""What a storm has shown: a table for people, and the same as JSON."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

from launching import assert_same_weights, lines, worst_difference, worst_weight_difference
from storm.run_files import left_behind

from distgan.tracking.names import OF_THE_MACHINE

ROUNDING = 1e-9
"""Most that losses, norms and weights may differ by in fp64 between numbers of processes."""


@dataclass
class Event:
    """A fault that has happened."""

    kind: str
    moment: str
    processes: int
    rank: int
    reached: int
    """The last step before it."""
    seconds: float
    """Until the processes were gone, or trained on."""
    log: str
    resumed: int | None = None
    """Where the next start that trained began."""
    lost: int | None = None
    """Steps done again."""


@dataclass
class Report:
    """A whole storm."""

    seed: int
    steps: int
    processes: list[int]
    events: list[Event] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What should not have been seen."""
    starts: int = 0
    """All that were launched."""
    seconds: float = 0.0
    calm_seconds: float = 0.0
    equal: bool = False
    bits: bool = False
    """Whether equal means to the bit."""
    difference: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.equal and not self.problems

    def as_dict(self) -> dict:
        """All of it, and the table by kind."""
        return {**asdict(self), "passed": self.passed, "kinds": self.by_kind()}

    def by_kind(self) -> dict[str, dict]:
        grouped: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            grouped[event.kind].append(event)
        return {kind: _summed(grouped[kind]) for kind in sorted(grouped)}

    def table(self) -> str:
        """Markdown."""
        rows = [*self.by_kind().items(), ("all", _summed(self.events))]
        text = [
            "| fault | times | steps lost | most at once | slowest end, s |",
            "|---|---|---|---|---|",
            *(f"| {kind} | {r['count']} | {r['lost']} | {r['most']} | {r['slowest']:.1f} |" for kind, r in rows),
            "",
            f"seed {self.seed}, {self.steps} steps, processes {' '.join(map(str, self.processes))}: {self.starts} "
            f"starts in {self.seconds:.0f} s (the calm run: {self.calm_seconds:.0f} s)",
            f"end state equal: {self._verdict()}",
        ]
        return "\n".join(text + [f"PROBLEM: {problem}" for problem in self.problems])

    def _verdict(self) -> str:
        by = ", ".join(f"{name} {value:.1e}" for name, value in self.difference.items())
        return f"{'yes' if self.equal else 'NO'}, {'to the bit' if self.bits else f'to rounding ({by})'}"


def _summed(events: list[Event]) -> dict:
    lost = [event.lost or 0 for event in events]
    return {
        "count": len(events),
        "lost": sum(lost),
        "most": max(lost, default=0),
        "slowest": max((event.seconds for event in events), default=0.0),
    }


def compare(report: Report, calm: Path, run: Path) -> None:
    """Fills in whether the two ended alike, and what of the run is not as it should be."""
    steps = [line["step"] for line in lines(run)]
    if steps != list(range(1, report.steps + 1)):
        report.problems.append(f"metrics.jsonl has the steps {steps}")
    if (status := (run / "status").read_text()) != "finished\n":
        report.problems.append(f"the status is {status.strip()}")
    if left := left_behind(run):
        report.problems.append(f"left behind: {', '.join(left)}")
    if report.problems and steps != list(range(1, report.steps + 1)):
        return
    report.bits = len(set(report.processes)) == 1
    report.equal = _same_bits(report, calm, run) if report.bits else _same_but_for_rounding(report, calm, run)


def _same_bits(report: Report, calm: Path, run: Path) -> bool:
    """Of the weights and moments, of all lines but for the clock, and of the sampled pictures."""
    found = []
    for one, other in zip(lines(calm), lines(run), strict=True):
        keys = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)} - set(OF_THE_MACHINE)
        found += [f"line {one['step']}: {key}" for key in sorted(keys)]
    pictures = [
        {path.name: path.read_bytes() for path in (root / "samples").glob("[0-9]*.png")} for root in (calm, run)
    ]
    names = sorted(pictures[0].keys() | pictures[1].keys())
    found += [f"samples/{name}" for name in names if pictures[0].get(name) != pictures[1].get(name)]
    try:
        assert_same_weights(calm, run, report.steps)
    except AssertionError as error:
        found.append(f"checkpoint: {str(error).splitlines()[0]}")
    report.problems += [f"differs: {', '.join(found)}"] if found else []
    return not found


def _same_but_for_rounding(report: Report, calm: Path, run: Path) -> bool:
    report.difference = {
        "losses and norms": worst_difference(calm, run),
        "weights": worst_weight_difference(calm, run, report.steps),
    }
    return max(report.difference.values()) <= ROUNDING
