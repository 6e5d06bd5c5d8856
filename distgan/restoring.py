"""Puts a run where a checkpoint says that it was: when it starts, and when it goes back after bad numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distgan import checkpoint
from distgan.adaptation import Adaptation
from distgan.checkpoint import TrainState, Writer
from distgan.config import Config
from distgan.errors import ConfigError, DataError, RunFolderError, UserError
from distgan.resuming import differing_networks, longer_than_asked
from distgan.run_folder import RunFolder
from distgan.runtime import Runtime
from distgan.tracking.meter import Meter
from distgan.trouble import tell
from distgan.weights import checksum

_NONE, _REFUSED = -1, -2
"""Instead of the step of a checkpoint: there is none, or none that can be used."""


class Restorer:
    """Fills a state, a meter and an adaptive strength, on all processes alike; the main process alone looks whether
    checkpoints are whole."""

    def __init__(
        self,
        config: Config,
        runtime: Runtime,
        folder: RunFolder,
        state: TrainState,
        meter: Meter,
        adaptation: Adaptation,
        writer: Writer,
    ) -> None:
        self._config, self._runtime, self._folder = config, runtime, folder
        self._state, self._meter, self._adaptation, self._writer = state, meter, adaptation, writer

    def resume(self, data: str, *, allow_other_data: bool, init_from: Path | None) -> None:
        """Goes on from the newest whole checkpoint; where there is none, begins with the weights of `init_from`.

        `data`: fingerprint of the pictures. Raises UserError when no checkpoint can be used or the processes found
        different states, ConfigError when the run was trained on other pictures or for longer than it should be."""
        progress, total = self._state.progress, self._config.total_steps
        if self._runtime.is_main:
            checkpoint.sweep(self._folder.checkpoints)  # it may take the room that the next one needs
        newest = self._to_go_on_from()
        if newest is not None:
            self._load(newest)
            if init_from is not None and self._runtime.is_main:
                tell(f"{self._folder.path} goes on from its own checkpoint; --init-from was for its first start")
            if progress.data not in (None, data) and not allow_other_data:
                raise ConfigError(
                    f"{self._folder.path} was trained on other pictures than data.shards names now; use another "
                    "run_dir, or --allow-config-change"
                )
        elif init_from is not None:
            progress.init = self._begun_with(self._source(init_from))
        if progress.step > total:
            raise ConfigError(longer_than_asked(self._folder, self._config, progress.step))
        if progress.data != data:
            progress.real_diversity = None  # of other pictures
        progress.data = data
        if not self._runtime.agree([int(data[:12], 16)]):
            raise DataError(
                "the processes found different pictures in data.shards; they must be the same on all machines"
            )
        self._settle()

    def go_back(self, newest: Path) -> None:
        """As a start from this checkpoint would, after one rollback more."""
        progress, rollbacks = self._state.progress, self._state.progress.rollbacks + 1
        same = {name: getattr(progress, name) for name in ("wandb_id", "data", "init", "real_diversity")}
        self._load(newest)
        progress.__dict__.update(same, rollbacks=rollbacks)
        self._settle()

    def newest(self) -> Path | None:
        """The newest whole checkpoint of the run, once what is being written is on the disk, or is given up."""

        def find() -> Path | None:
            try:
                self._writer.finish()
            except UserError:
                self._writer.withdraw()  # later it would be of steps that the run has gone back behind
            return checkpoint.newest_complete(self._folder.checkpoints, tell)

        step = self._found_by_main(find, self._folder.path)
        return None if step == _NONE else self._folder.checkpoint(step)

    def _to_go_on_from(self) -> Path | None:
        try:
            return self.newest()
        except UserError:
            if self._runtime.is_main:
                self._folder.cannot_go_on()
            raise

    def _begun_with(self, source: Path) -> str:
        try:
            return checkpoint.load_weights(source, self._state)
        except checkpoint.Misfit as error:
            others = differing_networks(source, self._config)
            why = f"; its run has {', '.join(others)}" if others else f" ({error.detail})"
            raise ConfigError(f"--init-from {source}: its weights do not fit the config{why}") from None

    def _source(self, init_from: Path) -> Path:
        """The checkpoint that is meant by one, or by a run folder."""
        checkpoints = init_from / "checkpoints"
        if not checkpoints.is_dir():

            def verified() -> None:
                checkpoint.verify(init_from)

            self._found_by_main(verified, init_from)
            return init_from
        step = self._found_by_main(lambda: checkpoint.newest_complete(checkpoints, tell), init_from)
        if step == _NONE:
            raise RunFolderError(f"--init-from {init_from}: has no checkpoint yet")
        return checkpoints / f"{step:08d}"

    def _found_by_main(self, find: Callable[[], Path | None], where: Path) -> int:
        """The step of the checkpoint that `find` names on the main process, which alone reads all of it, or _NONE.
        Raises its UserError there, and one of its own on the others."""
        refused: list[UserError] = []

        def search() -> int:
            try:
                found = find()
            except UserError as error:
                refused.append(error)
                return _REFUSED
            return _NONE if found is None else int(found.name)

        step = self._runtime.from_main(search)
        if step == _REFUSED:
            raise refused[0] if refused else RunFolderError(f"{where}: no checkpoint of it can be used")
        return step

    def _load(self, folder: Path) -> None:
        further = checkpoint.load(folder, self._state)
        self._meter.load(further.get("meter"))
        self._adaptation.load(further)

    def _settle(self) -> None:
        """What follows from where the progress stands. Raises UserError when the processes' differ."""
        progress, wanted = self._state.progress, self._config.checkpoint
        progress.judge_by(wanted.best, wanted.best_is, self._config.evaluate.count)
        if progress.best_step is not None and not self._folder.checkpoint(progress.best_step).is_dir():
            progress.best = progress.best_step = None  # a better one took its place, and was damaged
            progress.note_checkpoint()
        progress.tried = {name: progress.tried.get(name, 0) for name in self._state.optimizers}
        weights = [checksum(network) for network in self._state.networks.values()]
        if not self._runtime.agree([progress.step, progress.images, *weights]):
            raise UserError(
                f"the processes found different states in run_dir {self._folder.path}, this one step {progress.step}; "
                "it must be one folder on a file system that all machines share"
            )
