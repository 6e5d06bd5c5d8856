"""`distgan doctor --data`: every picture of a config's shards."""

from __future__ import annotations

import os
import sys

from distgan.config import Config
from distgan.errors import ConfigError, DataError


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
    ill = bool(report.bad or refused)
    faults = str(report.bad or "none")
    if report.bad and refused is None and settings.bad_pictures == "replace":
        bad = report.unreadable + (opened.lost if isinstance(opened, Indexed) else 0)
        ill = bad > settings.bad_limit
        faults += f"; {replacing(bad, settings.bad_limit)}"
    classes = f"{len(targets.classes)}, {settings.classes} in the config" if targets.classes else "none"
    rows = {
        "pictures": report.pictures,
        "shards": report.shards,
        "bytes": f"{report.bytes / 1e6:.1f} MB",
        "encoding": ", ".join(f"{count} {what}" for what, count in report.encodings.most_common()) or "none",
        "classes": classes,
        "faults": faults,
    }
    print(f"{name}: {opened.summary() if opened else 'the shards cannot be used'}\n")
    print("\n".join(f"{what:8}  {found}" for what, found in rows.items()), flush=True)
    if refused is not None:
        print(f"distgan: training would refuse these shards: {refused}", file=sys.stderr)
    return int(ill)


def replacing(bad: int, limit: int) -> str:
    """What training does with so many bad pictures where data.bad_pictures is replace."""
    if bad > limit:
        return f"{bad} pictures are bad, more than data.bad_limit {limit}; raise it, or make these again"
    return f"training takes others for them, {bad} pictures so far, of data.bad_limit {limit}"
