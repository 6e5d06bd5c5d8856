"""Checkpoints: weights and everything else that shapes the rest of a run, under their final name only when whole.

`state` is what is kept, `snapshot` its copy on the host, `files` the folder that it becomes, `manifest` what says that
the folder is whole, `retention` which folders stay, `writer` the thread that writes them.
"""

from distgan.checkpoint.files import (
    Misfit,
    images_in,
    load,
    load_network,
    load_weights,
    newest_complete,
    save,
    settings_in,
    steps_in,
)
from distgan.checkpoint.manifest import MANIFEST, Damaged, seal, verify
from distgan.checkpoint.retention import kept, prune, sweep
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
    "images_in",
    "kept",
    "load",
    "load_network",
    "load_weights",
    "newest_complete",
    "prune",
    "save",
    "seal",
    "settings_in",
    "steps_in",
    "sweep",
    "verify",
]
