"""The critic step against the papers, image by image, in float64; alone, compiled, and over processes."""

from __future__ import annotations

import pytest
import torch
from forked import in_processes
from small_critics import CRITICS, batch, gradients, reference, small_critic
from torch import nn

from distgan import compiling, randomness
from distgan.compiling import compile_or_fall_back
from distgan.objectives import critic as critic_module
from distgan.objectives.critic import CriticObjective
from distgan.objectives.losses import LOSSES
from distgan.objectives.penalties import PENALTIES as TABLE
from distgan.objectives.penalties import Penalty, image_norms, interpolate, two_sided
from distgan.parity.measure import error as difference
from distgan.parity.reference import CRITIC_LOSSES, GENERATOR_LOSSES, PENALTIES
from distgan.runtime import average_over_processes

ROUNDING = 1e-12


def error(
    name: str, *, classes: int = 0, norm: str = "none", penalise: bool = True, count: int = 5, **settings
) -> float:
    """How far the objective's parameter gradients and loss are from the reference's."""
    critic, inputs = small_critic(name, classes, norm), batch(name, count, classes)
    wanted, wanted_gradients = reference(critic, inputs, penalise=penalise, **settings)
    loss, _ = CriticObjective(critic, **settings)(**inputs, penalise=penalise)
    assert abs(loss.item() - wanted) <= ROUNDING * max(1, abs(wanted))
    return difference(gradients(loss, critic), wanted_gradients)[0]


