"""The command line: `python -m benchmarks.gpu_check --help`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import benchmarks.gpu_check
from benchmarks.gpu_check.parts import FAILED, PARTS, Options, Part
from benchmarks.tables import cpu_model

_NEEDED = (
    "torch",
    "torchvision",
    "accelerate",
    "webdataset",
    "einops",
    "pydantic",
    "yaml",
    "safetensors",
    "wandb",
    "PIL",
)


def main(arguments: list[str] | None = None) -> int:
    """0 where no part failed, else 1; 2 for bad usage."""
    options = _options(arguments)
    missing = [module for module in _NEEDED if not importlib.util.find_spec(module)]
    if missing:
        print(f"gpu_check: not installed: {', '.join(missing)}; pip install -e .", file=sys.stderr)
        return 1
    device = _device(options.device)
    asked = Options(device, options.shards, options.tiny)
    found: dict = {"header": _header(device), "parts": {}}
    for name in options.parts:
        run, seconds = PARTS[name]
        print(f"{name}: at most {seconds} s", file=sys.stderr, flush=True)
        part = _attempt(run, asked, seconds)
        found["parts"][name] = asdict(part)
        options.out.write_text(json.dumps(found, indent=1) + "\n")  # after each, for who has no patience
        print(f"{name}: {part.state}{f', {part.reason}' if part.reason else ''} ({part.seconds:.0f} s)", flush=True)
    return int(any(part["state"] == FAILED for part in found["parts"].values()))


def _attempt(run, asked: Options, seconds: float) -> Part:
    began = time.perf_counter()
    try:
        return run(asked, seconds)
    except OSError as error:  # a part that cannot even begin is no reason to leave out the others
        return Part(FAILED, f"{type(error).__name__}: {error}", time.perf_counter() - began)


def _device(asked: str) -> str:
    import torch

    has_cuda = torch.cuda.is_available()
    if asked == "cuda" and not has_cuda:
        print("gpu_check: --device cuda: torch sees no CUDA device here; use --device cpu", file=sys.stderr)
        raise SystemExit(2)
    return "cuda" if has_cuda and asked != "cpu" else "cpu"


def _header(device: str) -> dict:
    """On what it ran."""
    import torch

    from distgan.environment import describe

    found = {"device": device, "cpu": cpu_model(), **describe()}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu_memory_bytes": properties.total_memory, "capability": [properties.major, properties.minor]}
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu_check",
        description=benchmarks.gpu_check.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help="receives everything, as JSON")
    add("--shards", type=Path, metavar="FOLDER", help="pictures for the training (default: drawn ones)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is any")
    add("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    add("--tiny", action="store_true", help="the smallest sizes: to see that the command works")
    options = parser.parse_args(arguments)
    if options.shards and not options.shards.is_dir():
        parser.error(f"--shards {options.shards}: no such folder")
    if not options.out.resolve().parent.is_dir():
        parser.error(f"--out {options.out}: no folder {options.out.resolve().parent}")
    if options.out.is_dir():
        parser.error(f"--out {options.out}: is a folder; give the name of a file")
    return options


if __name__ == "__main__":
    sys.exit(main())
