"""Tables of measurements, and what they say of the machine."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path


def cpu_model() -> str:
    """Of the first core; the architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row is the heading."""
    heading, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [heading, ["---"] * len(heading), *rest])
