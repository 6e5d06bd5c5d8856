"""Whether a run folder's config and a new one are the same run."""

from __future__ import annotations

from distgan.config import Config, flatten, read_config
from distgan.errors import ConfigError
from distgan.run_folder import RunFolder

_FREE = (
    "run_dir",
    "data.shards",  # the same pictures elsewhere; the trainer compares what is in them
    "data.threads",
    "data.tier",
    "data.bad_limit",
    "data.cache",  # and data.cache_size
    "data.allow_shell",
    "train.length",
    "train.micro_batch",
    "train.device",
    "train.compile",
    "train.max_time",
    "train.bad_numbers",
    "train.rollbacks",
    "train.stuck_after",
    "checkpoint.",
    "samples.every",
    "tracking.",
)
"""Keys that do not shape what is learned, or that a person may change on purpose at any time."""


def check_resumable(folder: RunFolder, config: Config, allow: bool) -> None:
    """Raises ConfigError, showing the differences, when the folder holds another run."""
    if allow or not folder.config.exists() or not any(folder.checkpoints.glob("[0-9]*")):
        return
    before, now = flatten(read_config(folder.config)), flatten(config)
    decays = any(part.optimizer.decay != "none" for part in (config.generator, config.critic))  # to zero at the end
    changed = [
        f"{key}: {before.get(key, '(not there)')} in the run, {now.get(key, '(not there)')} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not (key.startswith(_FREE) and not (key == "train.length" and decays))
    ]
    if changed:
        raise ConfigError(
            "\n".join(
                [
                    f"{folder.path} holds a run of another config; use another run_dir, or --allow-config-change",
                    *changed,
                ]
            )
        )
