"""What fp16 does to the inner gradient of the gradient penalty, and by how much it should be scaled.

    python benchmarks/inner_gradient.py [--out FILE.json] [--pictures FILE.zip] [--only WORD] [--widen K]

In mixed precision the penalty's own gradient g = d(sum of scores) / d(pictures) is computed in fp16, where numbers
below 6e-5 lose bits, below 3e-8 vanish, and above 65504 overflow. g = grad(s * sum of scores) / s is the same in exact
arithmetic. For several critics, in states from the initial weights to trained ones, and for each s: the error against
float64 of g, of its norms, of the penalty and of the parameter gradient of the whole critic loss; the entries of g
that vanished; and the largest s that does not overflow. An overflow inside cannot be mended by the loss scale of
GradScaler (the outer scale): every update would be skipped. Last, what the two scales do to each other, since the outer
backward enters the inner graph divided by s.

A power of two commutes with rounding, so that s changes nothing but what leaves the range of fp16. Everything else (the
rounded forward, and activations on the other side of their kink) is a floor that no s can lower: the column "floor".

Runs on the CPU in the formats of CUDA: fp16 operands, sums in fp32, results in fp16 (`TensorCores`), group norms in
fp32. Without `--pictures` the reals are smooth random pictures. About four minutes on one core.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import math
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from distgan import randomness
from distgan.networks import build_critic, build_generator
from distgan.objectives.critic import CriticObjective
from distgan.objectives.generator import GeneratorObjective
from distgan.objectives.penalties import image_norms

CASES = {
    "mlp 32": {"name": "mlp", "resolution": 32, "width": 256},
    "dcgan 32": {"name": "dcgan", "resolution": 32, "width": 32},
    "dcgan 32 layer": {"name": "dcgan", "resolution": 32, "width": 32, "norm": "layer"},
    "dcgan 64": {"name": "dcgan", "resolution": 64, "width": 32},
    "dcgan 64 layer": {"name": "dcgan", "resolution": 64, "width": 32, "norm": "layer"},
    "resnet 32": {"name": "resnet", "resolution": 32, "width": 48},
    "resnet 64 layer": {"name": "resnet", "resolution": 64, "width": 16, "norm": "layer"},
}
SCALES = (1, 16, 64, 128, 256, 1024, 4096, 65536)
OUTERS = tuple(2**power for power in (0, 4, 8, 10, 12, 14, 16))
IMAGES, UPDATES, LATENT = 16, 80, 64
MEASURES = {
    "gradient": "parameter gradient, |difference| / |float64|",
    "moved": "g, |difference| / |g at a large s|: what the range of fp16 alone does (floor: all else, against float64)",
    "norm": "gradient norms, largest relative error over the images",
    "penalty": "penalty, relative error",
    "zeros": "entries of g that vanished, share",
}


class Pictures(NamedTuple):
    """What one critic update sees: [N, C, H, W] twice, and the image keys [N]."""

    real: Tensor
    fake: Tensor
    keys: Tensor

    def double(self) -> Pictures:
        return Pictures(self.real.double(), self.fake.double(), self.keys)


class Outcome(NamedTuple):
    """Of one critic update, all in float64: g [N, C, H, W], the penalty, and the gradient of all parameters [P]."""

    inner: Tensor
    penalty: float
    gradient: Tensor


class ScaledObjective(CriticObjective):
    """The critic's objective with its inner gradient taken of `scale` times the scores, and kept in `inner`."""

    def __init__(self, critic: nn.Module, scale: float = 1.0) -> None:
        super().__init__(critic)
        self.scale, self._is_chained = scale, False

    def _input_gradient(self, real: Tensor, fake: Tensor, labels: Tensor | None, keys: Tensor) -> Tensor:
        epsilon = randomness.uniform(keys, "epsilon", dtype=real.dtype)
        points = self.penalty.points(real, fake, epsilon).detach()
        scores = lambda x: self.scale * self._scores(x, labels, keys, ("penalty 0",)).sum()  # noqa: E731
        gradient = torch.func.grad(scores)(points) / self.scale
        self.inner = gradient.detach()
        return gradient


