"""The command line: `python -m benchmarks.step --help`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

import benchmarks.step
from benchmarks.step import report
from benchmarks.step.cases import RESOLUTIONS, Case, cases
from benchmarks.step.counting import rate
from benchmarks.step.modes import FOR_CUDA, MODES
from benchmarks.step.race import PLAIN, Outcome, race
from benchmarks.step.training import compare
from distgan.errors import ConfigError, UserError
from distgan.runtime import Runtime

_QUICK = {"cpu": (("dcgan", 64), ("resnet", 32)), "cuda": (("dcgan", 64), ("resnet", 32), ("resnet", 128))}
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def main(arguments: list[str] | None = None) -> int:
    """0; 1 where gradients are wrong, no mode of a case could be timed, or a training fails; 2 for bad usage."""
    options = _options(arguments)
    try:
        return _trainings(options) if options.training else _steps(options)
    except UserError as error:
        print(f"benchmarks.step: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


def _steps(options: argparse.Namespace) -> int:
    torch.manual_seed(0)
    modes = {name: MODES[name] for name in options.modes}
    _tell("the rate of convolutions")
    rates = _rates(options.device, min(8, 2 * options.rounds))
    head = report.header(options.device, options.rounds, rates)
    print("\n".join(f"{key}: {value}  " for key, value in head.items()), end="\n\n", flush=True)
    outcomes: dict[Case, Outcome] = {}
    for case in _cases(options):
        outcomes[case] = race(case, modes, options.device, options.rounds, _tell)
        print(report.times(case, outcomes[case], rates), end="\n\n", flush=True)
        if options.json:  # after each, for who has no patience
            options.json.write_text(json.dumps(report.as_json(head, rates, outcomes), indent=1) + "\n")
    print(report.needs(outcomes, rates), flush=True)
    for case, outcome in outcomes.items():
        if untimed := [name for name, result in outcome.results.items() if result.reason]:
            print(f"benchmarks.step: {case.title}: not timed: {'; '.join(untimed)}", file=sys.stderr)
    nothing = any(all(outcome.results[name].reason for name in modes) for outcome in outcomes.values())
    wrong = [
        f"{case.title}, {name}"
        for case, outcome in outcomes.items()
        for name, result in outcome.results.items()
        if not result.is_right
    ]
    if wrong:
        print(f"benchmarks.step: wrong gradients in {'; '.join(wrong)}", file=sys.stderr)
    return int(bool(wrong) or nothing)


def _rates(device: str, tries: int) -> report.Rates:
    """Under the settings of training."""
    found = {}
    for arithmetic, dtype in _DTYPES.items():
        if arithmetic != "tf32" or device == "cuda":
            Runtime(Case("mlp", 32, 4).config(device=device, tf32=arithmetic == "tf32"))
            found[arithmetic] = rate(torch.device(device), dtype, tries)
    PLAIN.restore()
    return found


def _cases(options: argparse.Namespace) -> list[Case]:
    if not options.quick:
        return cases(options.networks, options.resolutions, options.device, options.batch)
    return [
        case
        for network, resolution in _QUICK[options.device]
        for case in cases([network], [resolution], options.device, options.batch)
        if network in options.networks
    ]


def _trainings(options: argparse.Namespace) -> int:
    found = compare(options.config, options.overrides, options.steps, options.rounds, _tell)
    print("\n".join(found.lines()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found.as_json(), indent=1) + "\n")
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.step",
        description=benchmarks.step.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    known = list(RESOLUTIONS)
    add("--networks", nargs="+", choices=known, default=["dcgan", "resnet"], metavar="NAME", help=", ".join(known))
    add("--resolutions", nargs="+", type=int, metavar="PX", help="of 32, 64, 128, 256 (256 by itself on a GPU alone)")
    add("--modes", nargs="+", choices=list(MODES), metavar="MODE", help="; ".join(MODES))
    add(
        "--batch",
        type=int,
        metavar="N",
        help="images of an update (default: what takes the textbook half a second on two cores; 64 on a GPU)",
    )
    add("--rounds", type=int, default=3, help="how often each is timed (%(default)s)")
    add("--quick", action="store_true", help="DCGAN 64 px and ResNet 32 px alone, on a GPU ResNet 128 px too")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: CUDA where there is any")
    add("--json", type=Path, metavar="FILE", help="write all rounds there")
    add("--training", action="store_true", help="instead: the rate of real trainings against that of the bare step")
    add("--config", default="configs/quickstart.yaml", metavar="FILE", help="of the training (%(default)s)")
    add("--steps", type=int, help="of each training (300)")
    add("overrides", nargs="*", metavar="key.path=value", help="of the training's config")
    options = parser.parse_intermixed_args(arguments)
    has_cuda = torch.cuda.is_available()
    if options.device == "cuda" and not has_cuda:
        parser.error("--device cuda: torch sees no CUDA device here; use auto or cpu")
    if not options.training and options.steps is not None:
        parser.error("--steps is of trainings; give --training too")
    options.steps = options.steps or 300
    if options.overrides and not options.training:
        parser.error(f"{options.overrides[0]}: an override of what? Give --training too")
    options.device = "cpu" if options.device == "cpu" or not has_cuda else "cuda"
    options.resolutions = options.resolutions or ([32, 64, 128] if options.device == "cpu" else [32, 64, 128, 256])
    if options.json and (options.json.is_dir() or not options.json.parent.is_dir()):
        parser.error(f"--json {options.json}: a file in a folder that exists")
    left_out = FOR_CUDA if options.device == "cpu" else []
    wrong = [name for name in options.modes or () if name in left_out]
    if wrong:
        parser.error(f'--modes "{wrong[0]}": is for CUDA alone')
    options.modes = [name for name in MODES if name not in left_out and name in (options.modes or MODES)]
    if not options.training and not _cases(options):
        parser.error("--networks and --resolutions: none of these networks is defined at such a resolution")
    for name in ("batch", "rounds", "steps"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} {value}: must be 1 or more")
    if options.batch == 1:
        parser.error("--batch 1: batch norm wants 2 images or more")
    return options


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