class TestAgainstThePapers:
    def test_every_loss_and_penalty_is_compared_here(self):
        assert set(TABLE) == {name for name, (where, _) in PENALTIES.items() if where}
        assert set(CRITIC_LOSSES) == set(GENERATOR_LOSSES) == set(LOSSES)

    @pytest.mark.parametrize("penalty", PENALTIES)
    @pytest.mark.parametrize("name", CRITICS)
    def test_every_penalty_on_every_family(self, name, penalty):
        assert error(name, penalty=penalty, count=4) <= ROUNDING

    @pytest.mark.parametrize("loss", CRITIC_LOSSES)
    @pytest.mark.parametrize("penalty", ["gp", "r1r2"])
    def test_every_loss(self, loss, penalty):
        assert error("mlp", loss=loss, penalty=penalty) <= ROUNDING

    @pytest.mark.parametrize(
        "settings",
        [
            {"drift": 0.3},
            {"every": 4},
            {"every": 4, "penalise": False},
            {"weight": 0.7, "target": 2.5, "penalty": "lp"},
            {"weight": 0.0},
            {"classes": 3},
            {"classes": 3, "penalty": "r1r2", "loss": "relativistic", "drift": 0.1, "every": 2},
        ],
    )
    @pytest.mark.parametrize("name", ["mlp", "dcgan"])
    def test_every_setting(self, name, settings):
        assert error(name, **settings) <= ROUNDING

    @pytest.mark.parametrize("norm", ["layer", "instance", "group"])
    def test_norms_that_look_at_one_image(self, norm):
        assert error("dcgan", norm=norm) <= ROUNDING * 10

    def test_the_parts_are_what_they_are_called(self):
        critic, inputs = small_critic("dcgan"), batch("dcgan", 6)
        loss, parts = CriticObjective(critic, weight=10, every=3)(**inputs)
        assert not any(part.requires_grad for part in parts.values())
        scores = {role: critic(inputs[role]).detach() for role in ("real", "fake")}
        wasserstein = scores["real"].mean() - scores["fake"].mean()
        torch.testing.assert_close(parts["critic/wasserstein"], wasserstein)
        torch.testing.assert_close(parts["critic/loss"], loss.detach())
        torch.testing.assert_close(loss.detach(), -wasserstein + 30 * parts["critic/penalty"])
        assert parts["critic/grad_norm_mean"] < parts["critic/grad_norm_max"]

    def test_an_update_without_penalty_has_no_parts_of_it(self):
        inputs = batch("mlp", 2)
        assert set(CriticObjective(small_critic("mlp"), every=2)(**inputs, penalise=False)[1]) == {
            "critic/loss",
            "critic/wasserstein",
        }

    def test_a_flat_critic_has_no_nan(self):
        critic = small_critic("dcgan")
        nn.init.zeros_(critic.score.linear.weight)
        loss, _ = CriticObjective(critic)(**batch("dcgan", 3))
        assert all(torch.isfinite(gradient).all() for gradient in gradients(loss, critic).values())

    def test_nothing_flows_into_the_fakes(self):
        inputs = batch("mlp", 3)
        fake = inputs["fake"].clone().requires_grad_()
        loss, _ = CriticObjective(small_critic("mlp"), penalty="r1r2")(**{**inputs, "fake": fake.detach()})
        loss.backward()
        assert fake.grad is None

    def test_a_critic_with_batch_norm_scores_fakes_as_it_does_for_the_generator(self):
        """Reals in the same forward would make it another function than the one the generator climbs."""
        critic, inputs = small_critic("dcgan", 0, "batch"), batch("dcgan", 6, 0)
        inputs["real"] = inputs["real"] * 0.1 + 0.9
        _, parts = CriticObjective(critic, penalty="none")(**inputs)
        apart = critic(inputs["real"]).mean() - critic(inputs["fake"]).mean()
        assert parts["critic/wasserstein"].item() == pytest.approx(apart.item(), rel=1e-9)

    @pytest.mark.parametrize("name", CRITICS)
    def test_a_penalty_on_batch_norm_takes_the_gradient_of_the_sum_of_the_scores(self, name):
        """What objective.allow_batch_norm lets pass is what a textbook's program computes, as plain autograd has it."""
        critic, inputs = small_critic(name, 0, "batch"), batch(name, 6)
        real, fake = inputs["real"], inputs["fake"]
        mix = randomness.uniform(inputs["keys"], "epsilon", dtype=real.dtype)[:, None, None, None]
        points = (mix * real + (1 - mix) * fake).requires_grad_()
        (slopes,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
        penalty = (slopes.flatten(1).norm(dim=1) - 1).square().mean()
        wanted = critic(fake).mean() - critic(real).mean() + 10 * penalty
        loss, _ = CriticObjective(critic)(**inputs)
        assert loss.item() == pytest.approx(wanted.item(), rel=ROUNDING)
        assert difference(gradients(loss, critic), gradients(wanted, critic))[0] <= ROUNDING

    def test_the_order_of_the_images_does_not_matter(self):
        critic, inputs = small_critic("dcgan", 3), batch("dcgan", 6, 3)
        turned = {name: value.flip(0) for name, value in inputs.items()}
        one, two = (gradients(CriticObjective(critic)(**given)[0], critic) for given in (inputs, turned))
        assert difference(one, two)[0] <= ROUNDING


class TestFaultsAreCaught:
    """What has gone wrong in other programs, planted: the comparison above must see it."""

    def test_one_norm_over_the_batch(self, monkeypatch):
        monkeypatch.setattr(critic_module, "image_norms", lambda g: image_norms(g.flatten()[None, :, None, None]))
        with pytest.raises(AssertionError):
            assert error("dcgan") <= ROUNDING

    def test_one_epsilon_for_the_batch(self, monkeypatch):
        def points(real, fake, epsilon):
            return interpolate(real, fake, epsilon[:1].expand_as(epsilon))

        monkeypatch.setitem(TABLE, "gp", Penalty(points, two_sided))
        with pytest.raises(AssertionError):
            assert error("dcgan") <= ROUNDING

    def test_a_penalty_that_is_not_differentiated(self, monkeypatch):
        monkeypatch.setattr(critic_module, "image_norms", lambda g: image_norms(g).detach())
        assert error("mlp") > 1e-3


def half_precision_error(norm: float) -> float:
    """How far fp16's inner gradient is from float64's, of a critic whose gradients have the mean norm `norm`."""
    inputs = {**batch("dcgan", 4), "labels": None}
    exact, half = small_critic("dcgan"), small_critic("dcgan").float()
    wanted = CriticObjective(exact)._input_gradient(**inputs).detach()
    factor = norm / image_norms(wanted).mean().item()
    with torch.no_grad():
        half.score.linear.weight.mul_(factor)  # scores are linear in it
    pictures = {role: inputs[role].float() for role in ("real", "fake")}
    with torch.autocast("cpu", torch.float16):
        found = CriticObjective(half)._input_gradient(**{**inputs, **pictures}).detach()
    return difference({"": found.double()}, {"": wanted * factor})[0]


class TestScaleOfTheInnerGradient:
    """docs/penalty.md has what benchmarks/inner_gradient.py measured."""

    def test_fp16_keeps_flat_and_steep_critics(self):
        for norm in (1e-5, 1.0, 100.0):
            assert half_precision_error(norm) < 0.01, norm

    @pytest.mark.parametrize(("scale", "lost"), [(1.0, 1e-5), (4096.0, 100.0)])
    def test_without_it_entries_vanish_and_a_larger_one_overflows(self, monkeypatch, scale, lost):
        monkeypatch.setattr(critic_module, "INNER_SCALE", scale)
        assert half_precision_error(1.0) < 0.01
        assert not half_precision_error(lost) < 0.01

    def test_it_changes_no_bit_in_float32(self, monkeypatch):
        critic, inputs = small_critic("dcgan").float(), batch("dcgan", 4)
        inputs |= {role: inputs[role].float() for role in ("real", "fake")}
        found = [gradients(CriticObjective(critic)(**inputs)[0], critic)]
        monkeypatch.setattr(critic_module, "INNER_SCALE", 1.0)
        found.append(gradients(CriticObjective(critic)(**inputs)[0], critic))
        torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "penalty"), [("mlp", "gp"), ("dcgan", "r1")])
