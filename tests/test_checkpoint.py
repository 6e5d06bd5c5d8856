"""Checkpoints as files: what is written comes back to the bit, and what is half-written never does."""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from distgan import checkpoint
from distgan.errors import UserError
from distgan.networks import build_critic, build_generator
from distgan.tracking.meter import Meter

DEVICE = torch.device("cpu")
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-2, betas=(0.5, 0.9)),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-2),
}


def fresh(kind: str, seed: int, dtype: torch.dtype = torch.float32) -> checkpoint.TrainState:
    """The networks of a run as the runtime places them, before any step."""
    torch.manual_seed(seed)
    common = {"resolution": 16, "channels": 3, "classes": 0, "width": 4}
    generator = build_generator("dcgan", latent=4, norm="batch", **common)
    critic = build_critic("dcgan", **common)
    networks = {
        checkpoint.GENERATOR: generator,
        checkpoint.GENERATOR_EMA: copy.deepcopy(generator).requires_grad_(False),
        checkpoint.CRITIC: critic,
    }
    for network in networks.values():
        network.to(dtype, memory_format=torch.channels_last)
    make = OPTIMIZERS[kind]
    optimizers = {"critic": make(critic.parameters()), "generator": make(generator.parameters())}
    return checkpoint.TrainState(networks, optimizers, checkpoint.Progress())


def train(state: checkpoint.TrainState, steps: int, seed: int = 0) -> None:
    generator, critic = state.networks[checkpoint.GENERATOR], state.networks[checkpoint.CRITIC]
    dtype = next(critic.parameters()).dtype
    for step in range(state.progress.step, state.progress.step + steps):
        torch.manual_seed(1000 * seed + step)
        for optimizer in state.optimizers.values():
            optimizer.zero_grad()
            critic(generator(torch.randn(4, 4).to(dtype)).to(memory_format=torch.channels_last)).mean().backward()
            optimizer.step()
    state.progress.step += steps
    state.progress.images += 64 * steps
    state.progress.seconds += 0.1 + 0.2


def everything(state: checkpoint.TrainState) -> dict[str, torch.Tensor]:
    """All tensors of a state by name."""
    found = {
        f"{file}.{name}": t for file, network in state.networks.items() for name, t in network.state_dict().items()
    }
    for name, optimizer in state.optimizers.items():
        for index, fields in optimizer.state_dict()["state"].items():
            found |= {f"{name}.{index}.{field}": tensor for field, tensor in fields.items()}
    return found


def assert_same(one: checkpoint.TrainState, other: checkpoint.TrainState) -> None:
    mine, theirs = everything(one), everything(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name
        assert (tensor.dtype, tensor.stride()) == (theirs[name].dtype, theirs[name].stride()), name
    assert one.progress == other.progress


@pytest.fixture
def trained():
    state = fresh("adam", 0)
    train(state, 3)
    return state


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_comes_back_to_the_bit_and_training_goes_on_to_the_bit(tmp_path, kind, dtype):
    before, after = fresh(kind, 0, dtype), fresh(kind, 1, dtype)
    train(before, 3)
    before.progress.wandb_id = "abc"
    strides = [p.stride() for p in before.networks[checkpoint.CRITIC].parameters()]
    assert any(stride[1] == 1 and len(stride) == 4 for stride in strides), "nothing is channels_last"
    meter = torch.tensor([[1 / 3, 2.0], [0.1, 1e300]], dtype=torch.float64)
    checkpoint.save(tmp_path / "00000003", before, {"meter": meter})
    extra = checkpoint.load(tmp_path / "00000003", after)
    assert_same(before, after)
    assert torch.equal(extra["meter"], meter) and extra["meter"].dtype == meter.dtype
    for state in (before, after):
        train(state, 2)
    assert_same(before, after)


def test_the_loss_scales_of_fp16_come_back_and_other_precisions_have_none(tmp_path):
    def state(*scales: float | None) -> checkpoint.TrainState:
        made = fresh("adam", 0, torch.float32)
        for name, scale in zip(made.optimizers, scales, strict=True):
            made.scalers[name] = GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
            made.scalers[name].scale(torch.zeros(()))  # it makes its tensors when first used
        return made

    checkpoint.save(tmp_path / "00000001", state(256.0, None), {})
    assert [
        len(kept) for kept in json.loads((tmp_path / "00000001" / "state.json").read_text())["scalers"].values()
    ] == [5]
    half, full = state(1024.0, 512.0), state(None, None)
    for other in (half, full):
        checkpoint.load(tmp_path / "00000001", other)
    assert [scaler.get_scale() for scaler in half.scalers.values()] == [256.0, 512.0]
    assert not any(scaler.is_enabled() for scaler in full.scalers.values())


def test_the_state_of_a_meter_comes_back(tmp_path, trained):
    meter, again = Meter(DEVICE), Meter(DEVICE)
    meter.add({"critic/loss": torch.tensor(1 / 3), "critic/grad_norm_max": torch.tensor(5.0)}, 0.7)
    meter.fold(lambda values, _: values)
    checkpoint.save(tmp_path / "3", trained, {"meter": meter.state()})
    again.load(checkpoint.load(tmp_path / "3", fresh("adam", 1))["meter"])
    assert again.take() == meter.take() != {}


def test_learning_rates_are_those_of_the_config_and_not_of_the_file(tmp_path, trained):
    checkpoint.save(tmp_path / "3", trained, {})
    again = fresh("adam", 1)
    again.optimizers["critic"].param_groups[0]["lr"] = 0.5
    checkpoint.load(tmp_path / "3", again)
    assert again.optimizers["critic"].param_groups[0]["lr"] == 0.5


def test_a_generator_is_read_without_the_rest(tmp_path, trained):
    checkpoint.save(tmp_path / "3", trained, {})
    network = fresh("adam", 1).networks[checkpoint.GENERATOR_EMA]
    checkpoint.load_network(tmp_path / "3" / checkpoint.GENERATOR_EMA, network)
    wanted = trained.networks[checkpoint.GENERATOR_EMA].state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in network.state_dict().items())


