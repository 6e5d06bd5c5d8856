"""The error for a setting that a network does not offer."""

from __future__ import annotations

from collections.abc import Iterable

from distgan.errors import ConfigError


def require(key: str, value: object, allowed: Iterable[object], *, within: str = "") -> None:
    """Raises ConfigError, naming the config key, the value and what is allowed, unless `value` is allowed.

    `within` says for what the choice is so limited, e.g. "critic.name resnet".
    """
    allowed = list(allowed)
    if value not in allowed:
        where = f" for {within}" if within else ""
        offered = ", ".join(map(str, allowed))
        raise ConfigError(f"{key}: {value!r} is not available{where}; allowed: {offered}")
