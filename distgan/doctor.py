"""`distgan doctor`: what can be known of a run before it is started."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from distgan.config import Config, load_config, process_conflicts, raise_mistakes
from distgan.errors import ConfigError, DataError, UserError

if TYPE_CHECKING:
    from distgan.parity.check import Check, Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parity",
        action="store_true",
        help="compare the gradients of these processes with a float64 reference on one process",
    )
    parser.add_argument("--data", action="store_true", help="read every picture of the config's shards")
    parser.add_argument("--config", action="append", default=[], required=True, metavar="FILE", help="later files win")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="laid on the files")


def run(args: argparse.Namespace) -> int:
    """0 when everything is equal and sound, else 1, on every process. Raises UserError."""
    if not (args.parity or args.data):
        raise ConfigError("doctor: nothing to do; give --parity, --data, or both")
    config = load_config(args.config, args.overrides)
    ill = data(config, ", ".join(args.config)) if args.data else 0
    if not args.parity:
        return ill

    from distgan.runtime import launched_processes

    raise_mistakes(process_conflicts(config, launched_processes()))
    return parity(config, ", ".join(args.config)) or ill


def parity(config: Config, name: str) -> int:
    """Prints the table of the parity check, in the config's own precision and in fp64."""
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
    return [config, config.model_copy(update={"train": config.train.model_copy(update={"precision": "fp64"})})]


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
    train, local = config.train, config.train.batch_size // runtime.world_size
    micro = min(train.micro_batch or local, local)
    lines = [
        f"{name}: {runtime.world_size} process{'es' * (runtime.world_size > 1)} on {runtime.device.type}, "
        f"{' and '.join(parts)}, {'compiled' if runtime.compiles else 'eager'}",
        f"batch {train.batch_size}: {local} on each process, {micro} at a time",
        "reference: float64, one process, the critic image after image, plain layers",
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


def data(config: Config, name: str) -> int:
    """Opens the config's shards as training would, reads all of their pictures, and prints what they are."""
    from distgan.data.dataset import Indexed, caching_of, open_dataset
    from distgan.data.verify import named_targets, targets_of, verify

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError("doctor --data: one process reads all there is; run it without the launcher")
    settings, caching, refused, opened = config.data, caching_of(config.data), None, None
    try:
        opened = open_dataset(settings)
    except DataError as error:  # told of below: one shard that is missing must not hide the faults of others
        refused = error
    targets = targets_of(opened.shards) if isinstance(opened, Indexed) else named_targets(settings.shards, caching)
    if settings.fit == "crop":
        targets = targets._replace(resolution=None)
    elif refused is None:
        targets = targets._replace(resolution=settings.resolution)
    report = verify(targets, caching, settings.threads)
    classes = f"{len(targets.classes)}, {settings.classes} in the config" if targets.classes else "none"
    rows = {
        "pictures": report.pictures,
        "shards": report.shards,
        "bytes": f"{report.bytes / 1e6:.1f} MB",
        "encoding": ", ".join(f"{count} {what}" for what, count in report.encodings.most_common()) or "none",
        "classes": classes,
        "faults": report.bad or "none",
    }
    print(f"{name}: {opened.summary() if opened else 'the shards cannot be used'}\n")
    print("\n".join(f"{what:8}  {found}" for what, found in rows.items()), flush=True)
    if refused is not None:
        print(f"distgan: training would refuse these shards: {refused}", file=sys.stderr)
    return int(bool(report.bad or refused))