class TensorCores(TorchDispatchMode):
    """Products of fp16 tensors with their sums in fp32, as CUDA has them; the CPU's own fp16 convolution gives the same
    and takes 70 times as long."""

    aten = torch.ops.aten
    PRODUCTS = (aten.convolution, aten._convolution, aten.convolution_backward, aten.mm, aten.addmm, aten.bmm)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        halves = any(isinstance(each, Tensor) and each.dtype == torch.float16 for each in args)
        if not (halves and func.overloadpacket in self.PRODUCTS):
            return func(*args, **(kwargs or {}))
        result = func(*tree_map_only(Tensor, Tensor.float, args), **(kwargs or {}))
        return tree_map_only(Tensor, Tensor.half, result)


def update(critic: nn.Module, pictures: Pictures, scale: float, outer: float) -> Outcome:
    """One critic update in fp16 mixed precision, up to the unscaled gradient."""
    objective = ScaledObjective(critic, scale)
    with TensorCores():
        with torch.autocast("cpu", torch.float16):
            loss, parts = objective(pictures.real, pictures.fake, None, pictures.keys)
        return _outcome(objective, loss, parts, outer)


def exact_update(critic: nn.Module, pictures: Pictures) -> Outcome:
    """The same in float64."""
    real, fake, keys = pictures.double()
    objective = ScaledObjective(copy.deepcopy(critic).double())
    loss, parts = objective(real, fake, None, keys)
    return _outcome(objective, loss, parts, outer=1.0)


def _outcome(objective: ScaledObjective, loss: Tensor, parts: dict[str, Tensor], outer: float) -> Outcome:
    gradients = torch.autograd.grad(loss * outer, list(objective.critic.parameters()))
    flat = torch.cat([gradient.flatten().double() for gradient in gradients]) / outer
    return Outcome(objective.inner.double(), parts["critic/penalty"].item(), flat)


def compare(found: Outcome, exact: Outcome, scaled: Tensor) -> dict[str, float]:
    """The MEASURES, and whether all is finite; `scaled` is g at a large s."""
    norms, exact_norms = image_norms(found.inner), image_norms(exact.inner)
    return {
        "gradient": _relative(found.gradient, exact.gradient),
        "moved": _relative(found.inner, scaled),
        "norm": ((norms - exact_norms).abs() / exact_norms).max().item(),
        "penalty": abs(found.penalty - exact.penalty) / exact.penalty,
        "zeros": _zeros(found.inner) - _zeros(exact.inner),
        "inner finite": bool(found.inner.isfinite().all()),
        "finite": bool(found.gradient.isfinite().all()),
    }


def _relative(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).norm() / exact.norm()).item()


def _zeros(values: Tensor) -> float:
    return (values == 0).double().mean().item()


def headroom(critic: nn.Module, pictures: Pictures) -> int:
    """The largest power of two s at which the inner gradient is finite, as an exponent; -1 if it never is."""
    low, high = -1, 40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if inner(critic, pictures, middle).isfinite().all() else (low, middle)
    return low


@torch.no_grad()
def inner(critic: nn.Module, pictures: Pictures, power: int) -> Tensor:
    """g in fp16 with s = 2^power, in float64."""
    with TensorCores(), torch.autocast("cpu", torch.float16):
        objective = ScaledObjective(critic, 2.0**power)
        return objective._input_gradient(pictures.real, pictures.fake, None, pictures.keys).double()


def outer_limit(critic: nn.Module, pictures: Pictures, scale: float) -> int:
    """The largest loss scale up to 2^16, where GradScaler starts, with a finite gradient, as an exponent; else -8."""
    powers = range(16, -8, -1)
    return next((p for p in powers if update(critic, pictures, scale, 2.0**p).gradient.isfinite().all()), -8)


def rule(resolution: int, channels: int = 3) -> int:
    """The power of two nearest sqrt(C H W): it brings a typical entry of a gradient of norm 1 to about 1."""
    return 2 ** round(math.log2(channels * resolution**2) / 2)


