"""The parts of the check: each a command with a time limit, and how its result is read."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OK, FAILED, SKIPPED = "ok", "failed", "skipped"
_FOR_TESTS = {"pytest": "pytest", "hypothesis": "hypothesis", "pytest_timeout": "pytest-timeout"}
_TEST_PROCESSES = 6
"""Of the tests at most, where pytest-xdist is there: they wait for compilers more than for the GPU."""
_TAIL = 4000
"""Characters of a failed command's output that are kept."""


@dataclass
class Part:
    """What was found of one part."""

    state: str
    reason: str = ""
    seconds: float = 0.0
    found: dict = field(default_factory=dict)


@dataclass
class Options:
    """What the command was asked for."""

    device: str
    shards: Path | None = None
    tiny: bool = False
    """The smallest sizes: to see that the command works."""


@dataclass
class Ended:
    """A command that has ended, or was."""

    status: int | None
    """None where its time was up."""
    output: str
    seconds: float

    @property
    def reason(self) -> str:
        if self.status is None:
            return f"its time was up after {self.seconds:.0f} s"
        return f"status {self.status}" if self.status else ""

    def part(self, found: dict) -> Part:
        """Failed with the end of its output, or fine."""
        if self.status == 0:
            return Part(OK, "", self.seconds, found)
        return Part(FAILED, self.reason, self.seconds, {**found, "output": self.output[-_TAIL:]})


def execute(words: list[str], seconds: float) -> Ended:
    """Runs `python words` in the root of the checkout; its processes end with it when its time is up."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        child = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status: int | None = child.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        output.seek(0)
        return Ended(status, output.read(), time.perf_counter() - started)


def tests(options: Options, seconds: float) -> Part:
    """The tests that only a GPU can run."""
    if options.device != "cuda":
        return Part(SKIPPED, "needs a CUDA device")
    missing = [package for module, package in _FOR_TESTS.items() if not importlib.util.find_spec(module)]
    if missing:
        return Part(SKIPPED, f"not installed: {', '.join(missing)}; pip install {' '.join(missing)}")
    workers = min(_TEST_PROCESSES, (os.cpu_count() or 1) // 2)
    several = ["--numprocesses", str(workers)] if workers > 1 and importlib.util.find_spec("xdist") else []
    words = ["-m", "pytest", "-m", "gpu", "-vv", "-p", "no:cacheprovider", "--color=no", *several, *files_with_marked()]
    ended = execute(words, seconds)
    return ended.part({"tests": outcomes(ended.output)})


def files_with_marked() -> list[str]:
    """Files of tests that are marked gpu; the others may import what a machine with a GPU has not."""
    files = (path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text())
    return sorted(str(path.relative_to(ROOT)) for path in files)


def outcomes(output: str) -> dict[str, str]:
    """What pytest -v told of each test, of those that had ended; alone, and in several processes."""
    states = "(PASSED|FAILED|ERROR|SKIPPED)"
    alone = re.findall(rf"^(tests/\S+::.+?) {states}", output, re.MULTILINE)
    several = re.findall(rf"^\[gw\d+\] \[ *\d+%\] {states} (tests/\S+::.+?) *$", output, re.MULTILINE)
    return dict(alone) | {test: state for state, test in several}


def parity(options: Options, seconds: float) -> Part:
    """`distgan doctor --parity` with a few networks, precisions, eager and compiled."""
    began, found = time.perf_counter(), {}
    for name, words in _subjects(options).items():
        left = seconds - (time.perf_counter() - began)
        if left < 1:
            found[name] = {"state": SKIPPED, "reason": "no time left"}
            continue
        device = [f"train.device={options.device}", "run_dir=unused"]
        ended = execute(["-m", "distgan.cli", "doctor", "--parity", *words, *device], left)
        state = OK if ended.status == 0 else FAILED
        found[name] = {
            "state": state,
            "reason": ended.reason,
            "seconds": ended.seconds,
            "output": ended.output[-_TAIL:],
        }
    return _together(found, time.perf_counter() - began)


def _together(found: dict[str, dict], seconds: float) -> Part:
    failed = [f"{name} ({one['reason']})" for name, one in found.items() if one["state"] == FAILED]
    skipped = [name for name, one in found.items() if one["state"] == SKIPPED]
    if failed:
        return Part(FAILED, "; ".join(failed), seconds, found)
    if skipped:
        return Part(FAILED, f"no time left for: {', '.join(skipped)}", seconds, found)
    return Part(OK, "", seconds, found)


def _subjects(options: Options) -> dict[str, list[str]]:
    if options.tiny:
        small = ["train.batch_size=2", "generator.width=4", "critic.width=4", "train.compile=false"]
        return {"tiny, fp64, eager": ["--config", "tests/tiny.yaml", *small, "train.precision=fp64"]}
    resnet, dcgan = "configs/cifar10_resnet.yaml", "configs/celeba64.yaml"
    eager = ((dcgan, "fp32", "false"), (resnet, "bf16", "false"), (resnet, "fp16", "false"))
    wanted = (*eager, (dcgan, "bf16", "true"))  # the slow one last
    return {
        f"{config}, {precision}, {'compiled' if compiled == 'true' else 'eager'}": [
            *("--config", config, f"train.precision={precision}", f"train.compile={compiled}", "train.batch_size=8"),
        ]
        for config, precision, compiled in wanted
    }


def step(options: Options, seconds: float) -> Part:
    """The benchmark of the step, with the peak of the device's memory."""
    small = [
        "--networks",
        "mlp",
        "--resolutions",
        "32",
        "--batch",
        "4",
        "--rounds",
        "1",
        "--modes",
        "exact work-saving",
    ]
    modes = [
        "exact work-saving",
        "+ channels_last",
        "+ tf32",
        "+ bf16",
        "bf16, compiled",
    ]  # to compile more takes minutes
    size = small if options.tiny else ["--quick", "--modes", *modes]
    return _with_json(["-m", "benchmarks.step", "--device", options.device, *size, "--json"], seconds)


