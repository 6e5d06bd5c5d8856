"""One case: every mode checked against the reference, then timed in turn with the others."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from benchmarks.step.cases import Case
from benchmarks.step.counting import multiplications, synchronise
from benchmarks.step.modes import EXACT, TEXTBOOK, Mode, Ours
from benchmarks.step.textbook import Textbook
from distgan import double_backward, randomness
from distgan.assembly import make_critic, make_generator
from distgan.parity.check import BOUNDS, stir
from distgan.parity.measure import error, gradients_of
from distgan.parity.reference import Batch, Gradients, critic_gradients, generator_gradients
from distgan.parity.textbook import textbook

UPDATES = ("critic", "generator", "step")
_METHODS = {"critic": "critic_update", "generator": "generator_update", "step": "step"}
_LEAST = 0.1
"""Seconds that one measurement takes at least: shorter updates are repeated in it."""


class Settings:
    """What decides how convolutions are computed, as it stands: torch's switches, and whose double backward."""

    def __init__(self) -> None:
        self._values = {
            (place, key): getattr(place, key)
            for place, key in (
                (torch.backends.cudnn, "allow_tf32"),
                (torch.backends.cudnn, "deterministic"),
                (torch.backends.cudnn, "benchmark"),
                (torch.backends.cuda.matmul, "allow_tf32"),
            )
        }
        self.is_ours = double_backward.is_installed()

    def restore(self) -> None:
        (double_backward.install if self.is_ours else double_backward.uninstall)()
        for (place, key), value in self._values.items():
            setattr(place, key, value)


PLAIN = Settings()
"""Those that torch has of itself: its switches are read before any training changes them."""
PLAIN.is_ours = False


@dataclass
class Result:
    """What was found of one mode."""

    bound: float
    """Most by which its gradients may be off."""
    arithmetic: str
    """What convolutions multiply in: a key of the rates."""
    errors: dict[str, float] = field(default_factory=dict)
    """Of the critic's and the generator's gradients, relative to the reference."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Of each update in each round."""
    peak: int | None = None
    """Most bytes of the device that a step had beside what was there before it; None on a CPU."""
    reason: str = ""
    """Why it was not measured."""

    @property
    def is_right(self) -> bool:
        return all(found <= self.bound for found in self.errors.values())

    def median(self, update: str) -> float:
        """Seconds."""
        return statistics.median(self.seconds[update])

    def ratio(self, other: Result, update: str) -> float:
        """The median, over the rounds, of this mode's time over the other's in the same round."""
        pairs = zip(self.seconds[update], other.seconds[update], strict=True)
        return statistics.median(mine / its for mine, its in pairs)


@dataclass
class Outcome:
    """What was found of a case."""

    results: dict[str, Result]
    forward: dict[str, int]
    """Multiplications of one plain forward of a batch through the critic, and through the generator."""
    needed: dict[str, dict[str, int]]
    """Multiplications of each update, by the textbook and by us."""


def race(case: Case, modes: dict[str, Mode], device: str, rounds: int, tell: Callable[[str], None]) -> Outcome:
    """Runs a case; `tell` receives what is being done. A mode that fails has a reason, and the others go on."""
    torch._dynamo.reset()  # it compiles one function so often and no more
    lane = _Lane(case, device)
    plain = Result(BOUNDS["fp32"], "tf32" if device == "cuda" else "fp32")  # as torch has it
    outcome = Outcome({TEXTBOOK: plain}, lane.forward(), {})
    outcome.results |= {name: Result(BOUNDS[mode.precision], mode.arithmetic) for name, mode in modes.items()}
    lane.enter(TEXTBOOK, lambda: lane.plain())
    for name, mode in modes.items():
        tell(f"{case.title}: {name}{', compiling' if mode.compiled else ''}")
        lane.enter(name, lambda mode=mode: lane.ours(mode))
    for name, result in outcome.results.items():
        lane.attempt(name, result, lambda name=name, result=result: lane.check(name, result))
    for name in (TEXTBOOK, EXACT):
        if name in lane.updates:
            lane.restore(name)
            outcome.needed[name] = {update: multiplications(lane.updates[name][update]) for update in UPDATES}
    for update in UPDATES:
        tell(f"{case.title}: timing, {update}")
        lane.time(update, outcome.results, rounds)
    for name, result in outcome.results.items():
        lane.attempt(name, result, lambda name=name, result=result: lane.weigh(name, result))
    for name, reason in lane.refused.items():
        outcome.results[name].reason = reason
    return outcome


