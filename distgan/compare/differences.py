"""Where the configs of runs differ."""

from __future__ import annotations

import re
from collections.abc import Sequence

from distgan.compare.run_data import RunData

_APART = re.compile(r"run_dir|seed|tracking\.(.+\.)?(name|notes|tags)")
"""Of one run alone, and told elsewhere."""


def differences(runs: Sequence[RunData]) -> dict[str, list[object]]:
    """By key path the values of these runs, in their order; only keys of which not all have the same. None where a run
    does not have the key; runs without any config are left out of the comparison."""
    known = [run for run in runs if run.config]
    keys = dict.fromkeys(key for run in known for key in run.config if not _APART.fullmatch(key))
    return {
        key: [run.config.get(key) for run in runs]
        for key in keys
        if any(run.config.get(key) != known[0].config.get(key) for run in known)
    }
