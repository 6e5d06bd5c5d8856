"""Values that are right alone and wrong together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from distgan.config.growing import POWERS, sides
from distgan.config.schema import Config

GRADIENT_PENALTIES = ("gp", "lp", "r1", "r2", "r1r2")

MEASURED_BY = {
    "precision_own": "precision_recall_own",
    "recall_own": "precision_recall_own",
    "modes_kl": "modes",
    "label_accuracy": "modes",
    "precision": "precision_recall",
    "recall": "precision_recall",
}
"""Of what evaluate/NAME tells, the metric that measures it, where it has another name."""
_BESIDE = re.compile(r"(swd|fd_own)_floor|swd_\d+")
"""What is told beside a metric of evaluate.metrics: its floor, or its value at one resolution."""

LOSSES_AROUND_ZERO = ("nonsaturating", "minimax", "hinge")
"""Those for which a score above zero says "real". A constant added to all scores changes no other loss."""

_HIGHER = ("precision", "recall", "modes", "label_accuracy", "inception_score")
"""Of what evaluate/NAME tells, what is better the higher it is, here and in names that end in _own."""
_LOWER = ("swd", "fd_own", "modes_kl", "fid", "kid")


def measure_of(name: str) -> str:
    """The metric that measures what evaluate/NAME tells; the name itself where that is one, or nothing that is told."""
    return name.rpartition("_")[0] if _BESIDE.fullmatch(name) else MEASURED_BY.get(name, name)


class Mistake(NamedTuple):
    """One thing wrong: the key, and a clause that says the value, what is allowed and the way out."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"


def conflicts(config: Config) -> list[Mistake]:
    """What cannot be run although every key of it is allowed."""
    return [
        *_critic_norm(config),
        *_resolutions(config),
        *_lazy(config),
        *_single_value(config),
        *_growing(config),
        *_groups(config),
        *_partitions(config),
        *_resampled(config),
        *_best(config),
        *_reduce(config),
        *_compiled(config),
        *_augment(config),
    ]


def _critic_norm(config: Config) -> Iterator[Mistake]:
    objective = config.objective
    if objective.allow_batch_norm or getattr(config.critic, "norm", "none") != "batch":
        return
    if objective.penalty in GRADIENT_PENALTIES:
        yield Mistake(
            "critic.norm",
            f"batch cannot be used with objective.penalty {objective.penalty}, whose gradient is taken for each "
            "picture alone (WGAN-GP section 4); use none, layer, instance or group, or objective.allow_batch_norm true "
            "to see why",
        )


def _resolutions(config: Config) -> Iterator[Mistake]:
    for part in ("generator", "critic"):
        network = getattr(config, part)
        known = network.resolutions()
        if config.growing is not None and network.grows:
            continue  # `_growing` tells
        if known and config.data.resolution not in known:
            yield Mistake(
                "data.resolution",
                f"{config.data.resolution} is not a resolution of {part}.name {network.name}, which has "
                f"{', '.join(map(str, known))}; {part}.name mlp takes any",
            )


def _lazy(config: Config) -> Iterator[Mistake]:
    if config.objective.every > 1 and config.objective.penalty not in GRADIENT_PENALTIES:
        yield Mistake(
            "objective.every",
            f"{config.objective.every} has no effect with objective.penalty {config.objective.penalty}; leave it out",
        )


def _single_value(config: Config) -> Iterator[Mistake]:
    for part in ("generator", "critic"):
        network = getattr(config, part)
        if network.name == "mlp" and network.norm == "batch" and config.train.batch_size == 1:
            yield Mistake("train.batch_size", f"1 picture has no statistics for {part}.norm batch; use 2 or more")


def _growing(config: Config) -> Iterator[Mistake]:
    growing, resolution = config.growing, config.data.resolution
    if growing is None:
        return
    for part in ("generator", "critic"):
        network = getattr(config, part)
        if not network.grows:
            yield Mistake("growing", f"{part}.name {network.name} cannot grow; use progressive, or growing=null")
    of_run, known = sides(growing, resolution), _full_sides(config)
    if resolution not in known:
        if resolution in POWERS and resolution <= growing.start:
            yield Mistake(
                "growing.start",
                f"{growing.start} is not below data.resolution {resolution}; use a smaller power of two",
            )
        else:
            around = [*[side for side in known if side < resolution][-1:], *[s for s in known if s > resolution][:1]]
            yield Mistake(
                "data.resolution",
                f"{resolution} is no resolution of a run that grows from {growing.start}; use "
                f"{' or '.join(map(str, around)) or 'a smaller growing.start'}",
            )
        return
    by_side = {"batch_sizes": growing.batch_sizes, "stables": growing.stables}
    for key, side in ((key, side) for key, values in by_side.items() for side in values):
        if side not in of_run:
            yield Mistake(
                f"growing.{key}.{side}",
                f"{side} is no resolution of this run, which has {', '.join(map(str, of_run))}; leave it out "
                f"(growing.{key}={{}} drops all that config files give)",
            )


