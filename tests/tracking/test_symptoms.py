"""What is said of a run's lines: sick ones are named once, sound ones never."""

from __future__ import annotations

import random
import re

import pytest

from distgan.config.keys import known_keys
from distgan.config.schema import Objective
from distgan.tracking.symptoms import LONG, RECENT, SYMPTOMS, Symptoms

KIMG = 0.5
"""Of a step: 100 lines are 50 kimg."""


def lines(count: int, start: int = 1, **values) -> list[dict]:
    """A value is a number, or a function of the number of the line."""
    return [
        {"step": n, "kimg": n * KIMG} | {_name(k): v(n) if callable(v) else v for k, v in values.items()}
        for n in range(start, start + count)
    ]


def _name(short: str) -> str:
    return {
        "diversity": "generator/diversity",
        "margin": "critic/wasserstein",
        "loss": "critic/loss",
        "norm": "critic/grad_norm_mean",
        "most": "critic/grad_norm_max",
    }[short]


def told(found: list[dict], symptoms: Symptoms | None = None, **objective) -> list[tuple[int, str]]:
    """Step and first words of each warning."""
    symptoms = symptoms or Symptoms(Objective(**objective))
    return [(line["step"], text) for line in found for text in symptoms.see(line)]


def names(found: list[tuple[int, str]]) -> list[str]:
    return [text for _, text in found]


def noise(n: int, size: float = 0.1) -> float:
    return 1 + size * random.Random(n).uniform(-1, 1)


SOUND = {
    "diversity": lambda n: min(1.1, 0.02 * n) * noise(n),
    "margin": lambda n: (3 + 30 / n) * noise(n),
    "loss": lambda n: (-2.8 - 20 / n) * noise(n),
    "norm": lambda n: (1.12 + 1 / n) * noise(n, 0.02),
    "most": lambda n: (1.8 + 2 / n) * noise(n),
}


@pytest.mark.parametrize("penalty", ["gp", "lp", "r1", "none", "clip"])
def test_a_sound_run_hears_nothing(penalty):
    assert told(lines(300, **SOUND), penalty=penalty) == []


def test_an_untrained_generator_is_not_collapsed():
    """At first all samples are alike."""
    assert told(lines(59, diversity=0.01)) == []
    assert told(lines(60, diversity=lambda n: 3.0 if n < 10 else 0.9)) == [], "untrained, as every run begins"


def test_far_from_the_data_a_sound_critic_is_steeper():
    """Faces at 64 px with the paper's weight 10: W1 is 47, and the norm 3.3."""
    assert told(lines(200, margin=155.0, norm=3.3, most=5.0)) == []
    assert "explodes" in told(lines(200, margin=155.0, norm=3.3 * 12, most=50.0))[0][1]


SICK = {
    "samples are nearly alike": dict(diversity=lambda n: 1.0 if n < 50 else 0.04),
    "samples differ more than real pictures do": dict(diversity=lambda n: 1.0 if n < 50 else 1.8),
    "the critic's gradient explodes": dict(norm=lambda n: 1.1 if n < 50 else 40.0),
    "the critic's gradient vanishes": dict(norm=lambda n: 1.1 if n < 60 else 0.02),
    "the critic is steep at single pictures": dict(norm=1.1, most=lambda n: 1.6 if n < 50 else 16.0),
    "the loss oscillates": dict(margin=lambda n: 3.0 if n < 50 else 3 + 1.2 ** min(n - 50, 20) * (-1) ** n),
    "the critic scores samples above real pictures": dict(margin=lambda n: 3.0 if n < 70 else -0.4 * noise(n)),
    "samples move away from the data": dict(margin=lambda n: 3.0 if n < 80 else 20.0, norm=1.2),
}


@pytest.mark.parametrize("what", SICK)
def test_a_sick_run_is_named_with_what_helps(what):
    found = told(lines(150, **SICK[what]))
    assert len([text for text in names(found) if text.startswith(what)]) == 1
    step, text = next((step, text) for step, text in found if text.startswith(what))
    assert 50 <= step < 110 and "; what usually helps: " in text and "\n" not in text


def test_a_critic_that_has_won_is_named_with_the_losses_that_can_be_won():
    winning = lines(100, loss=lambda n: 1.0 if n < 40 else 1e-4)
    for loss in ("minimax", "nonsaturating", "hinge", "relativistic"):
        ((step, text),) = told(winning, loss=loss, penalty="none")
        assert step < 50 and text.startswith("the critic tells all samples from real pictures (critic/loss 0.0001)")
    assert told(winning) == []


def test_samples_that_never_differed_are_named_after_long():
    ((step, text),) = told(lines(200, diversity=0.01))
    assert step >= max(LONG, 30 / KIMG) and "generator/diversity 0.01" in text


def test_a_norm_that_no_penalty_asks_for_is_measured_by_its_own_past():
    rising = lines(200, norm=lambda n: 50.0 if n < 100 else 900.0)
    assert len(told(rising, penalty="r1")) == 1
    assert told(lines(200, norm=50.0), penalty="r1") == []


def test_one_bad_line_is_no_symptom():
    bad = lines(200, **{k: (lambda n, v=v: 50 * v(n) if n % 20 == 0 else v(n)) for k, v in SOUND.items()})
    assert names(told(bad)) == []


def test_a_symptom_is_told_again_once_it_has_gone_and_come_back_and_not_at_its_bound():
    def diversity(n: int) -> float:
        if n < 60:
            return 1.0
        return (0.29 if n % 2 else 0.31) if n < 160 else 1.0 if n < 200 else 0.05

    steps = [step for step, _ in told(lines(300, diversity=diversity))]
    assert len(steps) == 2 and 60 < steps[0] < 80 and 200 < steps[1] < 200 + 2 * RECENT


def test_a_restart_says_what_a_run_without_one_would_have():
    found = lines(150, **SICK["samples are nearly alike"], norm=40.0)
    whole = told(found)
    for cut in (1, 30, 52, 57, 100):
        resumed = Symptoms(Objective(), found[:cut])
        assert told(found[cut:], resumed) == [entry for entry in whole if entry[0] > cut], cut


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_not_a_number_is_passed_over(value):
    names = ["diversity", "margin", "loss", "norm", "most"]
    assert told(lines(100, **dict.fromkeys(names, value))) == []
    assert told(lines(100)) == []


def test_all_that_helps_are_keys_of_the_config():
    for symptom in SYMPTOMS.values():
        named = re.findall(r"\b(?:generator|critic|train|objective)\.[a-z_.]+", symptom.helps)
        assert named and set(named) <= known_keys().keys(), named


def test_the_number_told_is_the_one_judged():
    """The median of the newest lines, whose last may be another."""
    ((_, text),) = told(lines(106, diversity=lambda n: 0.9 if n < 100 else 1.4 if n % 2 else 2.0))
    assert "generator/diversity 1.7" in text
