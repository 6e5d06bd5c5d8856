"""The weight gradient of a convolution's double backward by `distgan.double_backward`, against torch's own.

    python -m benchmarks.double_backward [--device cuda] [--rounds 9] [--json FILE]

In channels_last, each round one after the other in one process; *ratio* is the median of our time over torch's. The
gradients are compared with those in float64. On a CPU one thread.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.step.counting import synchronise
from benchmarks.tables import grid
from distgan import double_backward


class Case(NamedTuple):
    """A convolution, and what it is given."""

    images: int
    inputs: int
    side: int
    outputs: int
    kernel: int
    stride: int = 1
    groups: int = 1

    @property
    def title(self) -> str:
        grouped = f", {self.groups} groups" if self.groups > 1 else ""
        return (
            f"{self.images} x {self.inputs} x {self.side} x {self.side} to {self.outputs}, "
            f"{self.kernel} x {self.kernel}, stride {self.stride}{grouped}"
        )


SMALL = [
    Case(8, 512, 4, 512, 3),
    Case(8, 256, 8, 512, 4, 2),
    Case(8, 128, 32, 128, 3),
    Case(8, 16, 64, 32, 3),
    Case(8, 16, 64, 32, 4, 2),
    Case(8, 16, 64, 16, 3, 1, 4),
    Case(8, 3, 64, 16, 1),
    Case(2, 8, 256, 8, 3),
]
LARGE = [Case(4, 64, 256, 64, 3), Case(4, 32, 512, 32, 3), Case(4, 16, 1024, 16, 3), Case(4, 16, 1024, 32, 4, 2)]
"""For a GPU alone."""


def compare(case: Case, dtype: torch.dtype, device: str, rounds: int) -> dict:
    """The times of both, and by how much each is off from float64, relative to its norm."""
    torch.manual_seed(0)
    padding = (case.kernel - 1) // 2
    convolution = nn.Conv2d(case.inputs, case.outputs, case.kernel, case.stride, padding, groups=case.groups)
    convolution = convolution.to(device, dtype, memory_format=torch.channels_last)
    shape = (case.images, case.inputs, case.side, case.side)
    x = torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    was_installed = double_backward.is_installed()
    double_backward.install()
    _, exact = _weight_gradient(copy.deepcopy(convolution).double(), x.double())
    ours, own = [], []
    for _ in range(rounds + 1):  # the first is for what is set up once
        ours.append(_weight_gradient(convolution, x))
        with double_backward.torchs_own():
            own.append(_weight_gradient(convolution, x))
    if not was_installed:
        double_backward.uninstall()
    ours_off, own_off = (((found[-1][1] - exact).norm() / exact.norm()).item() for found in (ours, own))
    return {
        "case": case.title,
        "dtype": str(dtype).removeprefix("torch."),
        "ratio": median(a / b for (a, _), (b, _) in zip(ours[1:], own[1:], strict=True)),
        "milliseconds": 1e3 * median(seconds for seconds, _ in own[1:]),
        "own_off": own_off,
        "ours_off": ours_off,
    }


def _weight_gradient(convolution: nn.Module, x: Tensor) -> tuple[float, Tensor]:
    """Of a function of the gradient by `x`; and the seconds that it alone takes."""
    made = F.leaky_relu(convolution(x.requires_grad_()))
    (first,) = torch.autograd.grad(made, x, torch.ones_like(made), create_graph=True)
    u = torch.linspace(-1, 1, first.numel(), device=x.device).view_as(first).to(first.dtype)
    synchronise()
    began = time.perf_counter()
    (found,) = torch.autograd.grad(first, convolution.weight, u)
    synchronise()
    return time.perf_counter() - began, found.double()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.double_backward",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    add("--rounds", type=int, default=9, metavar="N", help="(%(default)s)")
    add("--json", type=Path, metavar="FILE", help="receives all figures")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    cases = [*SMALL, *(LARGE if options.device == "cuda" else [])]
    found = [
        compare(case, dtype, options.device, options.rounds)
        for dtype in (torch.float32, torch.bfloat16)
        for case in cases
    ]
    heading = ["", "convolution", "torch's own, ms", "ratio", "torch's own off by", "ours"]
    rows = [
        [
            *(row["dtype"], row["case"], f"{row['milliseconds']:.2f}", f"{row['ratio']:.2f}"),
            *(f"{row['own_off']:.0e}", f"{row['ours_off']:.0e}"),
        ]
        for row in found
    ]
    print(grid([heading, *rows]))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
