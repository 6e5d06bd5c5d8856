"""The faults of a storm: what is done to a running training, and what must then be seen."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

from storm import spoiling
from storm.disk import Limited, Tmpfs
from storm.run_files import last_step, starts, whole_checkpoints
from storm.spoiling import Shards
from storm.starts import Start, Trouble, wait_until

QUICK = 30.0
"""Seconds within which the loss of a process must have ended the others."""
SLOW = 90.0
"""Seconds for a step, a checkpoint and the ways out, on a busy machine."""


@dataclass
class Scene:
    """Where a fault happens."""

    start: Start
    launch: Callable[[], Start]
    """Another start of the same number of processes."""
    rank: int
    draw: Random
    run: Path
    disk: Tmpfs | Limited
    shards: Shards
    control: Path
    """Folder of what is asked of the processes (driver.py)."""


@dataclass(frozen=True)
class Outcome:
    """What must be seen of the start that was hit, and of the next one."""

    goes_on: bool = False
    """The start trains on as if nothing had been."""
    within: float = SLOW
    """Otherwise: seconds in which all its processes have gone."""
    success: bool | None = None
    """Whether its exit status is 0; None where either may be."""
    loses: bool = True
    """Whether steps may be lost."""
    says: tuple[str, ...] = ()
    """What stands in its output."""
    next_says: tuple[str, ...] = ()
    """What the next start says that gets so far as to train."""
    after: Callable[[], object] = lambda: None
    """To be called when it has ended."""


@dataclass(frozen=True)
class Kind:
    """A sort of fault."""

    act: Callable[[Scene], Outcome]
    weight: int = 1
    """How often it is drawn."""
    anywhere: bool = False
    """Whether it may also happen while a start is starting, saving or ending."""


@dataclass(frozen=True)
class Fault:
    """One of a plan."""

    kind: str
    moment: str
    """`training`, from `step` on; `saving`, at the first checkpoint from there on; `starting`; or `ending`, when the
    last step is done."""
    step: int
    processes: int
    """Of the start that it happens to, if one has to be started."""
    delay: float
    """In [0, 1): where in the moment."""
    rank: float
    """In [0, 1): which process."""


def kill_one(scene: Scene) -> Outcome:
    scene.start.send(scene.start.pid(scene.rank), signal.SIGKILL)
    return Outcome(within=QUICK, success=False)


def kill_all(scene: Scene) -> Outcome:
    scene.start.kill()
    return Outcome(success=False)


def kill_launcher(scene: Scene) -> Outcome:
    """The processes notice that it has gone, and save."""
    scene.start.send(scene.start.process.pid, signal.SIGKILL)
    return Outcome(success=False, loses=scene.start.processes == 1)


def stop_one(number: signal.Signals, scene: Scene) -> Outcome:
    scene.start.send(scene.start.pid(scene.rank), number)
    return Outcome(success=True, loses=False)


def stop_launcher(scene: Scene) -> Outcome:
    """It hands SIGTERM on, and then fails all the same."""
    scene.start.send(scene.start.process.pid, signal.SIGTERM)
    return Outcome(success=scene.start.processes == 1, loses=False)


def damage(way: Callable[[Path, Random], None], scene: Scene) -> Outcome:
    """Kills all, and damages the newest whole checkpoint if there is another one."""
    wait_until(lambda: len(whole_checkpoints(scene.run)) > 1, "two whole checkpoints")
    scene.start.kill()
    *_, before, newest = whole_checkpoints(scene.run)
    way(newest, scene.draw)
    return Outcome(success=False, next_says=(f"checkpoint {newest}", f"using {before.name}"))


def fill_disk(scene: Scene) -> Outcome:
    """Full for a while: told, and nothing lost."""
    _fill(scene)
    time.sleep(scene.draw.uniform(0.2, 1.5))
    scene.disk.free(scene.start)
    return Outcome(goes_on=True)


def kill_on_full_disk(scene: Scene) -> Outcome:
    """Killed while the disk is full; a start on it says so; then there is room again."""
    _fill(scene)
    scene.start.kill()
    refused = scene.launch()
    status = refused.end()
    scene.disk.free(refused)
    if status == 0 or "cannot be written" not in refused.text:
        raise Trouble(f"a start on a full disk ended with {status}, see {refused.log}")
    return Outcome(success=False)


def _fill(scene: Scene) -> None:
    scene.disk.fill(scene.start)
    scene.start.await_(lambda: "cannot be written" in scene.start.text, "a line about the full disk")


def corrupt_picture(scene: Scene) -> Outcome:
    """A picture that was not read yet has another byte; it is put right again when the run has ended of it."""
    bad = scene.shards.spoil(starts(scene.run)[-1], last_step(scene.run))
    if bad is None:
        scene.start.kill()
        before = len(starts(scene.run))
        scene.start = scene.launch()
        scene.start.await_(lambda: len(starts(scene.run)) > before, "the start of the training")
        bad = scene.shards.spoil(starts(scene.run)[-1], starts(scene.run)[-1])
    return Outcome(success=False, says=(bad.shard.name, bad.member, "changed since it was indexed"), after=bad.mend)


def bad_number(scene: Scene) -> Outcome:
    """The loss of one process is not a number."""
    (scene.control / f"nan-{scene.rank}").touch()
    return Outcome(success=False, says=("not finite",))


KINDS: dict[str, Kind] = {
    "SIGKILL of one process": Kind(kill_one, 4, anywhere=True),
    "SIGKILL of all": Kind(kill_all, 3, anywhere=True),
    "SIGKILL of the launcher": Kind(kill_launcher, 1, anywhere=True),
    "SIGTERM to one process": Kind(partial(stop_one, signal.SIGTERM), 2, anywhere=True),
    "SIGINT to one process": Kind(partial(stop_one, signal.SIGINT), 1, anywhere=True),
    "SIGUSR1 to one process": Kind(partial(stop_one, signal.SIGUSR1), 1, anywhere=True),
    "SIGUSR2 to one process": Kind(partial(stop_one, signal.SIGUSR2), 1, anywhere=True),
    "SIGTERM to the launcher": Kind(stop_launcher, 1, anywhere=True),
    "checkpoint truncated": Kind(partial(damage, spoiling.truncate), 2),
    "checkpoint with a flipped bit": Kind(partial(damage, spoiling.flip_bit), 2),
    "checkpoint without manifest": Kind(partial(damage, spoiling.remove_manifest), 1),
    "disk full for a while": Kind(fill_disk, 2),
    "SIGKILL on a full disk": Kind(kill_on_full_disk, 1),
    "corrupted picture": Kind(corrupt_picture, 2),
    "NaN in one process": Kind(bad_number, 2),
}

_MOMENTS = {"training": 5, "saving": 2, "starting": 2}


def plan(
    seed: int, count: int, steps: int, processes: Sequence[int], kinds: Iterable[str] = tuple(KINDS)
) -> list[Fault]:
    """`count` faults of these kinds spread over a run of `steps` steps, each kind once before any comes twice. The
    last one comes when the last step is done."""
    draw, kinds = Random(seed), list(kinds)
    deck: list[str] = []
    while len(deck) < count:
        spread = [kind for kind in kinds for _ in range(KINDS[kind].weight if deck else 1)]
        deck += draw.sample(spread, len(spread))
    deck = deck[:count]
    draw.shuffle(deck)
    faults = []
    for number, kind in enumerate(deck):
        moment = draw.choices(list(_MOMENTS), list(_MOMENTS.values()))[0] if KINDS[kind].anywhere else "training"
        step = 1 + int((steps - 2 * Shards.AHEAD) * (number + draw.random()) / count)
        faults.append(Fault(kind, moment, step, _processes(draw, processes), draw.random(), draw.random()))
    return _with_an_end(faults, steps)


def _processes(draw: Random, processes: Sequence[int]) -> int:
    """More than two are slow on few cores, and come more rarely."""
    return draw.choices(list(processes), [3 if number <= 2 else 1 for number in processes])[0]


def _with_an_end(faults: list[Fault], steps: int) -> list[Fault]:
    """The last fault that may come anywhere comes at the end."""
    for number in reversed(range(len(faults))):
        if KINDS[faults[number].kind].anywhere:
            last = faults.pop(number)
            return [*faults, replace(last, moment="ending", step=steps)]
    return faults
