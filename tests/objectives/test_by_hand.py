"""Gradients by hand, along the chain of a critic's layers: those of autograd, in fewer convolutions."""

from __future__ import annotations

import functools
import gc
import weakref

import pytest
import torch
from small_critics import gradients
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from distgan.networks import build_critic
from distgan.networks.chain import Convolution, Link
from distgan.objectives.critic import CriticObjective
from distgan.objectives.penalties import PENALTIES
from distgan.parity.measure import error as difference
from distgan.randomness import image_keys

aten = torch.ops.aten
CONVOLUTIONS = {aten.convolution.default: "forward", aten.convolution_backward.default: "backward"}
WIDE = [("mlp", 32, {"width": 8}), ("dcgan", 32, {"width": 4}), ("dcgan", 28, {"width": 4})]
WIDE += [("resnet", side, {"width": 4}) for side in (32, 64, 128)]
WIDE += [("residual", 16, {"width": 4, "minibatch_std": 0}), ("modern", 16, {"width": 12, "blocks": 1})]


def critic_of(name: str, side: int, classes: int = 0, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    critic = build_critic(name, resolution=side, channels=3, classes=classes, **settings)
    with torch.no_grad():
        for parameter in critic.parameters():
            if parameter.ndim == 1 or not parameter.any():  # biases, and the last layers of blocks, begin at zero
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return critic


def inputs_of(side: int, classes: int = 0, count: int = 3, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """A batch of noise."""
    torch.manual_seed(1)
    pictures = {
        role: (torch.rand(count, 3, side, side, dtype=torch.float64) * 2 - 1).to(dtype) for role in ("real", "fake")
    }
    labels = torch.arange(count) % classes if classes else None
    return {**pictures, "labels": labels, "keys": image_keys(7, torch.arange(count))}


def by_autograd(objective: CriticObjective, inputs: dict, **more) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    loss, parts = objective._by_autograd(**inputs, penalise=more.get("penalise", True))
    return gradients(loss, objective.critic), parts


@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize(("name", "side", "settings"), WIDE)
def test_every_chain_has_autograds_loss_and_gradients(name, side, settings, classes):
    critic = critic_of(name, side, classes, **settings).double()
    inputs = inputs_of(side, classes)
    for penalise in (True, False):
        objective = CriticObjective(critic, drift=0.1, loss="nonsaturating")
        wanted, told = by_autograd(objective, inputs, penalise=penalise)
        loss, parts = objective(**inputs, penalise=penalise)
        assert difference(gradients(loss, critic), wanted)[0] < 1e-12
        assert parts.keys() == told.keys()
        for part, value in told.items():
            torch.testing.assert_close(parts[part], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("penalty", [*PENALTIES, "none"])
def test_every_penalty_has_autograds_gradients(penalty):
    critic = critic_of("resnet", 32, 2, width=4).double()
    objective, inputs = CriticObjective(critic, penalty=penalty), inputs_of(32, 2)
    wanted, _ = by_autograd(objective, inputs)
    assert difference(gradients(objective(**inputs)[0], critic), wanted)[0] < 1e-12


@pytest.mark.parametrize("name", ["mlp", "dcgan", "resnet"])
def test_in_bf16_the_chain_is_as_far_from_float64_as_autograd_is(name):
    side = 32
    critic = critic_of(name, side, 2, width=16)
    inputs = inputs_of(side, 2, count=8, dtype=torch.float32)
    objective = CriticObjective(critic)
    with torch.autocast("cpu", torch.bfloat16):
        loss, parts = objective(**inputs)
        assert all(part.dtype in (torch.float32, torch.int64) for part in parts.values())
        found, (other, _) = gradients(loss, critic), by_autograd(objective, inputs)
    exact = CriticObjective(critic.double())
    wanted, _ = by_autograd(exact, inputs_of(side, 2, count=8))
    mine, autograds = (difference({k: v.double() for k, v in each.items()}, wanted)[0] for each in (found, other))
    assert mine < max(0.02, 1.5 * autograds)


@pytest.mark.parametrize(
    "count, name, settings",
    [
        *((count, "resnet", {"width": 16, "norm": "layer"}) for count in (2, 8, 12)),
        *((count, "progressive", {"width": 32, "minibatch_std": group}) for count, group in ((8, 4), (4, 2), (6, 3))),
        *((count, "residual", {"width": 16, "minibatch_std": group}) for count, group in ((8, 4), (6, 3), (12, 4))),
    ],
)
def test_in_bf16_autograds_penalty_is_there_for_any_number_of_pictures(count, name, settings):
    """On CPUs torch's own double backward has unrelated weight gradients for a few even numbers (docs/log.md)."""
    critic = critic_of(name, 32, **settings)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = CriticObjective(critic)(**inputs_of(32, count=count, dtype=torch.float32))
    found = {name: gradient.double() for name, gradient in gradients(loss, critic).items()}
    wanted, _ = by_autograd(CriticObjective(critic.double()), inputs_of(32, count=count))
    assert difference(found, wanted)[0] < (0.18 if name == "residual" else 0.1)


def test_float16_is_left_to_autograd_whose_backward_is_scaled():
    critic = critic_of("dcgan", 32, width=4)
    objective, inputs = CriticObjective(critic), inputs_of(32, dtype=torch.float32)
    with torch.autocast("cpu", torch.float16):
        loss, _ = objective(**inputs)
        wanted, _ = by_autograd(objective, inputs)
    assert difference(gradients(loss, critic), wanted)[0] == 0


@pytest.mark.parametrize(
    "settings", [{"norm": "layer"}, {"dropout": 0.2}, {"minibatch_std": 3}], ids=["norm", "dropout", "minibatch"]
)
def test_what_is_not_piecewise_linear_in_one_picture_has_no_chain(settings):
    assert critic_of("dcgan", 32, **settings).chain(None) is None


class Counting(TorchDispatchMode):
    """The convolutions that are called, and the rows that each works on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if kind := CONVOLUTIONS.get(function):
            self.calls.append((kind, len(args[0])))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("penalty", "scored", "points"), [("gp", 3, 1), ("r1", 2, 1), ("r2", 2, 1), ("r1r2", 2, 2)])
def test_a_layer_takes_four_convolutions_and_the_first_no_gradient_of_what_is_scored(penalty, scored, points):
    """In multiples of the batch: all that goes through the critic, and the points at which the gradient is taken."""
    critic, count = critic_of("dcgan", 64, width=4), 5
    with Counting() as seen:
        objective = CriticObjective(critic, penalty=penalty)
        objective(**inputs_of(64, count=count, dtype=torch.float32))[0].backward()
    layers = len(critic.halvings)
    forward = [("forward", scored * count)] * layers
    backward = [("backward", scored * count)] * (layers - 1) + [("backward", points * count)]
    weights = [("forward", points * count), ("backward", (2 + points) * count)] * layers
    assert seen.calls == [*forward, *backward, *weights]


@pytest.mark.parametrize("in_stages", [False, True])
def test_a_layers_gradients_are_there_before_the_next_layers_are_made(monkeypatch, in_stages):
    """So DDP can reduce them meanwhile; where it does not, autograd is bothered once."""
    critic, happened = critic_of("dcgan", 32, width=4), []
    made = Convolution.gradients

    def noted(self: Link, scored: int):
        happened.append("made")
        return made(self, scored)

    monkeypatch.setattr(Convolution, "gradients", noted)
    for halve in critic.halvings:
        halve.weight.register_post_accumulate_grad_hook(lambda _: happened.append("arrived"))
    objective = CriticObjective(critic)
    objective.in_stages = in_stages
    objective(**inputs_of(32, dtype=torch.float32))[0].backward()
    count = len(critic.halvings)
    assert happened == (["made", "arrived"] * count if in_stages else ["made"] * count + ["arrived"] * count)


def test_what_a_link_kept_is_let_go_with_its_gradients(monkeypatch):
    critic, kept = critic_of("resnet", 32, width=4), []
    forward = Convolution.forward

    def noted(self: Convolution, x: Tensor) -> Tensor:
        kept.append(weakref.ref(x))
        return forward(self, x)

    monkeypatch.setattr(Convolution, "forward", noted)
    _, _, passed = CriticObjective(critic)._pass(**inputs_of(32, dtype=torch.float32), penalise=True)
    assert all(each() is not None for each in kept)
    passed.gradients()  # link after link, with the chain still there
    gc.collect()
    assert not any(each() is not None for each in kept)


@pytest.mark.slow
@pytest.mark.parametrize("in_stages", [False, True], ids=["whole", "in stages"])
@pytest.mark.parametrize(
    "settings", [{"width": 4}, {"width": 4, "norm": "layer", "dropout": 0.2}], ids=["by hand", "by autograd"]
)
def test_a_compiled_update_is_one_graph_that_is_made_once(settings, in_stages):
    """Loss and all gradients, double backward included; of a lazy penalty, one graph with it and one without."""
    torch._dynamo.reset()
    critic = critic_of("dcgan", 28, 2, **settings).double()
    eager, objective = CriticObjective(critic, every=2), CriticObjective(critic, every=2)
    counter = CompileCounterWithBackend("aot_eager")
    compiler = functools.partial(torch.compile, backend=counter, fullgraph=True, dynamic=False)
    objective.in_stages = in_stages
    objective.use_compiler(compiler)
    inputs = inputs_of(28, 2)
    assert not any(made.requires_grad for made in eager.gradients(**inputs)[2]), "it would be differentiated again"
    for update in range(4):
        penalise = update % 2 == 0
        wanted, told = by_autograd(eager, inputs, penalise=penalise)
        loss, parts = objective(**inputs, penalise=penalise)
        assert difference(gradients(loss, critic), wanted)[0] < 1e-12
        assert parts.keys() == told.keys()
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.add_(0.01)
    assert counter.frame_count == 2
