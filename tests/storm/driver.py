"""What the storm starts in place of `distgan/train.py`: the same training, slow enough to be hit, on a slow disk, and
with a loss that goes bad where and when a file asks for it.

STORM_PAUSE and STORM_DISK are the seconds that an update of the critic and an fsync take longer; STORM_CONTROL is the
folder of the requests: `nan-1` there makes the next loss of process 1 a NaN.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from distgan import train as entry  # noqa: E402

PAUSE, DISK = (float(os.environ.get(name, 0)) for name in ("STORM_PAUSE", "STORM_DISK"))
CONTROL = Path(os.environ["STORM_CONTROL"])


def asked(request: str) -> bool:
    """Whether this was asked of this process; once."""
    try:
        (CONTROL / f"{request}-{os.environ.get('RANK', 0)}").unlink()
    except FileNotFoundError:
        return False
    return True


def plant() -> None:
    """Changes the critic's objective and the disk, in this process."""
    from distgan.objectives.critic import CriticObjective

    forward, fsync = CriticObjective.forward, os.fsync

    def slow_forward(self, *args, **kwargs):
        time.sleep(PAUSE)
        loss, metrics = forward(self, *args, **kwargs)
        return (loss * float("nan") if asked("nan") else loss), metrics

    def slow_fsync(descriptor) -> None:
        time.sleep(DISK)
        fsync(descriptor)

    CriticObjective.forward, os.fsync = slow_forward, slow_fsync


def main() -> int:
    """distgan.train's own, whose handlers of signals are in place before torch is loaded here."""
    train = entry.train

    def planted(*args) -> None:
        plant()
        train(*args)

    entry.train = planted
    return entry.main()


if __name__ == "__main__":
    sys.exit(main())
