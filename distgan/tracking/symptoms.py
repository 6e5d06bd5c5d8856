"""Signs in the lines of metrics.jsonl that a run goes wrong, and what usually helps.

Each is a function of the lines so far alone, so a start knows from the file what was told before. The bounds were set
by runs that were made sick on purpose and by sound ones, which must stay silent (docs/faults.md).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from distgan.config.schema import Objective

RECENT = 8
"""Lines that a symptom must show in: one bad line is none."""

LONG = 3 * RECENT
"""Lines after which an untrained network is no excuse any more ..."""

LONG_KIMG = 30
"""... and thousand images."""

KEPT = 2 * LONG

DIVERSITY, WASSERSTEIN = "generator/diversity", "critic/wasserstein"
CRITIC_LOSS, NORM, LARGEST_NORM = "critic/loss", "critic/grad_norm_mean", "critic/grad_norm_max"


class Past:
    """The newest lines of a run, and what is remembered of those before."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.lines = 0
        self.most_diverse = 0.0
        """The largest median of a stretch; 1 at most, as beyond that it is not health."""
        self.nearest = math.inf
        """The smallest median of `distance`, once the critic has had time to learn."""
        self._kept: dict[str, deque[float]] = {}

    def add(self, line: dict) -> None:
        self.lines += 1
        for name, value in line.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                self._kept.setdefault(name, deque(maxlen=KEPT)).append(value)
        diverse = self.median(DIVERSITY)
        if diverse is not None:
            self.most_diverse = max(self.most_diverse, min(diverse, 1.0))
        distance = self.distance()
        if distance and distance > 0 and self.is_long:
            self.nearest = min(self.nearest, distance)

    @property
    def is_long(self) -> bool:
        return self.lines >= LONG and max(self.newest("kimg", 1), default=0.0) >= LONG_KIMG

    def distance(self) -> float | None:
        """Of samples from the data, W1, as a critic with a norm near a known one estimates it (docs/penalty.md)."""
        margin, norm = self.median(WASSERSTEIN), self.median(NORM)
        known = self.objective.loss == "wasserstein" and self.objective.penalty in ("gp", "lp")
        return margin / norm if known and margin is not None and norm else None

    def newest(self, name: str, count: int = RECENT) -> list[float]:
        """The newest `count` values of a metric; none where there are fewer."""
        values = self._kept.get(name, ())
        return list(values)[-count:] if len(values) >= count else []

    def median(self, name: str, count: int = RECENT) -> float | None:
        values = self.newest(name, count)
        return median(values) if values else None


class Symptom(NamedTuple):
    """A sign, as a number that is 1 or more where it is there, less than GONE where it is gone for good."""

    degree: Callable[[Past], float]
    """0 where nothing can be said."""
    tell: Callable[[Past], str]
    """What is seen, with its numbers."""
    helps: str
    """What usually does, by keys of the config."""


GONE = 0.7
"""A symptom is told again only when its degree has been below this since: one at its bound is not told at each line."""


def _ratio(value: float | None, bound: float) -> float:
    return 0.0 if value is None else value / bound


def _inverse(value: float | None, bound: float) -> float:
    """Of a value that is the worse the smaller it is."""
    return 0.0 if value is None else bound / max(value, 1e-12)


def _alike(past: Past) -> float:
    """Below 0.3 of what it was at its best, once it had been diverse; below 0.05 after long anyway."""
    if past.most_diverse >= 0.4:
        return _inverse(past.median(DIVERSITY), 0.3 * past.most_diverse)
    return _inverse(past.median(DIVERSITY), 0.05) if past.is_long else 0.0


def _wild(past: Past) -> float:
    """An untrained generator's pictures are: the first lines do not count."""
    return _ratio(past.median(DIVERSITY), 1.5) if past.lines > 2 * RECENT else 0.0


def _sound_norm(past: Past) -> float | None:
    """The gradient norm of a sound critic; where the penalty asks for none, that of long ago.

    With weight lambda and samples at a distance W1 from the data, W1 |g| - lambda (|g| - target)^2 is largest at
    |g| = target + W1 / (2 lambda)."""
    objective = past.objective
    if objective.penalty not in ("gp", "lp") or not objective.target:
        before = past.newest(NORM, KEPT)[:LONG]
        return median(before) if before else None
    far = max(past.distance() or 0.0, 0.0)
    return objective.target + (far / (2 * objective.weight) if objective.weight else 0.0)


def _steep(past: Past) -> float:
    sound = _sound_norm(past)
    bound = 3.0 if past.objective.penalty in ("gp", "lp") else 10.0
    return _ratio(past.median(NORM), bound * sound) if sound and past.lines > RECENT else 0.0


def _flat(past: Past) -> float:
    """The one-sided penalty allows any norm below its target, but not none."""
    sound = _sound_norm(past)
    bound = {"gp": 0.3, "lp": 0.02}.get(past.objective.penalty, 0.02)
    return _inverse(past.median(NORM), bound * sound) if sound and past.is_long else 0.0


def _peaked(past: Past) -> float:
    """The largest norm of an image between two lines against the mean."""
    largest, usual = past.newest(LARGEST_NORM), past.newest(NORM)
    if not largest or not usual or past.lines <= RECENT:
        return 0.0
    return median(high / max(norm, 1e-12) for high, norm in zip(largest, usual, strict=True)) / 10


