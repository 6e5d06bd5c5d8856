"""`distgan doctor --parity`: the gradients of these processes against a float64 reference on one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from distgan.config import Config
from distgan.errors import UserError

if TYPE_CHECKING:
    from distgan.parity.check import Check, Row


def parity(config: Config, name: str) -> int:
    """Prints the table of the parity check, in the config's own precision and in fp64; of a run that grows at its full
    resolution, half faded in."""
    checks = [_measured(each) for each in _precisions(config)]
    runtime = checks[0].runtime

    def judge() -> int:
        parts = {check.config.train.precision: _rows(check) for check in checks}
        with contextlib.suppress(BrokenPipeError):  # whose reader has seen enough, such as `head`
            print(_table(config, runtime, name, parts), flush=True)  # before the others leave: the launcher ends all
        return int(not all(row.equal for rows in parts.values() for row in rows))

    status = runtime.from_main(judge)
    runtime.close()
    return status


def _precisions(config: Config) -> list[Config]:
    """The config, and what it is in fp64: rounding hides small faults, and what the config trains in must be seen."""
    if config.train.precision == "fp64":
        return [config]
    sharp = config.train.model_copy(update={"precision": "fp64", "reduce": "fp32"})
    return [config, config.model_copy(update={"train": sharp})]


def _measured(config: Config) -> Check:
    import torch

    from distgan.parity.check import Check
    from distgan.runtime import Runtime

    runtime = Runtime(config)
    if runtime.compiles:
        torch._dynamo.reset()  # it compiles one function so often and no more, and would then run it eagerly

    def tell(text: str) -> None:
        if runtime.is_main:
            print(f"{config.train.precision}: {text}", file=sys.stderr, flush=True)

    with _enough_memory(config):
        check = Check(config, runtime, tell)
        check.measure()
    return check


def _rows(check: Check) -> list[Row]:
    with _enough_memory(check.config):
        return check.rows()


@contextlib.contextmanager
def _enough_memory(config: Config) -> Iterator[None]:
    """What does not fit on a device is for the user to mend: fp64 takes two to four times what training does."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"the device has too little memory for the check in {config.train.precision}; give it a smaller "
            f"train.batch_size than {config.train.batch_size}, or a train.micro_batch"
        ) from None


def _table(config: Config, runtime, name: str, parts: dict[str, list[Row]]) -> str:
    """`parts`: the rows of each precision."""
    train = config.grown.train
    local = train.batch_size // runtime.world_size
    micro = min(train.micro_batch or local, local)
    lines = [
        f"{name}: {runtime.world_size} process{'es' * (runtime.world_size > 1)} on {runtime.device.type}, "
        f"{' and '.join(parts)}, {'compiled' if runtime.compiles else 'eager'}",
        f"batch {train.batch_size}: {local} on each process, {micro} at a time",
        "reference: float64, one process, the critic image after image, plain layers",
        *([f"growing: {config.data.resolution} px, half faded in"] if config.growing else []),
    ]
    rows = [row for part in parts.values() for row in part]
    width = max(len(row.what) for row in rows)
    for precision, part in parts.items():
        lines += ["", f"{precision:{width}}  {'error':>8}  {'bound':>8}"]
        for row in part:
            verdict = "equal" if row.equal else "NOT EQUAL"
            lines.append(f"{row.what:{width}}  {row.found:8.1e}  {row.bound:8.1e}  {verdict:9}  {row.note}".rstrip())
    unequal = sum(not row.equal for row in rows)
    return "\n".join([*lines, "", f"NOT EQUAL in {unequal} of {len(rows)}" if unequal else "all equal"])