def test_compiled_is_eager(name, penalty, recwarn):
    critic, inputs = small_critic(name), batch(name, 4)
    objective = CriticObjective(critic, penalty=penalty, weight=3.0)
    loss, parts = objective(**inputs)
    eager = gradients(loss, critic)
    objective.use_compiler(compile_or_fall_back)
    compiled_loss, compiled_parts = objective(**inputs)
    assert difference(gradients(compiled_loss, critic), eager)[0] <= ROUNDING
    assert abs(compiled_loss.item() - loss.item()) <= ROUNDING * abs(loss.item())
    for part, value in parts.items():
        torch.testing.assert_close(compiled_parts[part], value, rtol=ROUNDING, atol=ROUNDING)
    assert not [warning for warning in recwarn if "compiler failed" in str(warning.message)]


@pytest.mark.slow
def test_a_machine_without_a_compiler_goes_on_without_and_says_so_once(monkeypatch):
    monkeypatch.setattr(compiling, "_told", set())  # another test may have met the same failure
    # monkeypatch could not put these back
    changed = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
    call = compile_or_fall_back(lambda x: (x * 1.25 + 3).sin())
    with changed, pytest.warns(UserWarning, match="the compiler failed, going on without it") as told:
        found = [call(torch.full((3,), value)) for value in (1.0, 2.0)]
    torch.testing.assert_close(torch.stack(found), torch.tensor([[4.25] * 3, [5.5] * 3]).sin())
    assert len([warning for warning in told if "train.compile" in str(warning.message)]) == 1


def averaged(rank: int, values: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mine = values[rank].clone().requires_grad_()
    mean = average_over_processes(mine)
    (mean.square() * weights[rank]).sum().backward()
    return mean.detach(), mine.grad


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_mean_over_processes_is_differentiated_as_in_one(tmp_path, world_size):
    """DDP takes the mean of the processes' losses, so that is the loss whose gradient is wanted, times world size."""
    values = torch.randn(world_size, 2, 4, dtype=torch.float64)
    weights = torch.randn(world_size, 2, 4, dtype=torch.float64)
    ranks = in_processes(world_size, tmp_path, averaged, values, weights)
    whole = values.clone().requires_grad_()
    (whole.mean(0).square() * weights).sum(dim=(1, 2)).mean().backward()
    for rank, (mean, gradient) in enumerate(ranks):
        torch.testing.assert_close(mean, values.mean(0), rtol=1e-14, atol=1e-15)
        torch.testing.assert_close(gradient, whole.grad[rank] * world_size, rtol=1e-13, atol=1e-15)
