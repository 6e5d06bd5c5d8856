"""What a test may leave behind in its process, where every later test would meet it."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable

import torch

LIBRARIES = ("_TORCHINDUCTOR_", "TORCHINDUCTOR_", "TRITON_", "PYTEST_")
"""What variables begin with that libraries set for good."""
KEPT = (signal.SIGALRM, signal.SIGCHLD)
"""Signals of the limit of time, and of torch's loaders, which listen for good."""
RAISED = "RLIMIT_NOFILE"
"""The limit that a process of ours raises as far as it may, for good, when it opens many shards."""
LIMITS = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_") and name != RAISED}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(LIBRARIES)}


def _set_environment(environment: dict[str, str]) -> None:
    for name in _environment().keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


def _limits() -> dict[str, tuple[int, int]]:
    return {name: resource.getrlimit(number) for name, number in LIMITS.items()}


def _set_limits(limits: dict[str, tuple[int, int]]) -> None:
    for name, limit in limits.items():
        resource.setrlimit(LIMITS[name], limit)


def _handlers() -> dict:
    return {number.name: signal.getsignal(number) for number in signal.Signals if number not in KEPT}


def _set_handlers(handlers: dict) -> None:
    for name, handler in handlers.items():
        if signal.getsignal(signal.Signals[name]) != handler:
            signal.signal(signal.Signals[name], handler)


STATE: dict[str, tuple[Callable, Callable]] = {
    "environment": (_environment, _set_environment),
    "working directory": (os.getcwd, os.chdir),
    "umask": (_umask, os.umask),
    "limits": (_limits, _set_limits),
    "signal handlers": (_handlers, _set_handlers),
    "torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
}
"""How each is read, and set again."""


def state() -> dict:
    return {name: read() for name, (read, _) in STATE.items()}


def put_back(before: dict) -> list[str]:
    """Everything is as it was before; what was not, and how."""
    found = []
    for name, (read, write) in STATE.items():
        now = read()
        if now != before[name]:
            found.append(f"{name}: {_difference(before[name], now)}")
            write(before[name])
    return found


def _difference(before: object, now: object) -> str:
    if not isinstance(before, dict):
        return f"{before} became {now}"
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return ", ".join(f"{key}={before.get(key)} became {now.get(key)}" for key in keys)