def _full_sides(config: Config) -> list[int]:
    """What data.resolution may be in a run that grows from this resolution."""
    networks = [network for network in (config.generator, config.critic) if network.grows]
    return [
        side
        for side in POWERS
        if side > config.growing.start and all(side in network.resolutions() for network in networks)
    ]


def _batches(config: Config) -> Iterator[tuple[str, int]]:
    """The batch sizes of a run, each with the key that says it; train.batch_size unless each resolution has its own."""
    given = config.growing.batch_sizes if config.growing is not None else {}
    of_run = sides(config.growing, config.data.resolution)
    own = {side: given[side] for side in of_run if side in given}
    if not own or len(own) < len(of_run):
        yield "train.batch_size", config.train.batch_size
    yield from ((f"growing.batch_sizes.{side}", size) for side, size in own.items())


def _groups(config: Config) -> Iterator[Mistake]:
    group = _group(config)
    for key, batch in _batches(config):
        if batch % group:
            yield Mistake(
                key,
                f"{batch} images cannot be split into groups of critic.minibatch_std {group}; use "
                f"{_nearest(batch, group)}, or another critic.minibatch_std (0: none)",
            )


def _partitions(config: Config) -> Iterator[Mistake]:
    parts = config.data.partitions
    for key, batch in _batches(config):
        if batch % parts:
            yield Mistake(
                "data.partitions",
                f"{parts} parts cannot share the {batch} images of {key} equally; use a batch of "
                f"{_nearest(batch, parts)}, or another number of partitions",
            )


def _resampled(config: Config) -> Iterator[Mistake]:
    """What needs an index has no meaning without one."""
    data = config.data
    if data.order != "resampled":
        return
    for key, value, plain in (
        ("holdout", data.holdout, None),
        ("partitions", data.partitions, 1),
        ("stage", data.stage, False),
        ("tier", data.tier if data.tier != "stream" else "auto", "auto"),
    ):
        if value != plain:
            yield Mistake(
                f"data.{key}", f"{value} is not possible with data.order resampled; leave it out, or use another order"
            )


def _best(config: Config) -> Iterator[Mistake]:
    if config.checkpoint.best == "generator/diversity" and not config.tracking.watch:
        yield Mistake(
            "checkpoint.best",
            "generator/diversity is not measured with tracking.watch false; use true, or another metric",
        )
    yield from _evaluated(config)


def _evaluated(config: Config) -> Iterator[Mistake]:
    """Evaluations that something needs and that there are not."""
    best, evaluate = config.checkpoint.best or "", config.evaluate
    kind, _, name = best.partition("/")
    needed = MEASURED_BY.get(name, name)
    if kind == "evaluate" and evaluate.every is None:
        yield Mistake("checkpoint.best", f"{best} needs evaluate.every, which is not set; set it, or another metric")
    elif kind == "evaluate" and needed not in evaluate.metrics:
        yield Mistake("checkpoint.best", f"{best} is not measured; add {needed} to evaluate.metrics")
    right = "highest" if name.removesuffix("_own") in _HIGHER else "lowest" if name in _LOWER else None
    if kind == "evaluate" and right not in (None, config.checkpoint.best_is):
        yield Mistake("checkpoint.best_is", f"{config.checkpoint.best_is} keeps the worst {best}; use {right}")
    if best == "evaluate/label_accuracy" and not config.data.classes:
        yield Mistake("checkpoint.best", f"{best} needs a class that was asked for; set data.classes")
    if evaluate.every is not None and config.data.order == "resampled":
        yield Mistake("evaluate.every", "needs shards with an index, which data.order resampled reads without one")


def _reduce(config: Config) -> Iterator[Mistake]:
    if config.train.reduce == "bf16" and config.train.precision == "fp64":
        yield Mistake(
            "train.reduce",
            "bf16 would round the gradients of train.precision fp64 to 3 digits; use fp32, which reduces them whole",
        )


