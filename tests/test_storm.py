"""A short storm over a real training: every kind of loss that matters, and the end as if nothing had been."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from launching import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SHORT = {
    "to the bit": (
        "--processes 2 --seed 25",
        [
            "SIGKILL of one process",
            "SIGTERM to one process",
            "checkpoint truncated",
            "disk full for a while",
            "SIGKILL of all",
        ],
    ),
    "to rounding": (
        "--processes 2 1 --seed 49",
        ["SIGUSR1 to one process", "corrupted picture", "NaN in one process", "SIGINT to one process"],
    ),
}
"""Seeds with which signals come while training and saving, the last one at the end, and NaN on the second process."""


@pytest.mark.parametrize("equal", ["to the bit", pytest.param("to rounding", marks=pytest.mark.long)])
def test_a_run_through_a_storm_ends_like_a_calm_one(tmp_path, equal):
    flags, kinds = SHORT[equal]
    words = [
        sys.executable,
        ROOT / "tests" / "storm" / "storm.py",
        *flags.split(),
        "--faults",
        len(kinds),
        "--steps",
        36,
    ]
    words += ["--json", tmp_path / "report.json", "--folder", tmp_path / "storm", "--kinds", *kinds]
    storm = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = storm.communicate(timeout=400)
    finally:
        storm.send_signal(signal.SIGTERM)  # upon which it ends its trainings
        storm.wait(30)
    print(said)
    report = json.loads((tmp_path / "report.json").read_text())
    assert storm.returncode == 0 and report["passed"], said
    assert {kind: of["count"] for kind, of in report["kinds"].items()} == dict.fromkeys(kinds, 1)
    assert report["bits"] == (equal == "to the bit")
