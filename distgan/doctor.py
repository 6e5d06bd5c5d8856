"""`distgan doctor`: what can be known of a run before it is started."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from distgan.config import Config, load_config, process_conflicts, raise_mistakes
from distgan.errors import ConfigError, DataError


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
    """0 when everything is equal and sound, else 1 on the main process. Raises UserError."""
    if not (args.parity or args.data):
        raise ConfigError("doctor: nothing to do; give --parity, --data, or both")
    config = load_config(args.config, args.overrides)
    ill = data(config, ", ".join(args.config)) if args.data else 0
    if not args.parity:
        return ill

    from distgan.runtime import Runtime, launched_processes

    raise_mistakes(process_conflicts(config, launched_processes()))
    runtime = Runtime(config)
    return parity(config, runtime, ", ".join(args.config)) or ill


def parity(config: Config, runtime, name: str) -> int:
    """Prints the table of the parity check."""
    from distgan.parity.check import Check

    def tell(text: str) -> None:
        if runtime.is_main:
            print(text, file=sys.stderr, flush=True)

    check = Check(config, runtime, tell)
    check.measure()
    runtime.close()  # before the reference, which can take longer than the others would wait
    if not runtime.is_main:
        return 0
    rows = check.rows()
    status = int(not all(row.equal for row in rows))
    with contextlib.suppress(BrokenPipeError):  # whose reader has seen enough, such as `head`
        print(_table(config, runtime, name, rows), flush=True)
    return status


def _table(config: Config, runtime, name: str, rows: list) -> str:
    train, local = config.train, config.train.batch_size // runtime.world_size
    micro = min(train.micro_batch or local, local)
    head = [
        f"{name}: {runtime.world_size} process{'es' * (runtime.world_size > 1)} on {runtime.device.type}, "
        f"{train.precision}, {'compiled' if runtime.compiles else 'eager'}",
        f"batch {train.batch_size}: {local} on each process, {micro} at a time",
        "reference: float64, one process, the critic image after image, plain layers",
        "",
    ]
    width = max(len(row.what) for row in rows)
    lines = [f"{'':{width}}  {'error':>8}  {'bound':>8}"]
    for row in rows:
        verdict = "equal" if row.equal else "NOT EQUAL"
        lines.append(f"{row.what:{width}}  {row.found:8.1e}  {row.bound:8.1e}  {verdict:9}  {row.note}".rstrip())
    if train.precision != "fp64":
        lines += ["", f"{train.precision} rounds, and small faults hide in that: train.precision=fp64 is sharp"]
    unequal = sum(not row.equal for row in rows)
    return "\n".join([*head, *lines, "", f"NOT EQUAL in {unequal} of {len(rows)}" if unequal else "all equal"])


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