def _compiled(config: Config) -> Iterator[Mistake]:
    train = config.train
    if train.checkpoint_activations and train.compile is True:
        yield Mistake(
            "train.checkpoint_activations",
            "true is not possible with train.compile true, which decides itself what is kept; use train.compile false",
        )
    needed = {
        "train.compile true": train.compile is False,
        "train.device cuda": train.device == "cpu",
        "train.checkpoint_activations false": train.checkpoint_activations,
    }
    if train.cuda_graphs and any(needed.values()):
        missing = " and ".join(name for name, lacks in needed.items() if lacks)
        yield Mistake("train.cuda_graphs", f"true needs compiled code on CUDA; use {missing}, or leave it out")


def _augment(config: Config) -> Iterator[Mistake]:
    augment = config.augment
    if augment is None:
        return
    if augment.strength != "adaptive":
        for key in ("target", "speed", "every"):
            if getattr(augment, key) != type(augment).model_fields[key].default:
                yield Mistake(f"augment.{key}", "has no effect unless augment.strength is adaptive; leave it out")
    elif config.data.holdout is None and config.objective.loss not in LOSSES_AROUND_ZERO:
        yield Mistake(
            "augment.strength",
            f"adaptive with objective.loss {config.objective.loss}, whose scores have no zero, needs pictures to see "
            'overfitting on: set data.holdout, for example "1000 images" or a tenth of a small set, or give a number '
            "from 0 to 1",
        )


def _group(config: Config) -> int:
    """How many consecutive images must stay together."""
    return getattr(config.critic, "minibatch_std", 0) or 1


def _nearest(count: int, unit: int) -> str:
    """The multiples of `unit` around `count`, as words."""
    lower, upper = count // unit * unit, -(-count // unit) * unit
    return " or ".join(str(n) for n in (lower, upper) if n)


def process_conflicts(config: Config, processes: int) -> list[Mistake]:
    """What cannot be run on this number of processes."""
    local = max(batch for _, batch in _batches(config)) // processes
    return [
        *(mistake for key, batch in _batches(config) for mistake in _shares(config, key, batch, processes)),
        *_split_statistics(config, local),
        *_split_groups(config, local),
        *_split_graphs(config, local, processes),
    ]


def _shares(config: Config, key: str, batch: int, processes: int) -> Iterator[Mistake]:
    group = _group(config)
    nearest = _nearest(batch, processes * group)
    if batch % processes:
        yield Mistake(key, f"{batch} images cannot be shared by {processes} processes; use {nearest}")
    elif batch // processes % group:
        yield Mistake(
            key,
            f"{batch} images over {processes} processes are {batch // processes} on each, which cannot be split into "
            f"groups of critic.minibatch_std {group}; use {nearest}, fewer processes, or another critic.minibatch_std "
            "(0: none)",
        )


def _split_statistics(config: Config, local: int) -> Iterator[Mistake]:
    micro = config.train.micro_batch
    networks = [part for part in ("generator", "critic") if getattr(getattr(config, part), "norm", "") == "batch"]
    if micro and local > micro and networks:
        yield Mistake(
            "train.micro_batch",
            f"{micro} splits the {local} images of a process, and {networks[0]}.norm batch needs the statistics of "
            f"the whole batch at once; use at least {local}, more processes, or {networks[0]}.norm layer, instance "
            "or group",
        )


def _split_groups(config: Config, local: int) -> Iterator[Mistake]:
    micro, group = config.train.micro_batch, _group(config)
    if micro and local > micro and micro % group:
        yield Mistake(
            "train.micro_batch",
            f"{micro} images cannot be split into groups of critic.minibatch_std {group}; use "
            f"{_nearest(micro, group)}, or another critic.minibatch_std (0: none)",
        )


def _split_graphs(config: Config, local: int, processes: int) -> Iterator[Mistake]:
    micro = config.train.micro_batch
    if not config.train.cuda_graphs:
        return
    if micro and local > micro:
        yield Mistake(
            "train.cuda_graphs",
            f"true is not possible where train.micro_batch {micro} splits the {local} images of a process: the replay "
            f"of one overwrites the gradients of the other; use at least {local}, or false",
        )
    if processes > 1 and "batch" in (getattr(part, "norm", "none") for part in (config.generator, config.critic)):
        yield Mistake(
            "train.cuda_graphs",
            f"true is not possible with batch norm on {processes} processes, which talk to each other in the middle of "
            "an update; use layer, instance or group norm, or false",
        )
