"""Whether a run folder's config and a new one are the same run."""

from __future__ import annotations

from pathlib import Path

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
    "data.stage",
    "data.allow_shell",
    "train.length",
    "train.micro_batch",
    "train.device",
    "train.compile",
    "train.cuda_graphs",
    "train.checkpoint_activations",
    "train.max_time",
    "train.bad_numbers",
    "train.rollbacks",
    "train.stuck_after",
    "checkpoint.",
    "samples.every",
    "evaluate.every",
    "evaluate.metrics",
    "evaluate.inception",
    "tracking.",
)
"""Keys that do not shape what is learned, or that a person may change on purpose at any time."""

_NETWORKS = ("generator.", "critic.", "data.resolution", "data.channels", "data.classes")
"""Keys that say what the networks are."""


def check_resumable(folder: RunFolder, config: Config, allow: bool) -> None:
    """Raises ConfigError, showing the differences, when the folder holds another run."""
    if allow or not folder.config.exists() or not any(folder.checkpoints.glob("[0-9]*")):
        return
    kept = read_config(folder.config)
    before, now = flatten(kept), flatten(config)
    decays = any(part.optimizer.decay != "none" for part in (config.generator, config.critic))  # to zero at the end
    fixed = {"train.length"} if decays and config.total_steps < kept.total_steps else set()
    changed = [
        f"{key}: {before.get(key, '(not there)')} in the run, {now.get(key, '(not there)')} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and (key in fixed or not key.startswith(_FREE))
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


def differing_networks(source: Path, config: Config) -> list[str]:
    """What shapes the networks and was another value in the run of the checkpoint `source`, each with that value; of a
    network with another name all that is not as it is by default. None where that run's config cannot be read."""
    try:
        then = read_config(RunFolder(source.resolve().parent.parent).config)
    except ConfigError:
        return []
    now, kept = flatten(config), flatten(then)
    for part in ("generator", "critic"):
        if getattr(then, part).name != getattr(config, part).name:
            fresh = getattr(then, part)
            defaults = {f"{part}.{name}": field.default for name, field in type(fresh).model_fields.items()}
            now.update(defaults | {f"{part}.name": ""})
    return [
        f"{key}={kept[key]}"
        for key in sorted(kept)
        if key.startswith(_NETWORKS) and ".optimizer." not in key and kept[key] != now.get(key, "(not there)")
    ]


def longer_than_asked(folder: RunFolder, config: Config, step: int) -> str:
    """What to say of a run that has more steps than train.length asks for."""
    length, total = config.train.length, config.total_steps
    in_steps = "" if length.unit == "steps" else f" ({total} steps)"
    return (
        f"train.length is {length}{in_steps}, and {folder.path} has {step} steps already; give a longer one, or "
        "another run_dir"
    )


def check_init(path: Path) -> None:
    """Raises ConfigError unless `--init-from` names something that looks like a checkpoint, or a run folder."""
    if not any((path / name).exists() for name in ("manifest.json", "checkpoints")):
        raise ConfigError(
            f"--init-from {path}: neither a checkpoint (no manifest.json in it) nor a run folder (no checkpoints)"
        )
