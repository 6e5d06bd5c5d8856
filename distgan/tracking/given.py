"""What W&B has been given of a run, over all its starts: it takes nothing back, and must see no step twice.

metrics.jsonl and samples/ are written before W&B is told, so they say it, until they are cut back to a checkpoint.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from distgan.run_folder import RunFolder, grids_in, read_lines, write_atomically


class Given(NamedTuple):
    """The last step of each kind."""

    line: int = 0
    picture: int = -1


def remember_given(folder: RunFolder, run_id: str) -> Given:
    """What the W&B run `run_id` has been given; to be called before metrics.jsonl and samples/ are cut back.

    Raises UserError when it cannot be written down."""
    if not folder.wandb_id.exists() or folder.wandb_id.read_text().strip() != run_id:
        return Given()  # what is in the folder went to another W&B run, or to none
    kept = _kept(folder, run_id)
    line = max((line["step"] for line in read_lines(folder.metrics)), default=0)
    picture = max(grids_in(folder.samples), default=-1)
    found = Given(max(kept.line, line), max(kept.picture, picture))
    if found != kept:
        write_atomically(folder.wandb_given, json.dumps({"id": run_id, **found._asdict()}) + "\n")
    return found


def _kept(folder: RunFolder, run_id: str) -> Given:
    try:
        record = json.loads(folder.wandb_given.read_text())
        return Given(int(record["line"]), int(record["picture"])) if record["id"] == run_id else Given()
    except (OSError, ValueError, KeyError, TypeError):
        return Given()
