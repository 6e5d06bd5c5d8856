"""How a process ends, alone or as one of several: what it says of a failure, and with which status it leaves."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn, Protocol

from distgan.errors import UserError
from distgan.launcher import first_is_there

_FIRST_WORD = 3.0
"""Seconds that a process which leaves without a word gives the one that speaks: the launcher ends all others as soon as
one has left."""
_ALONE = 10.0
"""Seconds after which it has met alone what all were to meet, when the one that was to speak is at work still."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


LEFT_BEHIND = "left behind"
"""Name of threads that nobody may be able to wait for."""


class Peers(Protocol):
    """What knows of the other processes of a run."""

    def failed(self) -> None:
        """This process ends by a failure that it tells itself."""

    def lost(self) -> str | None:
        """What to say of the one that has gone; nothing where another process says it, None where nothing is known."""

    def close(self) -> None:
        """This process has done its work."""


peers: Peers | None = None
"""Set as soon as there are other processes that are known."""

keep: Callable[[str, bool], object] | None = None
"""Keeps why this process fails, and whether something outside of it is to blame. Set as soon as there is a folder."""

way_on: Callable[[], str] | None = None
"""Says how a run goes on that fails now, where it can; set once it has begun."""


def exit_status(action: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """What `action` returns (None: 0), or the status of its failure, which is told here."""
    try:
        return action() or 0
    except UserError as error:
        _keep(str(error), False)
        _tell_peers()
        if not (error.everywhere and _is_told()):
            text = and_way_on(str(error)) if error.goes_on else str(error)
            print(f"distgan: {text}".replace("\n", "\ndistgan: "), file=sys.stderr, flush=True)
        return error.exit_status
    except KeyboardInterrupt:
        _keep("interrupted", False)
        _tell_peers()
        print(f"distgan: {interrupted}", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in _FULL:
            return _defect(error)
        _keep(f"cannot write: {error.strerror}", False)
        _tell_peers()
        print(f"distgan: {and_way_on(f'cannot write: {error.strerror}')}", file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001  a defect of ours: its traceback, and then out before the others wait
        return _defect(error)


def _defect(error: Exception) -> int:
    if _is_lost_peer(error):
        rank = os.environ.get("RANK")
        told = peers.lost() if peers is not None else None
        if told is None:
            told = f"process {rank}: another process has ended; see what it said"
        if told != "":
            _keep(told or "another process has ended", True)
        if told:
            print(f"distgan: {and_way_on(told)}", file=sys.stderr, flush=True)
    else:
        _keep(f"{type(error).__name__}: {error}", False)
    _tell_peers()
    if not _is_lost_peer(error):
        import traceback

        traceback.print_exception(error)
    return 1


def _keep(why: str, again: bool) -> None:
    if keep is not None:
        keep(why, again)


def and_way_on(text: str) -> str:
    """What is said of a failure, and how the run goes on after it."""
    onward = way_on() if way_on is not None else ""
    return f"{text}; {onward}" if onward else text


def _tell_peers() -> None:
    """The others need not guess why this process is about to leave."""
    if peers is not None:
        peers.failed()


def _is_told() -> bool:
    """Whether the first process of this machine tells what all processes meet. It is given the time to do so; where it
    goes on it has not met it."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        return False
    told_by = time.monotonic() + _ALONE
    time.sleep(_FIRST_WORD)
    while first_is_there() and time.monotonic() < told_by:
        time.sleep(0.2)
    return not first_is_there()


def leave(status: int, *, orderly: bool = True) -> int:
    """The status, for `sys.exit`. After a failure of one of several processes it does not return: the others may wait
    for this one in a collective, and an orderly exit would wait for them.

    `orderly` False leaves at once in any case: torch is not always done with a communication hook when Python ends,
    and would turn a success into an abort. So does Python itself where a thread LEFT_BEHIND is still at work.
    """
    behind = any(thread.name == LEFT_BEHIND for thread in threading.enumerate())
    if (status or not orderly) and (int(os.environ.get("WORLD_SIZE", 1)) > 1 or behind):
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    return status


def end_now(status: int, *last: Callable[[], object], within: float) -> NoReturn:
    """Ends this process from any of its threads, whatever the others are in. Does before what is in `last`, for so many
    seconds: writing to a disk or a terminal that does not answer never ends."""

    def say() -> None:
        for action in (*last, sys.stdout.flush, sys.stderr.flush):
            with contextlib.suppress(Exception):
                action()

    with contextlib.suppress(RuntimeError):  # Python may be about to end
        words = threading.Thread(target=say, daemon=True)
        words.start()
        words.join(within)
    os._exit(status)


def _is_lost_peer(error: Exception) -> bool:
    """Whether an error only says that another process has gone. By name, since torch may not be loaded yet."""
    named = type(error).__name__ in ("DistBackendError", "DistNetworkError")
    return named or (isinstance(error, RuntimeError) and "by peer" in str(error))  # gloo's words
