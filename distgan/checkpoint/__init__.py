"""Checkpoints: weights and everything else that shapes the rest of a run, under their final name only when whole.

`state` is what is kept, `snapshot` its copy on the host, `files` a folder with a manifest, `retention` which folders
stay, `writer` the thread that writes them.
"""

from distgan.checkpoint.files import (
    MANIFEST,
    Damaged,
    Misfit,
    load,
    load_network,
    load_weights,
    newest_complete,
    save,
    steps_in,
    verify,
)
from distgan.checkpoint.retention import kept, prune
from distgan.checkpoint.snapshot import Snapshots
from distgan.checkpoint.state import CRITIC, GENERATOR, GENERATOR_EMA, Progress, TrainState
from distgan.checkpoint.writer import Writer

__all__ = [
    "CRITIC",
    "GENERATOR",
    "GENERATOR_EMA",
    "MANIFEST",
    "Damaged",
    "Misfit",
    "Progress",
    "Snapshots",
    "TrainState",
    "Writer",
    "kept",
    "load",
    "load_network",
    "load_weights",
    "newest_complete",
    "prune",
    "save",
    "steps_in",
    "verify",
]
