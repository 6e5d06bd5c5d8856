"""`distgan doctor`: what can be known of a run before it is started."""

from distgan.doctor.command import add_arguments, run
from distgan.doctor.equality import parity
from distgan.doctor.reading import data

__all__ = ["add_arguments", "data", "parity", "run"]
