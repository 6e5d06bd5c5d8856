"""The config of a run: its keys, its files, its mistakes. Imports no torch, so a bad config fails at once."""

from distgan.config.conflicts import MEASURED_BY, process_conflicts
from distgan.config.duration import Duration
from distgan.config.keys import reference
from distgan.config.loading import dump_config, flatten, load_config, raise_mistakes, read_config
from distgan.config.schema import Config

__all__ = [
    "MEASURED_BY",
    "Config",
    "Duration",
    "dump_config",
    "flatten",
    "load_config",
    "process_conflicts",
    "raise_mistakes",
    "read_config",
    "reference",
]
