"""`distgan prepare`: pictures of any source to shards with an index, by several processes.

A prepare that was stopped, even killed, goes on when the same command is run again.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distgan.data.command import run_command
from distgan.data.encodings import QUALITIES, RAW_UP_TO, WEBP_FROM, chosen_encoding
from distgan.data.index_file import INDEX_FILE, read_index, write_index
from distgan.data.pictures import Recipe, Rendered
from distgan.data.pool import default_workers, rendered_chunks
from distgan.data.progress import Progress
from distgan.data.scan import SAMPLE, scan_tar
from distgan.data.shapes import GROUNDS
from distgan.data.shards import (
    DEFAULT_SHARD_SIZE,
    Journal,
    ShardRecord,
    ShardWriter,
    Slot,
    disk_errors,
    holds_shards,
    locked,
    plan_slots,
    remove_parts,
    remove_shards,
)
from distgan.data.sources import SOURCES, Request, Source, open_source
from distgan.data.sources.source import Shuffled, Unlabelled
from distgan.data.summary import Summary, pictures
from distgan.data.urls import is_remote, shown
from distgan.data.verify import verify_named
from distgan.errors import ConfigError, DataError, UserError
from distgan.files import new_file

LARGEST_RESOLUTION = 4096


@dataclass(frozen=True)
class Job:
    """All that decides the bytes of the shards, and where they go."""

    source_name: str
    source: Source
    recipe: Recipe
    slots: list[Slot]
    out: Path
    plan: str

    @property
    def count(self) -> int:
        return self.slots[-1].stop


def prepare(
    source: str,
    input: str | Path | None,
    out: str | Path,
    *,
    resolution: int | None = None,
    channels: int | None = None,
    shard_size: int = DEFAULT_SHARD_SIZE,
    workers: int | None = None,
    strict: bool = False,
    download: bool = False,
    overwrite: bool = False,
    count: int | None = None,
    seed: int = 0,
    background: str = "dark",
    max_pictures: int | None = None,
    encoding: str | None = None,
    shuffle: bool = False,
    skip_small: bool = False,
    no_labels: bool = False,
) -> Summary:
    """Writes the pictures of a source as shards of square pictures into the folder `out`.

    `source` is a key of `SOURCES`, `resolution` pixels a side, `channels` 1 or 3 (both by default the source's own),
    `shard_size` the most samples of a shard, `workers` processes (default: one a core), `encoding` as in
    `encoding_named` (default: `chosen_encoding`). With `shuffle` the pictures are written in an order drawn by hash
    instead of the input's; with `skip_small` those smaller than `resolution` are left out instead of enlarged; with
    `no_labels` the source's classes count for nothing. `count`, `seed` and `background` are for `shapes` alone.
    The bytes written depend on neither `workers` nor on how often the work was interrupted.

    Raises `ConfigError` for arguments that make no sense, `DataError` for an input that cannot be read or
    an `out` that holds other shards, `UserError` where the disk fails or, with `strict`, at the first
    picture that cannot be read.
    """
    started = time.monotonic()
    _check_numbers(resolution=resolution, shard_size=shard_size, workers=workers, count=count, max=max_pictures)
    recipe = _recipe(source, resolution, channels, encoding, skip_small)
    _check_drawing(source, count, background)
    path = None if input is None else Path(input).expanduser()
    request = Request(path, recipe.resolution, recipe.channels, count, seed, background)
    opened = open_source(source, request, download)
    if no_labels:
        opened = opened._replace(items=Unlabelled(opened.items), classes=())
    job = _plan(source, opened, recipe, Path(out).expanduser(), shard_size, max_pictures, shuffle)
    with disk_errors(job.out):
        job.out.mkdir(parents=True, exist_ok=True)
        with locked(job.out):
            return _into_folder(job, workers or default_workers(), strict, overwrite, started)


def _check_numbers(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must be 1 or more")


def _recipe(
    source: str, resolution: int | None, channels: int | None, encoding: str | None, skip_small: bool
) -> Recipe:
    """What the pictures become; what the user leaves open is the source's own."""
    if source not in SOURCES:
        raise ConfigError(f"{source}: no such source; known are {', '.join(SOURCES)}")
    if resolution is None and SOURCES[source].resolution is None:
        raise ConfigError(f"{source}: --resolution is needed, in pixels, for example --resolution 64")
    if channels not in (None, 1, 3):
        raise ConfigError(f"--channels {channels}: 1 (grey) or 3 (colour) are possible")
    if resolution is not None and resolution > LARGEST_RESOLUTION:
        raise ConfigError(f"--resolution {resolution}: at most {LARGEST_RESOLUTION} pixels a side")
    form = SOURCES[source]
    side, channels = resolution or form.resolution, channels or form.channels
    return Recipe(side, channels, side == form.pads_to, chosen_encoding(encoding, side, channels), skip_small)


def _check_drawing(source: str, count: int | None, background: str) -> None:
    if count is not None and source != "shapes":
        raise ConfigError(f"--count {count}: only for shapes; --max {count} takes the first pictures of {source}")
    if background not in GROUNDS:
        raise ConfigError(f"--background {background}: {' or '.join(GROUNDS)} are possible")


def _plan(
    name: str, source: Source, recipe: Recipe, out: Path, shard_size: int, limit: int | None, shuffle: bool
) -> Job:
    count = min(len(source.items), limit or len(source.items))
    if not count:
        raise DataError(f"{name}: the input holds no pictures")
    if shuffle:
        source = source._replace(items=Shuffled(source.items, count))
    slots = plan_slots(name, count, shard_size)
    facts = [name, source.fingerprint, source.classes, repr(recipe), count, [s.stop for s in slots]]
    facts += ["shuffled"] if shuffle else []
    facts += ["without small ones"] if recipe.skip_small else []
    plan = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return Job(name, source, recipe, slots, out, plan)


def _into_folder(job: Job, workers: int, strict: bool, overwrite: bool, started: float) -> Summary:
    journal = Journal(job.out, job.plan)
    index = None if overwrite else read_index(job.out / INDEX_FILE)
    if index is not None and index.get("plan") == job.plan:
        journal.remove()  # a kill may have struck between the index and this
        _fail_on_skipped(strict, index.get("skipped", ()))
        return Summary.of_finished(job.out, index, time.monotonic() - started)
    _take_up(journal, overwrite)
    kept = len(journal.done)
    _fail_on_skipped(strict, [skip for record in journal.done.values() for skip in record.skipped])
    rows = _write_shards(job, journal, workers, strict)
    records = {slot.name: journal.done[slot.name] for slot in job.slots}
    _write_index(job, records, rows)
    journal.remove()
    return Summary.of_records(job, records, kept, time.monotonic() - started)


def _take_up(journal: Journal, overwrite: bool) -> None:
    """Makes the folder ready: an earlier start of the same plan goes on, all else must be overwritten."""
    folder = journal.file.parent
    if not journal.load():
        if holds_shards(folder) and not overwrite:
            raise DataError(
                f"{folder}: holds shards made with other arguments, from another input or by an older version; "
                "give another --out, or --overwrite"
            )
        remove_shards(folder)
    remove_parts(folder)
    journal.keep_sound()
    journal.save()


def _write_shards(job: Job, journal: Journal, workers: int, strict: bool) -> dict[str, np.ndarray]:
    """Writes the shards that are not there yet. Returns the rows of those it wrote."""
    todo = [slot for slot in job.slots if slot.name not in journal.done]
    rows = {}
    left = sum(slot.stop - slot.start for slot in todo)
    with Progress(f"prepare {job.source_name}", job.count, before=job.count - left) as progress:
        with rendered_chunks(job.source.items, todo, job.recipe, workers) as chunks:
            for slot in todo:
                record, rows[slot.name] = _write_shard(job, slot, chunks, strict, progress)
                journal.add(slot.name, record)
    return rows


def _write_shard(
    job: Job, slot: Slot, chunks: Iterator[list[Rendered]], strict: bool, progress: Progress
) -> tuple[ShardRecord, np.ndarray]:
    path = job.out / slot.name
    with new_file(path) as file:
        writer = ShardWriter(file, job.recipe.encoding)
        number = slot.start
        while number < slot.stop:
            chunk = next(chunks)
            for rendered in chunk:
                _report(rendered, strict, progress)
                writer.add(number, rendered)
                number += 1
            progress.advance(len(chunk))
        record, rows = writer.finish()
    if not record.samples:  # every picture of it was skipped: an empty tar would only trip its readers
        path.unlink()
    return record, rows


def _fail_on_skipped(strict: bool, skipped: Sequence[tuple[str, str]]) -> None:
    if strict and skipped:
        name, reason = skipped[0]
        raise UserError(f"{name}: cannot be read ({reason}); mend or remove it, or leave out --strict")


def _report(rendered: Rendered, strict: bool, progress: Progress) -> None:
    if rendered.data is not None or rendered.small:
        return
    _fail_on_skipped(strict, [(rendered.name, rendered.reason)])
    progress.say(f"skipped {rendered.name}: {rendered.reason}")


def _write_index(job: Job, records: dict[str, ShardRecord], rows: dict[str, np.ndarray]) -> None:
    shards = {name: record for name, record in records.items() if record.samples}
    small = sum(record.small for record in records.values())
    if not shards:
        raise DataError(f"{job.source_name}: {_why_none(job, small)}")
    parts = [rows[name] if name in rows else scan_tar(job.out / name) for name in shards]
    for number, part in enumerate(parts):
        part["shard"] = number
    samples = np.concatenate(parts).astype(SAMPLE)
    head = {
        "source": job.source_name,
        "count": len(samples),
        "resolution": job.recipe.resolution,
        "channels": job.recipe.channels,
        "encoding": job.recipe.encoding,
        "classes": list(job.source.classes),
        "plan": job.plan,
        "skipped": [skip for record in records.values() for skip in record.skipped],
    }
    if job.recipe.skip_small:
        head["small"] = small
    entries = [{"name": name, "samples": r.samples, "bytes": r.bytes, "sha256": r.sha256} for name, r in shards.items()]
    write_index(job.out, head, entries, samples)


def _why_none(job: Job, small: int) -> str:
    """Why there is not one picture to write, `small` of them being left out for their size."""
    if not small:
        return f"none of {pictures(job.count)} can be read; look at the input"
    others = f", {job.count - small} cannot be read" if small < job.count else ""
    are = "is" if small == 1 else "are"
    found = f"of {pictures(job.count)} {small} {are} smaller than {job.recipe.resolution} pixels{others}"
    return f"{found}; take a smaller --resolution, or leave out --skip-small"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `distgan prepare`."""
    add = parser.add_argument
    add("source", nargs="?", choices=list(SOURCES), metavar="SOURCE", help=f"one of {', '.join(SOURCES)}")
    add("input", nargs="?", metavar="INPUT", help="folder, zip or file of the pictures (none for shapes)")
    add("--out", required=True, metavar="DIR", help="folder that receives the shards")
    add("--resolution", type=int, metavar="N", help="pixels a side (default: the source's own)")
    add("--channels", type=int, choices=(1, 3), help="1 grey, 3 colour (default: the source's own)")
    form = (
        "how pictures are stored: raw (bare pixels), png or webp, all lossless, or jpeg; with a quality of "
        f"{QUALITIES[0]} to {QUALITIES[-1]} behind it jpeg:98, or lossy webp:95 (default: raw up to {RAW_UP_TO} px, "
        f"webp from {WEBP_FROM} px in colour, else png)"
    )
    add("--encoding", metavar="FORM[:Q]", help=form)
    size = "most pictures a shard (%(default)s)"
    add("--shard-size", type=int, default=DEFAULT_SHARD_SIZE, metavar="N", help=size)
    add("--workers", type=int, metavar="N", help="processes (default: one a core)")
    add("--shuffle", action="store_true", help="mix the pictures over the shards (for data.order: window)")
    add("--no-labels", action="store_true", help="folders are no classes (FFHQ, LSUN)")
    add("--skip-small", action="store_true", help="leave out pictures smaller than N instead of enlarging them")
    add("--max", type=int, dest="max_pictures", metavar="N", help="only the first N pictures (of the shuffled ones)")
    add("--strict", action="store_true", help="fail at the first picture that cannot be read")
    add("--download", action="store_true", help="fetch mnist, cifar10 or celeba into INPUT first")
    add("--overwrite", action="store_true", help="replace the shards that are in DIR")
    add("--verify", action="store_true", help="read every picture of DIR again; without SOURCE nothing else is done")
    add("--count", type=int, metavar="N", help="shapes: how many to draw (8000)")
    add("--seed", type=int, default=0, metavar="N", help="shapes: seed of the drawings (%(default)s)")
    add("--background", choices=list(GROUNDS), default="dark", help="shapes: the plain ground (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Runs `distgan prepare` from parsed arguments. Returns 0, 1, 2, 130 (Ctrl-C) or 143 (SIGTERM)."""
    again = "run the same command again" + (", it goes on" if args.source else "")
    return run_command("prepare", lambda: _run(args), again)


def _run(args: argparse.Namespace) -> int:
    parameters = inspect.signature(prepare).parameters
    if args.source is None:
        _check_alone(args, {name: parameter.default for name, parameter in parameters.items()})
    else:
        if is_remote(args.out):
            raise ConfigError(f"--out {shown(args.out)}: shards are written into a folder; copy them there afterwards")
        print(prepare(**{name: getattr(args, name) for name in parameters}).text(), flush=True)
    return verify_named(args.out, threads=args.workers) if args.verify else 0


def _check_alone(args: argparse.Namespace, defaults: dict[str, object]) -> None:
    """Without a source there is nothing to do but to verify, which none of the other arguments changes."""
    if not args.verify:
        raise ConfigError(f"SOURCE is missing: one of {', '.join(SOURCES)}; or --verify for shards that are there")
    _check_numbers(workers=args.workers)
    for name, default in defaults.items():
        if name not in ("source", "input", "out", "workers") and getattr(args, name) != default:
            option = {"max_pictures": "--max"}.get(name, f"--{name.replace('_', '-')}")
            raise ConfigError(f"{option}: only with a SOURCE; --verify reads what is in --out")