class _Lane:
    """The contenders of a case, side by side, with the same weights and pictures."""

    def __init__(self, case: Case, device: str) -> None:
        self._case, self._name, self._device = case, device, torch.device(device)
        config = case.config()
        self._generator, self._critic = make_generator(config).train(), make_critic(config).train()
        stir(self._generator, self._critic, config)
        shape = (3, case.resolution, case.resolution)
        drawn = randomness.image_keys(0, torch.arange(case.batch))
        self._real = randomness.normal(drawn, "real", shape, torch.float32).tanh().to(self._device)
        with torch.no_grad():  # unlike the reals, or the losses of the two would nearly cancel
            latent = randomness.normal(drawn, "latent", (self._generator.latent,), torch.float32)
            self._fake = self._generator(latent).to(self._device)
        self._keys = self._latent = torch.empty(0)
        self._reference: dict[str, Gradients] = {}
        self._settings: dict[str, Settings] = {}
        self._networks: dict[str, tuple[nn.Module, nn.Module]] = {}
        self.updates: dict[str, dict[str, Callable[..., None]]] = {}
        self.refused: dict[str, str] = {}

    def forward(self) -> dict[str, int]:
        """Multiplications of a plain forward."""
        with torch.no_grad():
            critic, generator = (textbook(each, torch.float32).to(self._device) for each in self._both())
            latent = torch.zeros(self._case.batch, generator.latent, device=self._device)
            found = {"critic": multiplications(lambda: critic(self._real))}
            return {**found, "generator": multiplications(lambda: generator(latent))}

    def _both(self) -> tuple[nn.Module, nn.Module]:
        return self._critic, self._generator

    def plain(self) -> Textbook:
        return Textbook(self._generator, self._critic, self._real, self._fake)

    def ours(self, mode: Mode) -> Ours:
        found = Ours(self._case, mode, self._name)
        found.take_over(self._generator, self._critic, self._real, self._fake)
        self._keys, self._latent = found.keys, found.latent
        return found

    def enter(self, name: str, make: Callable[[], Textbook | Ours]) -> None:
        """Makes a contender, under the settings that it sets or, for the textbook, that torch has."""
        PLAIN.restore()
        try:
            found = make()
        except (RuntimeError, MemoryError) as problem:
            self.refused[name] = _line(problem)
            return
        self._settings[name] = Settings()
        self._networks[name] = found.critic, found.generator
        self.updates[name] = {update: getattr(found, method) for update, method in _METHODS.items()}

    def restore(self, name: str) -> None:
        """The settings of a contender."""
        self._settings[name].restore()

    def attempt(self, name: str, result: Result, action: Callable[[], None]) -> None:
        """`action`, unless the contender has failed before; where it fails now, it is out."""
        if name not in self.updates:
            return
        self._settings[name].restore()
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                action()
            problem = next((each.message for each in told if "the compiler failed" in str(each.message)), None)
        except (RuntimeError, MemoryError) as failure:
            problem = failure
        if problem is not None:
            self.refused[name] = _line(problem)
            del self.updates[name], self._networks[name]
            gc.collect()

    def check(self, name: str, result: Result) -> None:
        """Compares the gradients of both networks with the reference, before any weight has moved."""
        updates = self.updates[name]
        same = name == TEXTBOOK
        epsilon = randomness.uniform(self._keys, "epsilon", dtype=torch.float32)
        updates["critic"](**({"epsilon": epsilon} if same else {}))
        critic, generator = self._networks[name]
        wanted = self._wanted()
        result.errors["critic"] = error(gradients_of(critic), wanted["critic"])[0]
        updates["generator"](**({"latent": self._latent} if same else {}))
        result.errors["generator"] = error(gradients_of(generator), wanted["generator"])[0]

    def _wanted(self) -> dict[str, Gradients]:
        if not self._reference:
            critic, generator = (textbook(each).to(self._device) for each in self._both())
            batch = Batch(self._real.double(), self._fake.double(), None, self._keys)
            self._reference["critic"] = critic_gradients(critic, batch)
            self._reference["generator"] = generator_gradients(generator, critic, self._latent.double(), batch)
        return self._reference

    def time(self, update: str, results: dict[str, Result], rounds: int) -> None:
        """Fills `results` with seconds of one update, each round in the other order."""
        warm: list[float] = []
        for name, result in results.items():
            self.attempt(name, result, lambda name=name: warm.append(self._measure(name, update, 1)))
        repeats = max(1, round(_LEAST / warm[0])) if warm else 1
        names = list(self.updates)
        for number in range(rounds):
            for name in names if number % 2 == 0 else reversed(names):
                results[name].seconds.setdefault(update, []).append(self._measure(name, update, repeats))

    def _measure(self, name: str, update: str, repeats: int) -> float:
        """Seconds of one update, the mean of a few without a pause."""
        call = self.updates[name][update]
        self._settings[name].restore()
        synchronise()
        started = time.perf_counter()
        for _ in range(repeats):
            call()
        synchronise()
        return (time.perf_counter() - started) / repeats

    def weigh(self, name: str, result: Result) -> None:
        if self._device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self.updates[name]["step"]()
            result.peak = torch.cuda.max_memory_allocated() - before


def _line(problem: object) -> str:
    text = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
    return f"{type(problem).__name__}: {text}"


def gradients_differ(outcome: Outcome) -> list[str]:
    """The modes whose gradients are off by more than their precision explains."""
    return [name for name, result in outcome.results.items() if not result.is_right]
