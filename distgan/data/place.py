"""Where a stream is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


def _alone(text: str) -> str:
    return text


def _only(texts: frozenset[str]) -> frozenset[str]:
    return texts


class Place(NamedTuple):
    """Where a stream is read: by which process, onto which device."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    local_rank: int = 0
    """Number of this process on its machine."""
    local_size: int = 1
    """Processes on this machine."""
    cores: int = 1
    """Of this process."""
    share: Callable[[str], str] = _alone
    """Takes a text of each process of a machine to that of the first of them; all call it together."""
    union: Callable[[frozenset[str]], frozenset[str]] = _only
    """The texts that any process of the run holds; all call it together."""
