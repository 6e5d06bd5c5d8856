"""What a config should give on 1 to 512 GPUs, from one measured step: nothing is run.

    python -m benchmarks.scaling --config configs/cifar10_resnet.yaml --step-ms 50
        [--images 64] [--inside nvlink4] [--between 8xNDR] [--per-node 8] [--overlap 0] [--floor-ms 0]
        [key.path=value ...]
    python -m benchmarks.scaling --run runs/NAME          (config, images and step of a run on one GPU)
    python -m benchmarks.scaling --measure 2 [--config FILE]
        (instead: all-reduces between processes of this machine over gloo, those of a step of the config too)

Links have names, or bandwidth in GB/s (one way, of a GPU or of a node) and latency in microseconds: `--between 11,15`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch

from benchmarks.scaling.measure import line_through, reductions
from benchmarks.scaling.model import BETWEEN, GB, INSIDE, Cluster, Link, Model, Traffic, most_gpus
from distgan.assembly import make_critic, make_generator
from distgan.config import Config, load_config
from distgan.errors import ConfigError, UserError
from distgan.networks.norms import batch_norms

COUNTS = tuple(2**power for power in range(10))
EFFICIENCIES = (0.9, 0.5)


def main() -> int:
    options = _parser().parse_intermixed_args()
    try:
        print(_measured(options) if options.measure else _report(options))
    except ConfigError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"scaling: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", action="append", default=[], metavar="FILE")
    parser.add_argument("--step-ms", type=_positive, help="of a step of one GPU")
    parser.add_argument("--images", type=_count, help="on the GPU in an update of that step; unset: train.batch_size")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="takes config and step from a run on one GPU")
    parser.add_argument("--inside", type=lambda text: _link(text, INSIDE), default="nvlink4", metavar="LINK")
    parser.add_argument("--between", type=lambda text: _link(text, BETWEEN), default="8xNDR", metavar="LINK")
    parser.add_argument("--per-node", type=_count, default=8)
    parser.add_argument("--overlap", type=_share, default=0.0, help="share of the gradients' reduction that is hidden")
    parser.add_argument("--floor-ms", type=_milliseconds, default=0.0, help="a step takes however few its images are")
    parser.add_argument("--measure", type=int, metavar="N", help="instead: all-reduces between N processes over gloo")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _milliseconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of milliseconds, 0 or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1")
    return value


def _link(text: str, known: dict[str, Link]) -> Link:
    if text in known:
        return known[text]
    try:
        bandwidth, latency = map(float, text.split(","))
        if not (0 < bandwidth < math.inf and 0 <= latency < math.inf):
            raise ValueError(text)
    except ValueError:
        allowed = f"one of {', '.join(known)}, or GB/s and microseconds as in 11,15"
        raise argparse.ArgumentTypeError(f"{text}: {allowed}") from None
    return Link(bandwidth * GB, latency * 1e-6)


def _report(options: argparse.Namespace) -> str:
    files = [str(options.run / "config.yaml")] if options.run else options.config
    by_hand = bool(options.config and options.step_ms)
    if by_hand == bool(options.run) or (options.run and (options.config or options.step_ms)):
        raise ConfigError("give --run FOLDER, or --config FILE and --step-ms")
    config = load_config(files, options.overrides)
    seconds = step_of(options.run) if options.run else options.step_ms / 1000
    cluster = Cluster(options.inside, options.between, options.per_node)
    images = options.images or config.train.batch_size
    model = Model(traffic_of(config), cluster, seconds, images, options.floor_ms / 1000, options.overlap)
    return report(model, config.train.batch_size)


def traffic_of(config: Config) -> Traffic:
    """Every critic update sends the critic's gradients, the generator's its own; the generator's batch norms their
    moments, forward for every batch of fakes and there and back in its own update."""
    with torch.device("meta"):
        generator, critic = make_generator(config), make_critic(config)
    number, times = 2 if config.train.reduce == "bf16" else 4, config.train.critic_steps
    sizes = {network: number * sum(p.numel() for p in network.parameters()) for network in (generator, critic)}
    moments = [2 * 4 * norm.features for norm in batch_norms(generator)]
    return Traffic((*[sizes[critic]] * times, sizes[generator]), tuple(moments * (times + 2)))


def step_of(run: Path) -> float:
    """Seconds of a step of a run on one process, between two lines of it. Raises UserError for any other run."""
    try:
        starts = json.loads((run / "environment.json").read_text())["starts"]
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError, KeyError) as error:
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else f"{run}: damaged ({error})"
        raise UserError(f"{why}; --run takes the folder of a run") from None
    if starts[-1]["world_size"] != 1:
        raise UserError(f"{run}: its last start had {starts[-1]['world_size']} processes; take a run on one GPU")
    if len(lines) < 2:
        raise UserError(f"{run}: {len(lines)} lines of metrics say nothing of a step; it takes 2 and more")
    # the median, as a later start compiles between two lines too
    return median((new["seconds"] - old["seconds"]) / (new["step"] - old["step"]) for old, new in pairwise(lines))


def report(model: Model, batch: int) -> str:
    """`batch`: of all processes, for the columns in which they share it."""
    rows = [("GPUs", "reduction ms", "kept", "shared", "images each")]
    for count in COUNTS:
        shared = (f"{model.shared(count, batch):.0%}", f"{batch / count:g}") if count <= batch else ("", "")
        rows.append((str(count), f"{1e3 * model.sending(count):.3f}", f"{model.kept(count):.0%}", *shared))
    traffic = model.traffic
    count = len(traffic.gradients) + len(traffic.statistics)
    head = (
        f"{traffic.bytes / 1e6:.1f} MB a step in {count} reductions; one GPU takes "
        f"{1e3 * model.seconds:.1f} ms for {model.images} images an update\n"
        f"efficiency with {model.images} images kept on each GPU, and with a batch of {batch} shared by all\n"
    )
    table = "\n".join("".join(f"{cell:>14}" for cell in row) for row in rows)
    return "\n".join([head, table, "", *_ends(model, batch)])


def _ends(model: Model, batch: int) -> list[str]:
    """When it stops paying."""
    lines = []
    for least in EFFICIENCIES:
        kept = most_gpus(model.kept, COUNTS, least)
        sharing = [count for count in COUNTS if count <= batch]
        shared = most_gpus(partial(model.shared, batch=batch), sharing, least)
        fewest = ", ".join(f"{model.fewest_images(count, least)} on {count}" for count in (8, 64, 512))
        lines.append(
            f"{least:.0%}: up to {kept} GPUs with {model.images} images each; a batch of {batch} up to {shared}; "
            f"fewest images on each GPU: {fewest}"
        )
    return lines


def _measured(options: argparse.Namespace) -> str:
    """Times of all-reduces beside those of the line through the smallest and the largest of them."""
    count = options.measure
    if count < 2:
        raise ConfigError(f"--measure {count}: a reduction takes 2 processes and more")
    traffic = traffic_of(load_config(options.config, options.overrides)) if options.config else Traffic(())
    times = reductions(count, (*traffic.gradients, *traffic.statistics))
    hop, bandwidth = line_through(times, count)
    cluster = Cluster(Link(bandwidth, hop), Link(bandwidth, hop), count, start=0.0)
    lines = [f"{'bytes':>12}{'measured ms':>14}{'model ms':>12}"]
    lines += [f"{size:12,}{1e3 * t:14.3f}{1e3 * cluster.reduction(size, count):12.3f}" for size, t in times.items()]
    if traffic.gradients:
        sent = (*traffic.gradients, *traffic.statistics)
        found, expected = sum(times[size] for size in sent), sum(cluster.reduction(size, count) for size in sent)
        lines.append(f"{'a step':>12}{1e3 * found:14.3f}{1e3 * expected:12.3f}")
    return "\n".join([f"{count} processes over gloo: --inside {bandwidth / GB:.3f},{1e6 * hop:.0f}", "", *lines])


if __name__ == "__main__":
    sys.exit(main())
