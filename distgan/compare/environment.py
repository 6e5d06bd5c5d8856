"""Where a run was computed, for a person: as distgan tells it of a start, and as W&B does."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence


def of_start(start: object) -> dict[str, str]:
    """From what environment.json says of a start; what is not there, or is damaged, is left out."""
    with contextlib.suppress(LookupError, TypeError, AttributeError):
        packages = start.get("packages") or {}
        git = start.get("git") or {}
        commit = re.sub(r"[^0-9a-f].*", "", str(git.get("commit", "")))[:10]
        return _known(
            {
                "processes": start.get("world_size"),
                "devices": counted(start.get("devices") or []) or "CPU",
                "CPU cores": start.get("cpu_cores"),
                "machine": start.get("host"),
                "torch": packages.get("torch"),
                "python": start.get("python"),
                "commit": commit + (" and changes" if commit and git.get("changed") else ""),
            }
        )
    return {}


def of_wandb(about: Mapping) -> dict[str, str]:
    """From what W&B records by itself, in its offline files and on its servers."""
    gpus = about.get("gpu_count", 1)
    return _known(
        {
            "devices": f"{gpus} x {about['gpu']}" if about.get("gpu") else None,
            "CPU cores": about.get("cpu_count"),
            "machine": about.get("host"),
            "python": about.get("python"),
            "commit": str((about.get("git") or {}).get("commit", ""))[:10],
        }
    )


def counted(names: Sequence[str]) -> str:
    """Equal ones once, with their number."""
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _known(told: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in told.items() if value not in (None, "")}
