"""`distgan evaluate`: what is asked for, and whether it makes sense. Loads torch only when it does."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distgan.config import Config, load_config
from distgan.errors import ConfigError, UserError
from distgan.evaluation.table import Evaluation, recorded, table
from distgan.files import new_file
from distgan.run_folder import RunFolder
from distgan.trouble import tell

if TYPE_CHECKING:
    from distgan.evaluation.evaluator import Evaluator
    from distgan.runtime import Runtime


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `distgan evaluate`."""
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="run folder")
    add("--metrics", metavar="A,B", help="instead of those of its config: swd, ms_ssim, fd_own, modes, fid ...")
    add("--count", metavar="N", help="pictures (default: evaluate.count of its config)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, metavar="N", help="the checkpoint of this step (default: the newest)")
    which.add_argument("--all", action="store_true", help="every checkpoint")
    which.add_argument(
        "--table", action="store_true", help="evaluate nothing: the evaluations of its training, from metrics.jsonl"
    )
    add("--raw", action="store_true", help="the last weights instead of their running average")
    add("--shards", metavar="PLACE", help="where its training pictures are now")
    add("--inception", metavar="FILE", help="Inception's weights, for fid, kid, inception_score and precision_recall")
    add("--device", metavar="DEVICE", help="auto, cpu or cuda (default: train.device of its config)")
    add("--json", metavar="FILE", type=Path, help="write what is found into a file too")
    parser.epilog = "On several processes: accelerate launch distgan/cli.py evaluate RUN"


def run(args: argparse.Namespace) -> int:
    """Runs `distgan evaluate` from parsed arguments. Raises UserError."""
    folder = RunFolder(args.run)
    if not folder.config.is_file():
        raise ConfigError(_no_run(folder))
    if args.table:
        _check_table(args)
        _tell_all(args, recorded(folder.metrics))
        return 0
    config = _config(args, folder)

    from distgan.data.dataset import open_dataset

    dataset = open_dataset(config.data)

    from distgan.evaluation.evaluator import Evaluator
    from distgan.runtime import Runtime, launched_processes

    runtime = Runtime(_on_processes(config, launched_processes()))
    evaluator = Evaluator(config, runtime, dataset)
    found = _evaluations(args, config, runtime, evaluator)
    runtime.from_main(
        lambda: _tell_all(args, found, config.evaluate.count)
    )  # before any leaves: the launcher ends all others
    runtime.close()
    return 0


def _no_run(folder: RunFolder) -> str:
    """What is wrong with a folder without a config, and the way out."""
    place = folder.path.absolute()
    if place.parent.name == "checkpoints" and place.name.isdecimal():
        return f"{folder.path}: a checkpoint; give its run folder: {place.parent.parent} --step {int(place.name)}"
    return f"{folder.path}: no run folder (it has no config.yaml); give one that training wrote"


def _check_table(args: argparse.Namespace) -> None:
    for name in ("metrics", "count", "raw", "shards", "inception", "device"):
        if getattr(args, name):
            raise ConfigError(f"--{name}: has no effect with --table, which evaluates nothing; leave one out")


def _config(args: argparse.Namespace, folder: RunFolder) -> Config:
    """That of the run, with what is asked for instead."""
    overrides = []
    if args.metrics is not None:
        overrides.append(f"evaluate.metrics={json.dumps(args.metrics.replace(' ', '').split(','))}")
    if args.count is not None:
        overrides.append(f"evaluate.count={args.count}")
    for key, given in (("data.shards", args.shards), ("evaluate.inception", args.inception)):
        if given is not None:
            overrides.append(f"{key}={json.dumps(given)}")
    if args.device is not None:
        overrides.append(f"train.device={args.device}")
    return load_config([folder.config], [*overrides, "checkpoint.best=null", "evaluate.every=null"])


def _on_processes(config: Config, processes: int) -> Config:
    """A config for the processes of an evaluation, of which there may be any number: nothing of a batch is shared."""
    own = {"batch_size": config.train.batch_size * processes, "micro_batch": None, "cuda_graphs": False}
    return config.model_copy(update={"train": config.train.model_copy(update=own)})


def _evaluations(args: argparse.Namespace, config: Config, runtime: Runtime, evaluator: Evaluator) -> list[Evaluation]:
    from distgan import checkpoint
    from distgan.sampling.source import find

    folder = RunFolder(args.run)
    evaluator.prepare(lambda: runtime.watchdog.mark(0, "preparing evaluations"))
    if set(config.evaluate.metrics) <= set(evaluator.left_out):
        raise UserError("evaluate: nothing of what is asked for can be measured here, as is told above")
    found = []
    for step in _steps(args, runtime):
        began = time.perf_counter()
        generator = runtime.place(find(args.run, step=step, raw=args.raw).generator)
        metrics = evaluator.measure(generator, lambda step=step: runtime.watchdog.mark(step, "evaluating"))
        kimg = checkpoint.images_in(folder.checkpoint(step)) / 1000
        found.append(Evaluation(step, kimg, metrics))
        if runtime.is_main:
            tell(f"step {step}: {config.evaluate.count} pictures, {time.perf_counter() - began:.0f} s")
    return found


def _steps(args: argparse.Namespace, runtime: Runtime) -> Sequence[int]:
    """The steps of the checkpoints that are meant, as the main process finds them: a training may go on here. Raises
    UserError, on all processes alike, where there is none."""
    from distgan import checkpoint

    if args.step is not None:
        return [args.step]
    folder = RunFolder(args.run)

    def is_whole(step: int) -> bool:
        try:
            checkpoint.verify(folder.checkpoint(step))
        except UserError as error:
            tell(f"{error}; passed over")
            return False
        return True

    def search() -> list[int]:
        if args.all:
            return [step for step in sorted(checkpoint.steps_in(folder.checkpoints)) if is_whole(step)]
        newest = checkpoint.newest_complete(folder.checkpoints, tell)
        return [] if newest is None else [int(newest.name)]

    steps = runtime.from_main(search)
    if not steps:
        raise UserError(f"{args.run}: no checkpoint yet that is whole; train on")
    return steps


def _tell_all(args: argparse.Namespace, found: Sequence[Evaluation], count: int | None = None) -> None:
    """`count`: pictures of each evaluation, where they were just made."""
    print(table(found), flush=True)
    if count is not None:
        print(f"{count} pictures, {'the last weights' if args.raw else 'averaged weights'}", flush=True)
    if args.json is None:
        return
    weights = "generator" if args.raw else "generator_ema"
    about = {"run": str(args.run), "weights": weights} | ({} if count is None else {"count": count})
    text = json.dumps({**about, "evaluations": [one._asdict() for one in found]})
    try:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with new_file(args.json) as file:
            file.write(text.encode() + b"\n")
    except OSError as error:
        raise UserError(f"--json {args.json}: cannot be written: {error.strerror or error}; give another") from None
