"""Whether what the run logs gets to where the config wants it."""

from __future__ import annotations

from distgan.config import Config
from distgan.doctor.table import FINE, NOT_FINE, Finding
from distgan.errors import ConfigError
from distgan.tracking.background import told
from distgan.tracking.event_files import check_installed


def check_tracking(config: Config) -> list[Finding]:
    """Without asking the network."""
    if config.tracking.tensorboard:
        try:
            check_installed()
        except ConfigError as error:
            return [Finding("logging", NOT_FINE, str(error))]
    mode = config.tracking.wandb.mode
    if mode != "online":
        return [Finding("logging", FINE, f"metrics.jsonl; W&B {mode}")]

    from distgan.tracking.wandb_process import has_key

    try:
        found = has_key()
    except Exception as error:  # noqa: BLE001  whatever wandb says of a key that it cannot take
        return [Finding("logging", NOT_FINE, f"W&B online would go on offline: {told(error)}")]
    if found:
        return [Finding("logging", FINE, "metrics.jsonl; W&B online, there is an API key")]
    text = "W&B online without an API key, so it would go on offline; run `wandb login`, or set WANDB_API_KEY"
    return [Finding("logging", NOT_FINE, text)]