def sizes(options: Options, seconds: float) -> Part:
    """Seconds a kimg and memory of the networks for high resolutions, at four images."""
    few = ["train.batch_size=4", "train.compile=false", f"train.device={options.device}"]
    if options.tiny:
        words = ["tests/growing.yaml", *few, "--steps", "1", "--resolutions", "8"]
    else:
        configs = [f"configs/high_resolution/{name}.yaml" for name in ("celebahq1024", "ffhq256")]
        words = [*configs, *few, "--steps", "3", "--resolutions", "256", "512", "1024"]
    return _with_json(["-m", "benchmarks.high_resolution", "--measure", *words, "--json"], seconds)


def training(options: Options, seconds: float) -> Part:
    """A short real training, watched."""
    words = ["-m", "benchmarks.gpu_check.training", "--device", options.device]
    words += ["--shards", str(options.shards.resolve())] if options.shards else []
    return _with_json([*words, *(["--tiny"] if options.tiny else []), "--json"], seconds)


def _with_json(words: list[str], seconds: float) -> Part:
    """A command that writes what it finds into the file named by its last word."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "found.json")
        ended = execute([*words, str(file)], seconds)
        found = {}
        with contextlib.suppress(OSError, ValueError):  # cut off, or never begun
            found = json.loads(file.read_text())
        part = ended.part(found)
    if part.state == OK and found.get("problems"):
        part.state, part.reason = FAILED, "; ".join(found["problems"])
    return part


PARTS: dict[str, tuple[Callable[[Options, float], Part], float]] = {
    "tests": (tests, 200),
    "parity": (parity, 90),
    "step": (step, 130),
    "sizes": (sizes, 95),
    "training": (training, 75),
}
"""Each with the most seconds that it may take: less than ten minutes together."""
