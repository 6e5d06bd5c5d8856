"""Whether a run folder can be written, and what training would do with what is in it."""

from __future__ import annotations

from collections.abc import Collection

from distgan import checkpoint
from distgan.config import Config
from distgan.doctor.table import FINE, NOT_FINE, REMARK, Finding
from distgan.errors import UserError
from distgan.files import refused
from distgan.resuming import check_resumable, longer_than_asked
from distgan.run_folder import RunFolder, unwritable
from distgan.shared_folder import not_shared

WHAT = "run_dir"


def check_folder(config: Config, unseeing: Collection[str] = ()) -> list[Finding]:
    """Looks without changing anything. `unseeing`: the processes for which it is another folder."""
    folder = RunFolder(config.run_dir)
    for path in (folder.path, folder.samples, folder.checkpoints):
        if error := refused(path):
            return [Finding(WHAT, NOT_FINE, f"{path}: {unwritable(error)}")]
    troubles = [Finding(WHAT, NOT_FINE, not_shared(folder.path, unseeing))] if unseeing else []
    if folder.is_locked():
        troubles.append(
            Finding(WHAT, NOT_FINE, f"{folder.path}: a training is running in it; stop it, or use another run_dir")
        )
    try:
        check_resumable(folder, config, allow=False)
    except UserError as error:
        troubles.append(Finding(WHAT, NOT_FINE, str(error)))
    return troubles or _progress(folder, config)


def _progress(folder: RunFolder, config: Config) -> list[Finding]:
    """Raises UserError where there are checkpoints and none is whole."""
    damaged: list[str] = []
    newest, total = checkpoint.newest_complete(folder.checkpoints, damaged.append), config.total_steps
    if newest is None:
        return [Finding(WHAT, FINE, f"{folder.path}: " + ("no checkpoint yet" if folder.path.exists() else "new"))]
    step = int(newest.name)
    if step > total:
        return [Finding(WHAT, NOT_FINE, longer_than_asked(folder, config, step))]
    if step == total:
        text = f"{folder.path} has its {total} steps already; with a longer train.length it goes on"
    else:
        text = f"{folder.path} goes on from step {step} to {total}"
    return [Finding(WHAT, REMARK if damaged or step == total else FINE, "\n".join([text, *damaged]))]
