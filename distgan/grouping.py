"""Which runs belong together: those that differ in nothing but their seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

_APART = ("run_dir", "seed", "checkpoint", "samples", "evaluate", "tracking")
"""Keys and sections that say where a run goes and what is told of it, and not what is learned."""
_PLACES = (
    *("data.shards", "data.threads", "data.tier", "data.cache", "data.cache_size", "data.stage", "data.allow_shell"),
    *("train.micro_batch", "train.device", "train.compile", "train.cuda_graphs", "train.checkpoint_activations"),
    *("train.max_time", "train.stuck_after"),
)
"""Keys of where the same is computed, and how."""


def learned_from(values: Mapping[str, object]) -> dict[str, object]:
    """Of a config's values by key path those that decide what is learned, the seed left out."""
    return {
        key: value
        for key, value in values.items()
        if key not in _PLACES and key.partition(".")[0] not in _APART and value is not None
    }


def group_of(values: Mapping[str, object]) -> str:
    """The name that all seeds of one config share, from its values by key path (`distgan.config.flatten`).

    The family, size and penalty for a person, and six digits of a hash of all that decides what is learned."""
    told = json.dumps(learned_from(values), sort_keys=True, default=str)
    digest = hashlib.blake2b(told.encode(), digest_size=3).hexdigest()
    words = (values.get(key) for key in ("generator.name", "data.resolution", "objective.penalty"))
    return "-".join([*(str(word) for word in words if word is not None), digest])
