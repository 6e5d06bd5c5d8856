"""`accelerate launch distgan/train.py --config configs/NAME.yaml [key.path=value ...]` trains, or goes on training."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # on a shared machine spinning threads wait for each other
if not __package__:  # run as a script: this folder's files must not stand before the standard library's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)


def main() -> int:
    """Returns 0 when the run is finished or was told to stop, 1 when it failed, 2 when it cannot be run as given."""
    from distgan.exit_status import exit_status, leave
    from distgan.stopping import INTERRUPTED, StopSignals, ignore_stop_signals

    parser = argparse.ArgumentParser(
        prog="train.py", description="Trains a GAN; started again with the same run_dir it goes on."
    )
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML; later files win")
    parser.add_argument("--allow-config-change", action="store_true", help="go on although the config has changed")
    parser.add_argument(
        "--init-from", type=Path, metavar="CHECKPOINT", help="a new run begins with its weights; also a run folder"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="laid on the files")
    args = parser.parse_intermixed_args()
    signals = StopSignals().install()
    status = exit_status(lambda: train(args, signals), INTERRUPTED)
    ignore_stop_signals()
    return leave(status)


def train(args: argparse.Namespace, signals) -> None:
    """Makes the config, checks what can be checked without torch, prepares the folder, trains."""
    from distgan import exit_status
    from distgan.config import load_config, process_conflicts, raise_mistakes
    from distgan.data.dataset import open_dataset
    from distgan.errors import RunFolderError
    from distgan.resuming import check_init, check_resumable
    from distgan.run_folder import RunFolder
    from distgan.shared_folder import blind, not_shared
    from distgan.tracking.event_files import check_installed
    from distgan.tracking.trial import with_own_folder

    config = with_own_folder(load_config(args.config, args.overrides))
    if config.tracking.tensorboard:
        check_installed()
    raise_mistakes(process_conflicts(config, int(os.environ.get("WORLD_SIZE", 1))))
    folder = RunFolder(config.run_dir)
    if args.init_from is not None:
        check_init(args.init_from)
    check_resumable(folder, config, args.allow_config_change)
    dataset = open_dataset(config.data)

    from distgan.runtime import Runtime
    from distgan.trainer import Trainer

    runtime = Runtime(config)
    signals.met = True
    folder.create()
    if runtime.is_main:
        folder.lock()
        folder.forget_end()
    unseeing = blind(folder.path, runtime.rank, runtime.world_size, runtime.union)
    if unseeing:
        raise RunFolderError(not_shared(folder.path, unseeing))
    exit_status.keep = lambda why, again: folder.note_end("failed", why, again)  # the folder is this run's now
    signals.on_interrupt = lambda: (
        folder.give_up("interrupted") if runtime.is_main else None,
        runtime.watchdog.failed(),
    )
    runtime.watchdog.on_end = folder.give_up
    trainer = Trainer(config, runtime, dataset, folder)
    runtime.watchdog.saves = lambda: trainer.writer.busy
    status = trainer.fit(signals, allow_other_data=args.allow_config_change, init_from=args.init_from)
    why = runtime.union(frozenset([signals.reason] if signals.reason else [])) if status == "preempted" else ()
    runtime.close()
    if runtime.is_main:
        folder.note_end(status, ", ".join(sorted(why)))
        with contextlib.suppress(OSError):  # of a stderr that is full or gone
            print(_last_line(status, why, trainer), file=sys.stderr, flush=True)


def _last_line(status: str, why, trainer) -> str:
    """How the run stands, and what to do next."""
    by = f" by {', '.join(sorted(why))}" if why else ""
    line = f"{status}{by}: {trainer.folder.path}, step {trainer.progress.step}"
    if status == "finished":
        return line
    max_time, few = trainer.config.train.max_time, trainer.steps_taken
    if "train.max_time" in why and few < 3:
        line += f"; train.max_time {max_time} is too short for this run: it left time for {few} step{'s' * (few > 1)}"
    return f"{line}; the same command goes on from there"


if __name__ == "__main__":
    sys.exit(main())
