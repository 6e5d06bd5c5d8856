"""What it costs to begin: from 1,000 shards to the first batch, and an index of ten million pictures.

python -m benchmarks.loader.startup first-batch CONTENDER FOLDER CORES     as the processes that are timed are started
python -m benchmarks.loader.startup index FOLDER
python -m benchmarks.loader.startup torch
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.loader.cases import CASES, Prepared, drawn_picture, made, warmed, write_tars
from benchmarks.loader.report import grid

ROOT = Path(__file__).resolve().parent.parent.parent
SHARDS, PICTURES_OF_A_SHARD = 1000, 4
READERS = ("distgan", "webdataset")
"""Contenders that read tars."""
REPEATS = 5
INDEXED, INDEXED_SHARDS = 10_000_000, 5_000
BYTES = 3000
BATCH = 64


@dataclass(frozen=True)
class Shards(Prepared):
    """Tars that are there already, and in the page cache."""

    def tars(self) -> Path:
        return self.root


def first_batch(work: Path, cores: int) -> dict:
    """Seconds of new processes, the median of several, to the first batch from many small shards."""
    folder = warmed(made(work / "many-shards", _draw_shards))
    told: dict[str, list[dict]] = {name: [] for name in READERS}
    _child("first-batch", "distgan", str(folder), str(cores))  # makes the index
    for _ in range(REPEATS):
        for name in READERS:
            told[name].append(_child("first-batch", name, str(folder), str(cores)))
    found = {name: {key: statistics.median(t[key] for t in each) for key in each[0]} for name, each in told.items()}
    rows = [[f"{SHARDS:,} shards, seconds", "opening to first batch", "process start to first batch"]]
    rows += [[name, f"{seconds['opened']:.3f}", f"{seconds['process']:.2f}"] for name, seconds in found.items()]
    print(grid(rows), end="\n\n", flush=True)
    return found


def index(work: Path, cores: int) -> dict:
    """Seconds and peak memory of a process that opens a large index and draws from its order."""
    from distgan.data.index_file import SAMPLES_FILE

    folder = made(work / "large-index", _make_index)
    told = _child("index", str(folder))
    found = {**told, "peak_without_torch": told["peak"] - _child("torch")["peak"]}
    rows = [[f"{INDEXED:,} pictures in {INDEXED_SHARDS:,} shards", ""]]
    rows += [[f"{key}, s", f"{found[key]:.2f}"] for key in ("open", "draw")]
    rows += [
        ["peak memory, MB", f"{found['peak']:,.0f}"],
        ["less `import torch`", f"{found['peak_without_torch']:,.0f}"],
        ["of which samples.npy, mapped and shared", f"{(folder / SAMPLES_FILE).stat().st_size / 1e6:,.0f}"],
    ]
    print(grid(rows), end="\n\n", flush=True)
    return found


SECTIONS: dict[str, Callable[[Path, int], dict]] = {"first_batch": first_batch, "index": index}


def _draw_shards(folder: Path) -> None:
    pictures = [(0, drawn_picture(number, (32, 32), "PNG")) for number in range(SHARDS * PICTURES_OF_A_SHARD)]
    write_tars(folder, pictures, "png", SHARDS)


def _make_index(folder: Path) -> None:
    """The index alone: its shards have their sizes, and no bytes."""
    from distgan.data.index_file import write_index
    from distgan.data.scan import SAMPLE

    each = INDEXED // INDEXED_SHARDS
    samples = np.zeros(INDEXED, SAMPLE)
    samples["shard"] = np.repeat(np.arange(INDEXED_SHARDS), each)
    samples["offset"] = np.tile(np.arange(each) * (BYTES + 1096) + 512, INDEXED_SHARDS)
    samples["size"], samples["label"] = BYTES, -1
    names = [f"made-{number:05d}.tar" for number in range(INDEXED_SHARDS)]
    length = each * (BYTES + 1096) + 1024
    for name in names:
        with open(folder / name, "wb") as file:
            file.truncate(length)
    shards = [{"name": name, "samples": each, "bytes": length, "sha256": "0" * 64} for name in names]
    write_index(folder, {"count": INDEXED, "resolution": 64, "channels": 3, "classes": []}, shards, samples)


def _child(*words: str) -> dict:
    """What a process of this module answers, with the seconds from its start under `process`."""
    started = time.time()
    command = [sys.executable, "-m", "benchmarks.loader.startup", *words]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout)
    return {**told, "process": told["at"] - started}


def _time_first_batch(contender: str, folder: str, cores: str) -> dict:
    import webdataset  # noqa: F401  what is imported is no part of opening

    import distgan.data.tiers  # noqa: F401
    from benchmarks.loader.contenders import contenders

    batches = contenders()[contender].batches(Shards(CASES["png32"], Path(folder)), int(cores), BATCH)
    started = time.perf_counter()
    next(batches)
    return {"opened": time.perf_counter() - started, "at": time.time()}


def _time_index(folder: str) -> dict:
    import torch  # noqa: F401  that its import is not counted in the time

    from distgan.data.index import open_shards
    from distgan.data.order import Order

    started = time.perf_counter()
    shards = open_shards(folder)
    opened = time.perf_counter()
    order = Order(shards.count, seed=0)
    drawn = shards.samples[order.samples(np.arange(BATCH))]
    assert len(drawn) == BATCH
    end = time.perf_counter()
    return {"open": opened - started, "draw": end - opened, "peak": _peak(), "at": time.time()}


def _weigh_torch() -> dict:
    import torch  # noqa: F401

    return {"peak": _peak(), "at": time.time()}


def _peak() -> float:
    """The most memory that this process has had, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


def main(words: Sequence[str]) -> None:
    warnings.simplefilter("ignore")
    what, *rest = words
    print(json.dumps({"first-batch": _time_first_batch, "index": _time_index, "torch": _weigh_torch}[what](*rest)))


if __name__ == "__main__":
    main(sys.argv[1:])
