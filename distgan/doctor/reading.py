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