def _swing(values: list[float]) -> float:
    """The usual change from line to line over the usual size."""
    return median(abs(b - a) for a, b in pairwise(values)) / max(median(map(abs, values)), 1e-12)


def _oscillating(past: Past) -> float:
    """E D(real) - E D(fake) swings by 0.4 of itself from line to line, or crosses zero again and again."""
    values = past.newest(WASSERSTEIN, 2 * RECENT)
    if not values or past.lines <= 3 * RECENT:
        return 0.0
    crossings = sum((a < 0) != (b < 0) for a, b in pairwise(values))
    return max(_swing(values) / 0.4, crossings / 5)


def _losing(past: Past) -> float:
    """The share of lines in which the critic scores fakes above real pictures."""
    values = past.newest(WASSERSTEIN)
    return sum(value < 0 for value in values) / RECENT if values and past.lines > RECENT else 0.0


def _leaving(past: Past) -> float:
    """Samples are 2.5 times as far from the data as they have been."""
    return _ratio(past.distance(), 2.5 * past.nearest) if past.is_long else 0.0


_CHANCE = {"nonsaturating": 2 * math.log(2), "minimax": 2 * math.log(2), "hinge": 2.0, "relativistic": math.log(2)}
"""The critic's loss where it cannot tell."""


def _won(past: Past) -> float:
    chance = _CHANCE.get(past.objective.loss)
    return _inverse(past.median(CRITIC_LOSS), 0.005 * chance) if chance and past.lines > RECENT else 0.0


def _value(name: str) -> Callable[[Past], str]:
    """What was judged."""
    return lambda past: f"{name} {past.median(name):.3g}"


SYMPTOMS = {
    "alike": Symptom(
        _alike,
        lambda past: f"samples are nearly alike ({_value(DIVERSITY)(past)}): the generator has collapsed",
        "a lower generator.optimizer.lr, more train.critic_steps, penalty gp, or critic.minibatch_std 4 if it has one",
    ),
    "wild": Symptom(
        _wild,
        lambda past: f"samples differ more than real pictures do ({_value(DIVERSITY)(past)}): noise, or glaring",
        "a lower generator.optimizer.lr and critic.optimizer.lr, or objective.penalty gp in place of clip or none",
    ),
    "steep": Symptom(
        _steep,
        lambda past: f"the critic's gradient explodes ({_value(NORM)(past)}, where {_sound_norm(past):.3g} is sound)",
        "a higher objective.weight, objective.every 1, or a lower critic.optimizer.lr",
    ),
    "flat": Symptom(
        _flat,
        lambda past: f"the critic's gradient vanishes ({_value(NORM)(past)}, where {_sound_norm(past):.3g} is sound)",
        "a lower objective.weight, a higher critic.optimizer.lr, or a wider critic",
    ),
    "peaked": Symptom(
        _peaked,
        lambda past: f"the critic is steep at single pictures ({_value(LARGEST_NORM)(past)}, {_value(NORM)(past)})",
        "a higher objective.weight, objective.every 1, or a lower critic.optimizer.lr",
    ),
    "oscillating": Symptom(
        _oscillating,
        lambda past: f"the loss oscillates ({WASSERSTEIN} {_range(past)} in {2 * RECENT} lines)",
        "a lower generator.optimizer.lr and critic.optimizer.lr, their betas [0, 0.9], or a larger train.batch_size",
    ),
    "losing": Symptom(
        _losing,
        lambda past: f"the critic scores samples above real pictures ({_value(WASSERSTEIN)(past)})",
        "more train.critic_steps, a higher critic.optimizer.lr, or a lower generator.optimizer.lr",
    ),
    "leaving": Symptom(
        _leaving,
        lambda past: (
            f"samples move away from the data ({WASSERSTEIN} over {NORM} {past.distance():.3g}, after "
            f"{past.nearest:.3g})"
        ),
        "a lower generator.optimizer.lr, its decay linear, or more train.critic_steps",
    ),
    "won": Symptom(
        _won,
        lambda past: (
            f"the critic tells all samples from real pictures ({_value(CRITIC_LOSS)(past)}): the generator "
            "learns nothing from it"
        ),
        "objective.loss wasserstein with penalty gp, objective.penalty r1, fewer train.critic_steps, or a lower "
        "critic.optimizer.lr",
    ),
}


def _range(past: Past) -> str:
    values = past.newest(WASSERSTEIN, 2 * RECENT)
    return f"{min(values):.3g} to {max(values):.3g}"


class Symptoms:
    """What is to be told of a run as its lines come."""

    def __init__(self, objective: Objective, lines: Iterable[dict] = ()) -> None:
        """`lines`: those that were before, of which nothing is told again."""
        self._past = Past(objective)
        self._there: set[str] = set()
        for line in lines:
            self.see(line)

    def see(self, line: dict) -> list[str]:
        """What this line is the first to show, and what usually helps; nothing that was told and has not gone since."""
        self._past.add(line)
        told = []
        for name, symptom in SYMPTOMS.items():
            degree = symptom.degree(self._past)
            if degree >= 1 and name not in self._there:
                self._there.add(name)
                told.append(f"{symptom.tell(self._past)}; what usually helps: {symptom.helps}")
            elif degree < GONE:
                self._there.discard(name)
        return told
