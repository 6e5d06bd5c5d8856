"""Runs from a W&B server."""

from __future__ import annotations

from distgan.compare.environment import of_wandb
from distgan.compare.history import ended, lines_of, taken_apart
from distgan.compare.run_data import RunData
from distgan.compare.series import series_of
from distgan.errors import ConfigError, UserError

_SECONDS = 60
"""That the server is given for an answer."""
_STATES = {"crashed": "stopped", "killed": "stopped", "preempting": "running", "pending": "queued"}
"""W&B's words, in those of `distgan runs`; the others are the same."""
_ENDED = ("finished", "failed")


def read_server(path: str) -> list[RunData]:
    """The runs of `entity/project`, or the one run of `entity/project/id`; without their pictures.

    Raises ConfigError for another path, UserError when the server does not give them."""
    parts = path.strip("/").split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ConfigError(f"--wandb {path}: write entity/project, or entity/project/run id")
    import wandb

    try:
        api = wandb.Api(timeout=_SECONDS)
        runs = [api.run("/".join(parts))] if len(parts) == 3 else list(api.runs("/".join(parts), order="+created_at"))
        return [run_of(run) for run in runs]
    except Exception as error:  # noqa: BLE001  wandb raises its own, those of its transport, and ValueError
        said = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"--wandb {path}: the server did not give its runs ({type(error).__name__}: {said}); check the path, the "
            "network and `wandb login`"
        ) from None


def run_of(run: object) -> RunData:
    """Of a `wandb.apis.public.Run`, by its documented attributes and `scan_history`."""
    series = series_of(lines_of(run.scan_history()))
    config, start = taken_apart(run.config or {})
    state = _STATES.get(run.state, run.state)
    if run.state in _ENDED:
        state = ended((run.summary or {}).get("status"), state)
    return RunData(
        name=str(run.name or run.id),
        place=f"{run.entity}/{run.project}/{run.id}",
        config=config,
        series=series,
        state=state,
        why=f"{run.state}, by W&B" if state != run.state else None,
        environment={**of_wandb(run.metadata or {}), **start},
        notes=str(run.notes or ""),
        tags=tuple(map(str, run.tags or ())),
        problems=() if not series.is_empty else ("no lines of metrics yet",),
    )
