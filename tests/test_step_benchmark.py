"""The benchmark of the step counts what it should, computes what the papers say, and notices what does not."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.step import __main__ as command
from benchmarks.step import textbook as tutorial
from benchmarks.step.__main__ import main
from benchmarks.step.cases import Case
from benchmarks.step.counting import multiplications, rate
from benchmarks.step.modes import EXACT, MODES, Ours
from benchmarks.step.textbook import Textbook
from benchmarks.step.training import compare
from distgan import randomness
from distgan.assembly import make_critic, make_generator
from distgan.networks import build_critic
from distgan.parity.measure import error, gradients_of
from distgan.parity.reference import Batch, critic_gradients, generator_gradients
from distgan.parity.textbook import textbook


@pytest.fixture(autouse=True)
def threads():
    """A process of training takes all cores; the tests keep to one."""
    yield
    torch.set_num_threads(1)


def pair(case: Case, dtype: torch.dtype = torch.float32) -> Textbook:
    generator, critic = make_generator(case.config()).train(), make_critic(case.config()).train()
    real, fake = (torch.randn(case.batch, 3, case.resolution, case.resolution).tanh().to(dtype) for _ in range(2))
    return Textbook(generator, critic, real, fake)


@pytest.mark.parametrize(
    ("case", "plain", "ours"),
    [
        (Case("dcgan", 64, 4, width=16), (11.5, 12), (9.5, 10)),
        (Case("resnet", 32, 4, width=16), (11.5, 12), (6, 6.4)),
    ],
    ids=["dcgan", "resnet"],
)
def test_the_critic_update_needs_what_theory_says(case, plain, ours):
    """In forwards of the plain critic; a little less than 12, 10 and 6.2, as no image needs a gradient but x^."""
    with torch.no_grad():
        critic, images = textbook(make_critic(case.config()), torch.float32), torch.zeros(4, 3, *2 * [case.resolution])
        forward = multiplications(lambda: critic(images))
    assert plain[0] < multiplications(pair(case).critic_update) / forward < plain[1]
    assert ours[0] < multiplications(Ours(case, MODES[EXACT], "cpu").critic_update) / forward < ours[1]


def test_multiplications_are_those_of_a_convolution_by_hand():
    critic = build_critic("dcgan", resolution=16, channels=3, classes=0, width=4)
    with torch.no_grad():
        found = multiplications(lambda: critic(torch.zeros(5, 3, 16, 16)))
    halvings = 5 * (8 * 8 * 3 * 4 * 16 + 4 * 4 * 4 * 8 * 16)
    assert halvings <= found <= halvings + 5 * 8 * 16  # the score's product may run as one that is not counted


def test_the_textbook_update_is_that_of_the_paper():
    torch.manual_seed(0)
    contender = pair(Case("dcgan", 32, 4, width=4), torch.float64)
    keys = randomness.image_keys(0, torch.arange(4))
    batch = Batch(contender._real, contender._fake, None, keys)
    wanted = critic_gradients(contender.critic, batch)
    contender.critic_update(randomness.uniform(keys, "epsilon", dtype=torch.float64))
    assert error(gradients_of(contender.critic), wanted)[0] < 1e-12
    latent = torch.randn(4, 128, dtype=torch.float64)
    wanted = generator_gradients(contender.generator, contender.critic.requires_grad_(), latent, batch)
    contender.generator_update(latent)
    assert error(gradients_of(contender.generator), wanted)[0] < 1e-12


@pytest.fixture
def known_rate(monkeypatch):
    monkeypatch.setattr(command, "rate", lambda device, dtype, tries: 1e9)


def test_the_rate_is_that_of_convolutions():
    assert 1e6 < rate(torch.device("cpu"), torch.float32, tries=1, batch=1) < 1e15


SMALL = ["--device", "cpu", "--networks", "mlp", "--resolutions", "32", "--batch", "2", "--rounds", "1"]


def test_a_run_tells_of_every_mode_and_writes_all_rounds(known_rate, tmp_path, capsys):
    assert main([*SMALL, "--modes", EXACT, "+ bf16", "--json", str(tmp_path / "found.json")]) == 0
    text = capsys.readouterr().out
    assert "| textbook |" in text and f"| {EXACT} |" in text and "torch " in text
    modes = json.loads((tmp_path / "found.json").read_text())["cases"]["mlp 32 px, batch 2"]["modes"]
    assert modes.keys() == {"textbook", EXACT, "+ bf16"}
    assert all(mode["right"] and mode["ratio"].keys() == {"critic", "generator", "step"} for mode in modes.values())
    assert modes["textbook"]["ratio"]["critic"] == 1 and modes[EXACT]["errors"]["critic"] < 1e-5


def test_a_mode_with_wrong_gradients_ends_with_status_1(known_rate, monkeypatch, capsys):
    monkeypatch.setattr(tutorial, "WEIGHT", 5.0)
    assert main([*SMALL, "--modes", EXACT]) == 1
    found = capsys.readouterr()
    assert "WRONG" in found.out and "wrong gradients in mlp 32 px, batch 2, textbook" in found.err


def test_a_mode_that_the_compiler_refuses_is_left_out_with_its_reason(known_rate, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler here")

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: refuse)
    assert main([*SMALL, "--modes", EXACT, "+ compiled"]) == 0
    assert "* + compiled: " in (text := capsys.readouterr().out) and "no C++ compiler here" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.batch_size=4"], "an override of what? Give --training too"),
        (["--batch", "1"], "--batch 1: batch norm wants 2 images or more"),
        (["--rounds", "0"], "--rounds 0: must be 1 or more"),
    ],
)
def test_bad_usage_is_told_in_a_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and words in capsys.readouterr().err


def test_trainings_are_set_against_the_bare_step():
    overrides = ["train.device=cpu", "train.compile=false", "tracking.every=1 steps"]
    found = compare("tests/tiny.yaml", overrides, steps=10, rounds=1, tell=lambda text: None)
    assert len(found.training) == len(found.bare) == 1 and 0 < found.ratio < 5
    assert "ratio" in found.lines()[-1] and found.as_json()["ratio"] == found.ratio
