"""What a run leaves behind of an update whose loss or gradient was not finite, so that it can be studied."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from distgan import checkpoint, randomness
from distgan.bad_numbers import BadUpdate, Update
from distgan.checkpoint import Progress
from distgan.config.schema import Train
from distgan.data.dataset import Dataset
from distgan.files import with_usual_mode
from distgan.phases import Phase, Phases
from distgan.run_folder import RunFolder
from distgan.runtime import Runtime

DRAWS, REPORT = "draws.safetensors", "report.json"


class Evidence:
    """Of one bad update. Made by all processes together: each knows only its own loss and labels."""

    def __init__(self, bad: BadUpdate, runtime: Runtime) -> None:
        self.bad, self._runtime, update = bad, runtime, bad.update
        self.losses: list[float] = runtime.gather(update.loss.detach().double().reshape(1)).tolist()
        """Of each process."""
        self.labels = None if update.labels is None else runtime.gather(update.labels)
        """int64 [N] of the global batch, or None without classes."""

    def __str__(self) -> str:
        """What was found, as a clause."""
        ranks = [str(rank) for rank, loss in enumerate(self.losses) if not math.isfinite(loss)]
        gradient = "its gradient, or the square of it, is not finite"
        what = f"its loss is not finite on process {', '.join(ranks)}" if ranks else gradient
        return f"{self.bad.update}: {what}; it was not applied"

    def keep(self, folder: RunFolder, phases: Phases, dataset: Dataset, progress: Progress) -> str:
        """Has the main process write it, the others wait. Returns a clause that says where it is, or why it is not.

        The networks must be those before the update; but for the running statistics of norms, which no training reads.
        """
        update, reason = self.bad.update, ""
        final = folder.bad_numbers / f"{update.step:08d}-{update.phase}-{update.number}"

        def write() -> int:
            nonlocal reason
            try:
                self._write(final, phases, dataset, progress)
            except (OSError, SafetensorError) as error:
                reason = f": {getattr(error, 'strerror', None) or error}"
            return int(not reason)

        if self._runtime.from_main(write):
            return f"{final} has what is needed to study it"
        return f"what is needed to study it could not be written to {final}{reason}"

    def _write(self, final: Path, phases: Phases, dataset: Dataset, progress: Progress) -> None:
        part = final.with_name(f".{final.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _save(phases.generator_phase.network.state_dict(), part / checkpoint.GENERATOR)
        _save(phases.critic_phase.network.state_dict(), part / checkpoint.CRITIC)
        _save(draws(phases, self.bad.update, self.labels, progress.rollbacks), part / DRAWS)
        report = self._report(phases, dataset, progress)
        (part / REPORT).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
        shutil.rmtree(final, ignore_errors=True)  # of a start that came to the same end
        os.replace(part, final)

    def _report(self, phases: Phases, dataset: Dataset, progress: Progress) -> dict:
        update, config = self.bad.update, phases.config
        names = dataset.names(phases.stage.batch_size, config.seed, update.position)
        return {
            "phase": update.phase,
            "step": update.step,
            "update": update.number,
            "seed": config.seed,
            "rollbacks": progress.rollbacks,
            "learning_rate": update.learning_rate,
            **({} if update.strength is None else {"augmentation_strength": update.strength.item()}),
            "loss_of_each_process": [loss if math.isfinite(loss) else str(loss) for loss in self.losses],
            "gradient": _broken(self.bad, _phase(phases, update)),
            "position": update.position,
            "pictures": None if names is None else [name._asdict() for name in names],
        }


def way_out(train: Train, newest: int) -> str:
    """What a person can do after a bad update; `newest`: step of the newest checkpoint, or -1."""
    if newest < 0:
        return "There is no checkpoint to go back to: start again with other settings"
    used_up = f"train.rollbacks {train.rollbacks} are used up. " if train.bad_numbers == "rollback" else ""
    others = " or ".join(other for other in ("skip", "rollback") if other != train.bad_numbers)
    return (
        f"{used_up}The newest checkpoint, of step {newest}, is from before: started again with train.bad_numbers="
        f"{others}, or with other settings and --allow-config-change, the run goes on from it"
    )


def draws(phases: Phases, update: Update, labels: Tensor | None, rollbacks: int) -> dict[str, Tensor]:
    """All that was drawn for the global batch of N images, row by row: `key` int64 [N], `latent` [N, latent],
    `epsilon` [N] of the points where a gradient penalty is taken, `flip` bool [N] of the real pictures, and `label`
    int64 [N]; each only where the update has it."""
    rows = torch.arange(phases.stage.batch_size, device=phases.runtime.device)

    def keys_of(phase: Phase, repeat: int) -> Tensor:
        return randomness.image_keys(phases.batch_key(phase, update.step, repeat, rollbacks), rows)

    phase, critic = _phase(phases, update), phases.critic_phase
    keys = keys_of(phase, update.number - 1)
    found = {"key": keys, "latent": phases.latent(keys)}
    if phase.fresh_reals:
        found["epsilon"] = randomness.uniform(keys, "epsilon", dtype=phases.runtime.dtype)
    if phases.config.data.flip:  # by the keys of the update that read the pictures
        read = keys if phase.fresh_reals else keys_of(critic, critic.repeats - 1)
        found["flip"] = randomness.uniform(read, "flip") < 0.5
    if labels is not None:
        found["label"] = labels
    return found


def _phase(phases: Phases, update: Update) -> Phase:
    return next(phase for phase in phases if phase.name == update.phase)


def _broken(bad: BadUpdate, phase: Phase) -> list[dict]:
    """The parameters whose gradient has no finite sum of squares, and how many entries are not finite or their square
    is not, where the gradient is still there."""
    with_gradient = [item for item in phase.network.named_parameters() if item[1].grad is not None]
    return [
        {
            "parameter": name,
            "not_finite": int((~parameter.grad.square().isfinite()).sum()) if bad.is_newest else None,
            "entries": parameter.numel(),
        }
        for (name, parameter), is_finite in zip(with_gradient, bad.finite.tolist(), strict=False)
        if not is_finite
    ]


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    with with_usual_mode(path):
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)
