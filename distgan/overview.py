"""What a start says of its run before the first step."""

from __future__ import annotations

from pathlib import Path

from distgan.config.growing import Course
from distgan.data.dataset import Dataset
from distgan.phases import Phases
from distgan.runtime import parameters


def overview(phases: Phases, dataset: Dataset, folder: Path, step: int) -> str:
    """Processes, data, batch, resolutions and networks, as lines; `step`: the one that comes next."""
    runtime, config = phases.runtime, phases.config
    local, at_once = phases.local, phases.micro_batch
    micro = f", {at_once} at a time" if at_once < local else ""
    compiled = ", compiled" if runtime.compiles else ""
    generator, critic = parameters([phases.generator]), parameters([phases.critic])
    lines = [
        f"processes  {runtime.world_size} on {runtime.device.type}, {config.train.precision}{compiled}",
        f"data       {dataset.summary()}",
        f"batch      {phases.stage.batch_size} over all processes, {local} on each{micro}",
        *_growing(config.course, config.data.resolution),
        f"parameters generator {generator:,}, critic {critic:,}",
        f"run        {folder}, step {step} to {config.total_steps}",
    ]
    return "\n".join(lines)


def _growing(course: Course, full: int) -> list[str]:
    if not course.grows:
        return []
    sides = ", ".join(f"{stage.resolution} px to step {stage.last}" for stage in course.stages)
    short = f"; train.length ends before {full} px" if course.stages[-1].resolution < full else ""
    return [f"growing    {sides}{short}"]
