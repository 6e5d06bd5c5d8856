"""Schedules as pure functions of progress: nothing to step and nothing to save."""

from __future__ import annotations

import math


def learning_rate(lr: float, decay: str, start: float, progress: float) -> float:
    """The learning rate at `progress` in [0, 1] of a run: `lr` until `start`, then down to zero at 1."""
    if decay == "none" or progress <= start:
        return lr
    done = min((progress - start) / (1 - start), 1.0)
    return lr * (1 - done if decay == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def ema_decay(half_life_kimg: float, rampup: float, images: int, seen: int) -> float:
    """Decay of the weight average for an update after which `seen` images were shown, `images` of them since the last.

    With a ramp-up the half-life is at most that share of the images seen (StyleGAN2-ADA, Karras et al. 2020).
    """
    half_life = half_life_kimg * 1000
    if rampup:
        half_life = min(half_life, seen * rampup)
    return 0.5 ** (images / half_life) if half_life else 0.0
