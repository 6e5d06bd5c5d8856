"""Ends a run of several processes soon when one of them is dead, stopped or stuck, and says which one and where."""

from distgan.watchdog.members import Member, this_process
from distgan.watchdog.watch import Idle, Watchdog
from distgan.watchdog.wire import Meeting, listen

__all__ = ["Idle", "Meeting", "Member", "Watchdog", "listen", "this_process"]
