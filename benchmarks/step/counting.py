"""The floor: how many multiplications an update needs, and how many this machine does in a second."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn.functional import conv2d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Counter(TorchDispatchMode):
    """Adds up what convolutions and matrix products multiply, backward and double backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.multiplications = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        count = flop_registry.get(function.overloadpacket)
        if count is not None:
            self.multiplications += count(*args, **(kwargs or {}), out_val=result) // 2
        return result


def multiplications(update: Callable[[], object]) -> int:
    """What an eager update multiplies in convolutions and matrix products. (torch's own `FlopCounterMode` follows
    modules with hooks that a gradient with respect to an input does not bear.)"""
    with _Counter() as counter:
        update()
    return counter.multiplications


def rate(device: torch.device, dtype: torch.dtype, tries: int, batch: int | None = None) -> float:
    """Multiplications a second of the best of a few large convolutions, each at its best of `tries`, under the settings
    of now."""
    batch = batch or (16 if device.type == "cpu" else 256)
    return max(_rate(*each, tries) for each in _convolutions(device, dtype, batch))


def _convolutions(device: torch.device, dtype: torch.dtype, batch: int) -> list[tuple[Callable[[], object], int]]:
    """Each with what it multiplies."""
    found: list[tuple[Callable[[], object], int]] = []
    for inputs, outputs, kernel, stride, side in ((128, 128, 3, 1, 32), (256, 512, 4, 2, 16), (128, 256, 4, 2, 32)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(batch, inputs, side, side, device=device, dtype=dtype).to(memory_format=layout)
            weight = torch.randn(outputs, inputs, kernel, kernel, device=device, dtype=dtype).to(memory_format=layout)
            count = batch * (side // stride) ** 2 * outputs * inputs * kernel**2
            found.append((lambda x=x, w=weight, s=stride: conv2d(x, w, stride=s, padding=1), count))
    return found


@torch.no_grad()
def _rate(convolve: Callable[[], object], count: int, tries: int) -> float:
    convolve()
    seconds = []
    for _ in range(tries):
        synchronise()
        started = time.perf_counter()
        convolve()
        synchronise()
        seconds.append(time.perf_counter() - started)
    return count / min(seconds)


def synchronise() -> None:
    """Waits for the device, if there is one that runs beside the host."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
