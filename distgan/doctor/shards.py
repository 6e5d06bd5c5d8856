"""Whether the shards of a config can be trained on: opened as training does, the ends of each read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from distgan.config import Config
from distgan.config.schema import Data
from distgan.data.dataset import Dataset, Indexed, Unindexed, caching_of, open_dataset
from distgan.data.decode import Decoder
from distgan.data.index import THREADS
from distgan.data.reader import Pictures
from distgan.data.shelf import Shelf
from distgan.data.tiers import tier_of
from distgan.data.verify import Targets, named_targets, targets_of, verify
from distgan.doctor.reading import replacing
from distgan.doctor.table import FINE, NOT_FINE, REMARK, Finding, amount
from distgan.doctor.unindexed import check_beginnings
from distgan.errors import UserError

REMOTE_SHARDS, REMOTE_BYTES = 64, 10**9
"""Of remote shards, which have to be fetched whole, no more than these are looked at."""
_TIERS = {
    "device": "all pictures on the device",
    "memory": "all pictures in memory that the processes of a machine share",
    "stream": "pictures are read and decoded while training",
}


def check_shards(config: Config, device: torch.device) -> list[Finding]:
    """What is good and bad in the shards, each bad one named; `device` is the one that would be trained on."""
    try:
        opened, refused = open_dataset(config.data), []
    except UserError as error:  # one shard that is missing must not hide the faults of others
        opened, refused = None, [Finding("shards", NOT_FINE, str(error))]
    if isinstance(opened, Unindexed):
        return [Finding("shards", FINE, opened.summary()), *check_beginnings(opened)]
    rows = refused or [_opened(opened, config.data)]
    try:
        rows += _ends(opened, config.data)
        rows += _amounts(opened, config, device) if isinstance(opened, Indexed) else []
    except UserError as error:
        if not refused:  # else the same again
            rows.append(Finding("shards", NOT_FINE, str(error)))
    return rows


def _opened(opened: Indexed, data: Data) -> Finding:
    what, *warnings = opened.summary().splitlines()
    labels = f", {data.classes} classes" if data.classes else ""
    text = f"{what}, {data.resolution} x {data.resolution} x {data.channels}{labels}"
    return Finding("shards", REMARK if opened.shards.faults else FINE, "\n".join([text, *warnings]))


def _ends(opened: Dataset | None, data: Data) -> list[Finding]:
    """The first and the last picture of each shard, or of some where all are far away."""
    caching = caching_of(data)
    targets = targets_of(opened.shards) if isinstance(opened, Indexed) else named_targets(data.shards, caching)
    if data.fit == "crop":
        targets = targets._replace(resolution=None)
    chosen = _some(targets)
    report = verify(chosen, caching, THREADS, ends=True)
    looked, total = len(chosen.shards), len(targets.shards)
    which = f"{total} shard{'s' * (total > 1)}" if looked == total else f"{looked} of {total} shards, those between not"
    found = ", ".join(f"{count} {what}" for what, count in report.encodings.most_common()) or "none"
    if not report.bad:
        return [Finding("pictures", FINE, f"first and last of {which} read: {found}, all sound")]
    kept = "" if report.bad == len(report.faults) else f", of which the first {len(report.faults)}"
    verdict, advice = NOT_FINE, "make these again, or copy them again"
    if isinstance(opened, Indexed) and data.bad_pictures == "replace":
        bad = report.unreadable + opened.lost
        verdict, advice = REMARK if bad <= data.bad_limit else NOT_FINE, replacing(bad, data.bad_limit)
    head = f"first and last of {which} read: {report.bad} bad{kept}; {advice}"
    return [Finding("pictures", verdict, "\n".join([head, *map(str, report.faults)]))]


def _some(targets: Targets) -> Targets:
    """All shards that are here; of remote ones the first, the last, and some between."""
    listed = targets.shards
    sizes = [target.shard.bytes or 0 for target in listed if target.shard.is_remote]
    if not sizes:
        return targets
    fitting = int(REMOTE_BYTES // max(sum(sizes) / len(sizes), 1))
    count = min(len(listed), REMOTE_SHARDS, max(fitting, 2))
    numbers = np.unique(np.linspace(0, len(listed) - 1, count).round().astype(int))
    return targets._replace(shards=[listed[number] for number in numbers.tolist()])


def _amounts(opened: Indexed, config: Config, device: torch.device) -> Iterator[Finding]:
    """What the number of pictures means for the run."""
    count, batch = len(opened.split.train), max(stage.batch_size for stage in config.course.stages)
    epochs = config.course.images / count
    text = f"train.length {config.train.length} shows each of {count} pictures {epochs:.3g} times"
    if batch > count:
        text += f"; a batch of {batch} is more than there are, so each batch shows some of them twice"
    yield Finding("epochs", REMARK if batch > count else FINE, text)
    shards, decoder = opened.shards, Decoder(config.data.resolution, config.data.channels, config.data.fit)
    tier = tier_of(config.data, Pictures(shards, decoder, Shelf([])), device)
    size = amount(shards.count * decoder.bytes)
    yield Finding("tier", FINE, f"data.tier {config.data.tier}: {_TIERS[tier]} ({size} decoded)")