def states(settings: dict, reals: Tensor) -> Iterator[tuple[str, nn.Module, Pictures]]:
    """The critic in each of its states, with the pictures of one update. Its own weights move in the last one."""
    critic, generator = _networks(settings)
    pictures = _pictures(generator, reals, UPDATES)
    yield "initial", critic, pictures
    for norm in (30.0, 1.0, 0.001, 1e-5):
        yield f"norm {norm:g}", _with_norm(critic, pictures, norm), pictures
    train(critic, generator, reals)
    pictures = _pictures(generator, reals, UPDATES)
    yield "trained", critic, pictures
    yield "trained/1e3", _with_norm(critic, pictures, 0.001), pictures


def _networks(settings: dict) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    critic = build_critic(channels=3, classes=0, **settings)
    for part in critic.modules():
        if isinstance(part, nn.GroupNorm):  # CUDA's autocast has group norms in fp32, the CPU's in fp16
            part.register_forward_pre_hook(_widen)
    generator = build_generator(
        "dcgan", resolution=settings["resolution"], channels=3, classes=0, latent=LATENT, width=16, norm="layer"
    )
    return critic, generator


def _widen(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].to(torch.promote_types(inputs[0].dtype, torch.float32)),)


def _with_norm(critic: nn.Module, pictures: Pictures, norm: float) -> nn.Module:
    """A copy of the critic whose gradients have the mean norm `norm`; scores are linear in the last layer."""
    scaled = copy.deepcopy(critic)
    mean = image_norms(exact_update(scaled, pictures).inner).mean().item()
    with torch.no_grad():
        scaled.score.linear.weight.mul_(norm / mean)
    return scaled


def _keys(step: int) -> Tensor:
    return randomness.image_keys(randomness.key(0, "batch", step), torch.arange(IMAGES))


@torch.no_grad()
def _pictures(generator: nn.Module, reals: Tensor, step: int) -> Pictures:
    chosen = torch.arange(step * IMAGES, (step + 1) * IMAGES) % len(reals)
    return Pictures(reals[chosen], generator(_latent(step)), _keys(step))


def _latent(step: int) -> Tensor:
    return randomness.normal(_keys(step), "latent", (LATENT,)).float()


def train(critic: nn.Module, generator: nn.Module, reals: Tensor) -> None:
    """UPDATES of WGAN-GP in fp32, one of the generator after each five of the critic."""
    objective, opposed = CriticObjective(critic), GeneratorObjective(generator, critic)
    adam = [torch.optim.Adam(network.parameters(), 5e-4, betas=(0.0, 0.9)) for network in (critic, generator)]
    for step in range(UPDATES):
        real, fake, keys = _pictures(generator, reals, step)
        _descend(adam[0], objective(real, fake, None, keys)[0])
        if step % 5 == 4:
            _descend(adam[1], opposed(_latent(step), None, keys)[0])


def _descend(adam: torch.optim.Optimizer, loss: Tensor) -> None:
    parameters = [parameter for group in adam.param_groups for parameter in group["params"]]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    adam.step()


def read_pictures(path: Path | None, resolution: int, count: int = 512) -> Tensor:
    """`count` pictures [count, 3, R, R] in [-1, 1]: the first of a zip, or smooth random ones."""
    if path is None:
        keys = randomness.image_keys(randomness.key(0, "pictures"), torch.arange(count))
        coarse = randomness.normal(keys, "coarse", (3, 8, 8))
        return F.interpolate(coarse, size=(resolution, resolution), mode="bicubic").tanh()
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith((".png", ".jpg"))][:count]
        opened = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    fitted = np.stack([np.asarray(ImageOps.fit(picture, (resolution, resolution))) for picture in opened])
    return torch.from_numpy(fitted).permute(0, 3, 1, 2).float() / 127.5 - 1


