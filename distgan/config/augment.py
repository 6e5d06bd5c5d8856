"""Augmentation of what the critic sees (Karras et al. 2020, "Training generative adversarial networks with limited
data": ADA)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distgan.config.values import Count, Positive, Section


class Augment(Section):
    """Reals and fakes changed by chance before the critic sees them, so that it cannot learn a small set by heart."""

    classes: Annotated[list[Literal["blit", "geometry", "colour"]], Field(min_length=1)] = [
        "blit",
        "geometry",
        "colour",
    ]
    """blit: mirrored, turned by quarters, shifted by pixels; geometry: scaled, turned, stretched, shifted; colour:
    brightness, contrast, luma turned round, hue, saturation."""
    strength: Literal["adaptive"] | Annotated[float, Field(ge=0, le=1)] = "adaptive"
    """Probability of each transformation for each picture (p of ADA), or adaptive: it begins at 0, rises while the
    critic overfits and falls while it does not."""
    target: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """With adaptive: the overfitting (r_v or r_t of ADA, `augment/overfitting`) above which the strength rises."""
    speed: Positive = 500.0
    """With adaptive: kimg in which the strength can go from 0 to 1."""
    every: Count = 4
    """With adaptive: steps between two looks at the overfitting."""
