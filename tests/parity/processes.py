"""An update as training does it, on real processes that reduce over gloo."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from forked import in_processes
from launching import TINY
from parity.cases import ACCUMULATIONS, AT_ONCE, PENALTIES, Subject, batch_of, critic_of, wanted

from distgan.compiling import compile_or_fall_back
from distgan.config import load_config
from distgan.inputs import Inputs
from distgan.networks.growth import in_use
from distgan.objectives.critic import CriticObjective
from distgan.parity.check import BOUNDS, REDUCTION_BOUNDS, local_means, settled
from distgan.parity.measure import error
from distgan.parity.reference import Batch, Gradients
from distgan.phases import Phase, gradients
from distgan.runtime import Runtime

REPETITIONS = 2
"""Some faults are silent in the first update."""


SMALL_BOUNDS = {**BOUNDS, "fp32": 1e-5}
"""Their activations are so few that none falls on the other side of its kink in float32."""


class Result(NamedTuple):
    """`error`: against the reference; `reduction`: against the mean of the processes' own gradients; `spread`: the
    largest difference between two processes."""

    world_size: int
    accumulation: str
    error: float
    reduction: float
    spread: float


def objective_of(subject: Subject, backend: str = "inductor") -> CriticObjective:
    """Compiled already where the subject is, so that processes forked from this one need not compile."""
    critic = critic_of(subject.network, subject.conditional)
    critic = (critic.double() if subject.precision == "fp64" else critic).to(memory_format=torch.channels_last)
    used = set(in_use(critic))
    for parameter in critic.parameters():
        parameter.requires_grad = parameter in used
    objective = CriticObjective(critic, **PENALTIES[subject.penalty])
    if subject.compiled:
        objective.use_compiler(lambda function: compile_or_fall_back(function, backend=backend))
    return objective


def make_runtime(precision: str) -> Runtime:
    runtime = Runtime(load_config([TINY], [f"train.precision={precision}", "train.compile=false"]))
    torch.set_num_threads(1)  # everywhere: compiled code is for one number of threads
    return runtime


def make_phase(runtime: Runtime, objective: CriticObjective, batch: Batch, every: int) -> Phase:
    """The critic's phase, whose fakes come from the batch and not from a generator."""
    places = {key: place for place, key in enumerate(batch.keys.tolist())}

    def arguments(part: Inputs, number: int) -> dict:
        fake = batch.fake[[places[key] for key in part.keys.tolist()]]
        return {"fake": prepared(fake, runtime), **part.seen(), "penalise": number % every == 0}

    optimizer = torch.optim.SGD(objective.critic.parameters(), lr=1.0)
    objective._is_accelerate_prepared = False  # by the process that this one was forked from
    wrapped = runtime.wrap(objective)
    critic = objective.critic
    return Phase("critic", critic, in_use(critic), wrapped, arguments, optimizer, runtime.make_scaler(), None)


def prepared(images: torch.Tensor, runtime: Runtime) -> torch.Tensor:
    return images.to(runtime.device, runtime.dtype, memory_format=torch.channels_last)


def moved(numbers: torch.Tensor | None, runtime: Runtime) -> torch.Tensor | None:
    return None if numbers is None else numbers.to(runtime.device)


def updates(runtime: Runtime, phase: Phase, batch: Batch, local: int, number: int) -> tuple[Gradients, Gradients]:
    """The gradients of the last of some equal updates of `local` images on each process, and the mean of what each
    process has alone."""
    mine = batch.rows(runtime.rank * local, (runtime.rank + 1) * local)
    inputs = Inputs(prepared(mine.real, runtime), moved(mine.labels, runtime), moved(mine.keys, runtime))

    def take(reduced: bool = True) -> None:
        gradients(runtime, phase, inputs, number, AT_ONCE, reduced=reduced)

    for _ in range(REPETITIONS):
        found = settled(phase, take)
    return found, local_means(runtime, phase, lambda: take(reduced=False))


def compare(rank: int, subjects: dict[Subject, CriticObjective], accumulations: list[str]) -> list[list[Result]]:
    """The results of each subject on the processes that there are, of which this is one; they are the first one's."""
    return [_compare(rank, subject, objective, accumulations) for subject, objective in subjects.items()]


def _compare(rank: int, subject: Subject, objective: CriticObjective, accumulations: list[str]) -> list[Result]:
    runtime = make_runtime(subject.precision)
    batch = batch_of(subject.network, subject.conditional)
    phase = make_phase(runtime, objective, batch, PENALTIES[subject.penalty].get("every", 1))
    results = []
    for accumulation in accumulations:
        local = ACCUMULATIONS[accumulation]
        for number in subject.numbers:
            found, means = updates(runtime, phase, batch, local, number)
            spread = max(runtime.spread(gradient) for gradient in found.values())
            if rank == 0:
                reduction, _ = error(found, means)
                here = {name: gradient.cpu() for name, gradient in found.items()}
                worst, _ = error(here, wanted(subject, number, local * runtime.world_size))
                results.append(Result(runtime.world_size, accumulation, worst, reduction, spread))
    return results


def results_of(
    subjects: list[Subject], world_sizes: tuple[int, ...], accumulations: list[str], folder: Path, backend="inductor"
) -> list[list[Result]]:
    """All results of each subject. One process is this one: what it compiles and the references that it computes, the
    others are forked with."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 1000  # the objectives are many, and share their code
    objectives = {subject: objective_of(subject, backend) for subject in subjects}
    most = max(world_sizes) * max(ACCUMULATIONS[accumulation] for accumulation in accumulations)
    for subject in subjects:
        for number in subject.numbers:
            wanted(subject, number, most)
    found: list[list[Result]] = [[] for _ in subjects]
    for size in world_sizes:
        if size == 1:
            new = compare(0, objectives, accumulations)
        else:
            seconds = 60 + 20 * len(subjects)
            new = in_processes(size, folder / str(size), compare, objectives, accumulations, seconds=seconds)[0]
        found = [[*before, *results] for before, results in zip(found, new, strict=True)]
    return found


def is_equal(subject: Subject, result: Result) -> bool:
    """Whether a result is within what is allowed to these small critics."""
    within = result.error <= SMALL_BOUNDS[subject.precision] and result.spread == 0.0
    return within and result.reduction <= REDUCTION_BOUNDS[subject.precision]