def measure(settings: dict, reals: Tensor) -> Iterator[dict]:
    """For each state of a critic, one record of all that is printed.

    The loss scale is a quarter of the largest that s = 1 allows, as GradScaler would have it, to keep it out of the
    question; `outer_scales` puts that question.
    """
    usual = rule(settings["resolution"])
    for state, critic, pictures in states(settings, reals):
        exact, most = exact_update(critic, pictures), headroom(critic, pictures)
        scaled, limit = inner(critic, pictures, most - 2), outer_limit(critic, pictures, 1)
        record = {"state": state, "rule": usual, "norm": image_norms(exact.inner).mean().item(), "headroom": most}
        record["floor"] = _relative(scaled, exact.inner)
        record["outer limits"] = {1: limit, usual: outer_limit(critic, pictures, usual)}
        found = {s: update(critic, pictures, s, 2.0 ** (limit - 2)) for s in SCALES}
        record["scales"] = {s: compare(outcome, exact, scaled) for s, outcome in found.items()}
        if state.startswith("trained"):
            record["outer"] = outer_scales(critic, pictures, exact, (1, usual, 4096))
        yield record


def outer_scales(critic: nn.Module, pictures: Pictures, exact: Outcome, scales: tuple[int, ...]) -> dict[int, dict]:
    """By s and outer scale: the error of the parameter gradient (NaN or infinite: overflow)."""
    errors = {
        (s, o): _relative(update(critic, pictures, s, o).gradient, exact.gradient) for s in scales for o in OUTERS
    }
    return {s: {outer: errors[s, outer] for outer in OUTERS} for s in scales}


def print_scales(records: list[dict]) -> None:
    for name, meaning in MEASURES.items():
        heads = [f"s={s}" for s in SCALES] + ["floor"] * (name == "moved")
        print(f"\n{meaning}\n{'':35}" + "".join(f"{head:>9}" for head in heads))
        for record in records:
            cells = [_cell(at, name) for at in record["scales"].values()]
            cells += [f"{record['floor']:.1e}"] * (name == "moved")
            title = f"{record['case']:16}{record['state']:12}{record['norm']:7.2g}"
            print(title + "".join(f"{cell:>9}" for cell in cells))


def _cell(at: dict, name: str) -> str:
    if not at["inner finite"]:
        return "inner!"
    return "outer!" if name == "gradient" and not at["finite"] else f"{at[name]:.1e}"


def print_limits(records: list[dict]) -> None:
    """An inner gradient that is finite up to s overflows, with s = 1, when the norm is 2 s times as large."""
    columns = ("norm", "rule", "finite to s", "s=1 breaks", "rule breaks", "outer, s=1", "outer, rule")
    print("\nlimits: the largest s; the norm at which s = 1 and the rule overflow; the largest outer scale")
    print(" " * 28 + "".join(f"{name:>12}" for name in columns))
    for record in records:
        most = record["norm"] * 2.0 ** (record["headroom"] + 1)
        outer = [f"2^{power}" for power in record["outer limits"].values()]
        cells = [f"{record['norm']:.2g}", record["rule"], f"2^{record['headroom']}"]
        cells += [f"{most:.0f}", f"{most / record['rule']:.0f}", *outer]
        print(f"{record['case']:16}{record['state']:12}" + "".join(f"{cell:>12}" for cell in cells))


def print_outer(records: list[dict]) -> None:
    print("\nparameter gradient error by outer scale")
    print(f"{'':35}" + "".join(f"{f'2^{int(math.log2(outer))}':>10}" for outer in OUTERS))
    for record in records:
        for s, row in record.get("outer", {}).items():
            cells = (f"{error:.1e}" if math.isfinite(error) else "overflow" for error in row.values())
            print(f"{record['case']:16}{record['state']:12}{f's={s}':>7}" + "".join(f"{cell:>10}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="write the records here as JSON")
    parser.add_argument("--pictures", type=Path, help="a zip of real pictures")
    parser.add_argument("--only", default="", help="only the critics with this word in their name")
    parser.add_argument("--widen", type=int, default=1, help="multiply the widths by this")
    options = parser.parse_args()
    started, records = time.time(), []
    for case, settings in CASES.items():
        if options.only in case:
            settings = {**settings, "width": settings["width"] * options.widen}
            reals = read_pictures(options.pictures, settings["resolution"])
            records += [{"case": case, **record} for record in measure(settings, reals)]
            print(f"{case}: {time.time() - started:.0f} s", flush=True)
    print_scales(records)
    print_limits(records)
    print_outer(records)
    if options.out:
        options.out.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