def test_saving_changes_nothing_and_never_replaces_a_checkpoint(tmp_path, trained):
    before = {name: tensor.clone() for name, tensor in everything(trained).items()}
    checkpoint.save(tmp_path / "3", trained, {})
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save(tmp_path / "3", trained, {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything(trained).items())
    assert os.listdir(tmp_path) == ["3"]


class TestInterrupted:
    def test_what_a_killed_save_left_is_not_taken_for_a_checkpoint(self, tmp_path, trained):
        checkpoint.save(tmp_path / "00000003", trained, {})
        shutil.copytree(tmp_path / "00000003", tmp_path / ".00000006.part")
        (tmp_path / ".00000006.part" / "state.json").unlink()
        assert checkpoint.newest(tmp_path) == tmp_path / "00000003"
        train(trained, 3)
        checkpoint.save(tmp_path / "00000006", trained, {})
        again = fresh("adam", 1)
        checkpoint.load(checkpoint.newest(tmp_path), again)
        assert_same(again, trained)

    def test_a_process_killed_while_it_saves_leaves_only_whole_checkpoints(self, tmp_path, trained):
        process = FORK.Process(target=save_on_and_on, args=(tmp_path, trained))
        process.start()
        try:
            wait_for(lambda: (newest := checkpoint.newest(tmp_path)) and int(newest.name) > 4)
            wait_for(lambda: any(tmp_path.glob(".*.part")))
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        newest, again = checkpoint.newest(tmp_path), fresh("adam", 1)
        checkpoint.load(newest, again)
        while trained.progress.step < int(newest.name):
            move(trained)
        assert_same(again, trained)

    def test_a_disk_that_takes_no_more_is_told_and_nothing_stays_behind(self, tmp_path, trained):
        checkpoint.save(tmp_path / "00000003", trained, {})
        process = FORK.Process(target=save_without_room, args=(tmp_path, trained), daemon=True)
        process.start()
        process.join(30)
        told = (tmp_path / "told").read_text().splitlines()
        assert process.exitcode == 0 and len(told) == 2
        for line in told:
            assert line.startswith(f"checkpoint {tmp_path / '00000004'}: cannot be written: ") and "make room" in line
        assert sorted(os.listdir(tmp_path)) == ["00000003", "told"]
        again = fresh("adam", 1)
        checkpoint.load(tmp_path / "00000003", again)
        assert_same(again, trained)


FORK = torch.multiprocessing.get_context("fork")  # nothing here differentiates, so CUDA does not mind


def move(state: checkpoint.TrainState) -> None:
    """A step that only moves the weights."""
    with torch.no_grad():
        for parameter in state.networks[checkpoint.CRITIC].parameters():
            parameter.add_(1)
    state.progress.step += 1


def save_on_and_on(folder: Path, state: checkpoint.TrainState) -> None:
    while True:
        move(state)
        checkpoint.save(folder / f"{state.progress.step:08d}", state, {})
        checkpoint.prune(folder, 2)


def save_without_room(folder: Path, state: checkpoint.TrainState) -> None:
    """No file may grow larger than a hundred bytes, or than the largest but for a little."""
    largest = max(path.stat().st_size for path in (folder / "00000003").iterdir())
    told = []
    for limit in (100, largest - 100):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            checkpoint.save(folder / "00000004", state, {})
        except UserError as error:
            told.append(str(error))
    (folder / "told").write_text("\n".join(told))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path, trained):
        checkpoint.save(tmp_path / "00000003", trained, {"meter": torch.zeros(2)})
        return tmp_path / "00000003"

    FILES = [checkpoint.GENERATOR, checkpoint.GENERATOR_EMA, checkpoint.CRITIC, "state.safetensors", "state.json"]

    def refused(self, folder, kind: str = "adam") -> str:
        with pytest.raises(UserError) as caught:
            checkpoint.load(folder, fresh(kind, 1))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_checkpoint_has_these_files(self, folder):
        assert sorted(os.listdir(folder)) == sorted(self.FILES)

    @pytest.mark.parametrize("name", FILES)
    def test_a_file_that_is_missing_is_named(self, folder, name):
        (folder / name).unlink()
        assert str(folder / name) in self.refused(folder)

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("content", ["half", "empty", "noise"])
    def test_a_file_that_is_damaged_is_named(self, folder, name, content):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes({"half": data[: len(data) // 2], "empty": b"", "noise": b"\x93" * 200}[content])
        assert str(folder / name) in self.refused(folder) and str(folder) in self.refused(folder)

    def test_weights_of_another_network_are_named(self, folder):
        shutil.copy(folder / checkpoint.CRITIC, folder / checkpoint.GENERATOR)
        assert f"{folder / checkpoint.GENERATOR}: does not fit the network of the config" in self.refused(folder)

    @pytest.mark.parametrize(
        "content", ["[]", "3", "{}", '{"progress": {}}', '{"progress": {"epoch": 3}, "scalers": null}']
    )
    def test_a_state_of_another_program_is_named(self, folder, content):
        (folder / "state.json").write_text(content)
        assert "state.json" in self.refused(folder)

    def test_the_state_of_another_optimizer_is_named(self, folder):
        """Only --allow-config-change leads here; the first step would end in a KeyError."""
        assert "state.safetensors" in self.refused(folder, "rmsprop")

    def test_a_state_from_before_there_was_a_scaler_for_each_network_is_read(self, folder):
        record = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({"progress": record["progress"], "scaler": None}))
        state = fresh("adam", 1)
        checkpoint.load(folder, state)
        assert state.progress.step == 3

    def test_progress_is_plain_json(self, folder):
        record = json.loads((folder / "state.json").read_text())
        assert record["progress"]["step"] == 3 and record["scalers"] == {}


class TestPruning:
    @pytest.fixture
    def folder(self, tmp_path):
        for step in (1000, 2000, 9000, 10000):
            (tmp_path / f"{step:08d}").mkdir()
        (tmp_path / ".00003000.part").mkdir()
        (tmp_path / "notes").mkdir()
        (tmp_path / "00012000").write_text("a file, no checkpoint")
        return tmp_path

    @pytest.mark.parametrize(("keep", "left"), [(1, ["00010000"]), (2, ["00009000", "00010000"])])
    def test_the_newest_stay_and_what_is_not_ours_too(self, folder, keep, left):
        checkpoint.prune(folder, keep)
        assert sorted(os.listdir(folder)) == sorted([*left, "00012000", "notes"])

    def test_fewer_than_are_kept_all_stay(self, folder):
        checkpoint.prune(folder, 9)
        assert len(list(folder.glob("000*"))) == 5

    def test_the_newest_is_that_of_the_highest_step(self, folder, tmp_path):
        assert checkpoint.newest(folder).name == "00010000"
        assert checkpoint.newest(tmp_path / "nowhere") is None


def test_networks_that_share_weights_are_written_apart(tmp_path):
    linear = nn.Linear(2, 2)
    state = checkpoint.TrainState({"a": linear, "b": linear}, {}, checkpoint.Progress())
    checkpoint.save(tmp_path / "1", state, {"same": linear.weight.T})
    extra = checkpoint.load(tmp_path / "1", state)
    assert torch.equal(extra["same"], linear.weight.T)
