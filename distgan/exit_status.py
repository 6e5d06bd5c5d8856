"""How a process ends, alone or as one of several: what it says of a failure, and with which status it leaves."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable

from distgan.errors import UserError

_FIRST_WORD = 3.0
"""Seconds that a process which leaves without a word gives the one that speaks: the launcher ends all others as soon as
one has left."""


def exit_status(action: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """What `action` returns (None: 0), or the status of its failure, which is told here."""
    try:
        return action() or 0
    except UserError as error:
        if error.everywhere and os.environ.get("LOCAL_RANK", "0") != "0":  # told once a machine, by its first process
            time.sleep(_FIRST_WORD)
        else:
            print(f"distgan: {error}".replace("\n", "\ndistgan: "), file=sys.stderr, flush=True)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"distgan: {interrupted}", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return _defect(error)
        print(f"distgan: cannot write: {error.strerror}", file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001  a defect of ours: its traceback, and then out before the others wait
        return _defect(error)


def _defect(error: Exception) -> int:
    if _is_lost_peer(error):
        rank = os.environ.get("RANK")
        print(f"distgan: process {rank}: another process has ended; see what it said", file=sys.stderr)
    else:
        import traceback

        traceback.print_exception(error)
    return 1


def leave(status: int, *, orderly: bool = True) -> int:
    """The status, for `sys.exit`. After a failure of one of several processes it does not return: the others may wait
    for this one in a collective, and an orderly exit would wait for them.

    `orderly` False leaves at once in any case: torch is not always done with a communication hook when Python ends,
    and would turn a success into an abort.
    """
    if (status or not orderly) and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    return status


def _is_lost_peer(error: Exception) -> bool:
    """Whether an error only says that another process has gone. By name, since torch may not be loaded yet."""
    named = type(error).__name__ in ("DistBackendError", "DistNetworkError")
    return named or (isinstance(error, RuntimeError) and "by peer" in str(error))  # gloo's words
