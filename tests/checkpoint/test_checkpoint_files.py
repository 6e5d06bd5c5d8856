"""Checkpoints as files: what is written comes back to the bit, and what is half-written never does."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from states import assert_same, everything, fresh, move, train
from torch import nn
from torch.amp import GradScaler

from distgan import checkpoint
from distgan.checkpoint import manifest
from distgan.errors import UserError
from distgan.tracking.meter import Meter

DEVICE = torch.device("cpu")


@pytest.fixture
def trained():
    state = fresh("adam", 0)
    train(state, 3)
    return state


@pytest.mark.parametrize("kind", ["adam", "rmsprop"])
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


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_others_may_read_its_files_as_the_umask_says(trained, tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        checkpoint.save(tmp_path / "00000003", trained, {})
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "00000003").iterdir()} == dict.fromkeys(
        [*trained.networks, "state.safetensors", "state.json", "manifest.json"], mode
    )


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


def test_saving_changes_nothing_and_replaces_what_had_the_name(tmp_path, trained):
    before = {name: tensor.clone() for name, tensor in everything(trained).items()}
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "damaged").touch()
    checkpoint.save(tmp_path / "3", trained, {})
    checkpoint.verify(tmp_path / "3")
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything(trained).items())
    assert os.listdir(tmp_path) == ["3"]


def test_a_snapshot_is_of_its_moment_and_the_next_one_takes_its_memory(trained):
    snapshots = checkpoint.Snapshots()
    first = snapshots.take(trained, {})
    was = {key: tensor.clone() for key, tensor in first.files[checkpoint.CRITIC].items()}
    move(trained)
    assert first.step == 3 and all(torch.equal(was[k], t) for k, t in first.files[checkpoint.CRITIC].items())
    second = snapshots.take(trained, {})
    assert all(
        t.data_ptr() == first.files[checkpoint.CRITIC][k].data_ptr() for k, t in second.files[checkpoint.CRITIC].items()
    )
    assert first.record["progress"]["step"] == 3 and second.record["progress"]["step"] == 4


class TestInterrupted:
    def test_what_a_killed_save_left_is_not_taken_for_a_checkpoint(self, tmp_path, trained):
        checkpoint.save(tmp_path / "00000003", trained, {})
        shutil.copytree(tmp_path / "00000003", tmp_path / ".00000006.part")
        (tmp_path / ".00000006.part" / "state.json").unlink()
        assert checkpoint.newest_complete(tmp_path) == tmp_path / "00000003"
        train(trained, 3)
        checkpoint.save(tmp_path / "00000006", trained, {})
        again = fresh("adam", 1)
        checkpoint.load(checkpoint.newest_complete(tmp_path), again)
        assert_same(again, trained)

    def test_a_process_killed_while_it_saves_leaves_only_whole_checkpoints(self, tmp_path, trained):
        process = FORK.Process(target=save_on_and_on, args=(tmp_path, trained))
        process.start()
        try:
            wait_for(lambda: (newest := checkpoint.newest_complete(tmp_path)) and int(newest.name) > 4)
            wait_for(lambda: any(tmp_path.glob(".*.part")))
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        newest, again = checkpoint.newest_complete(tmp_path), fresh("adam", 1)
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
            assert line.startswith(f"checkpoint {tmp_path / '00000004'}: cannot be written: ")
        assert sorted(os.listdir(tmp_path)) == ["00000003", "told"]
        again = fresh("adam", 1)
        checkpoint.load(tmp_path / "00000003", again)
        assert_same(again, trained)


FORK = torch.multiprocessing.get_context("fork")  # nothing here differentiates, so CUDA does not mind


def save_on_and_on(folder: Path, state: checkpoint.TrainState) -> None:
    while True:
        move(state)
        checkpoint.save(folder / f"{state.progress.step:08d}", state, {})
        checkpoint.prune(folder, state.progress.step, 2)


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

    FILES = [
        checkpoint.GENERATOR,
        checkpoint.GENERATOR_EMA,
        checkpoint.CRITIC,
        "state.safetensors",
        "state.json",
        "manifest.json",
    ]

    def refused(self, folder, kind: str = "adam") -> str:
        with pytest.raises(UserError) as caught:
            checkpoint.load(folder, fresh(kind, 1))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_checkpoint_has_these_files(self, folder):
        assert sorted(os.listdir(folder)) == sorted(self.FILES)

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("content", ["missing", "half", "empty", "noise", "one bit", "longer"])
    def test_a_file_that_is_damaged_is_named(self, folder, name, content):
        checkpoint.verify(folder)
        data = (folder / name).read_bytes()
        flipped = (
            bytes([data[0], data[1] ^ 1]) + data[2:] if name == "manifest.json" else data[:-1] + bytes([data[-1] ^ 1])
        )
        contents = {"half": data[: len(data) // 2], "empty": b"", "noise": b"\x93" * len(data), "one bit": flipped}
        (folder / name).unlink()
        if content != "missing":
            (folder / name).write_bytes(contents.get(content, data + b"x"))
        with pytest.raises(checkpoint.Damaged) as caught:
            checkpoint.verify(folder)
        assert str(folder) in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", FILES[:-1])
    def test_loading_without_verifying_names_what_is_missing_too(self, folder, name):
        (folder / name).unlink()
        assert str(folder / name) in self.refused(folder)

    def test_weights_of_another_network_are_named(self, folder):
        shutil.copy(folder / checkpoint.CRITIC, folder / checkpoint.GENERATOR)
        assert f"{folder / checkpoint.GENERATOR}: does not fit the network of the config" in self.refused(folder)

    @pytest.mark.parametrize(
        "content", ["[]", "3", "{}", '{"progress": {}}', '{"progress": {"epoch": 3}, "scalers": null}']
    )
    def test_a_state_of_another_program_is_named(self, folder, content):
        (folder / "state.json").write_text(content)
        assert "state.json" in self.refused(folder)

    def test_what_a_newer_version_knows_is_not_forgotten(self, folder):
        record = json.loads((folder / "state.json").read_text())
        record["progress"]["temperature"] = 3
        (folder / "state.json").write_text(json.dumps(record))
        told = self.refused(folder)
        assert "state.json: a newer version of distgan wrote it (with temperature)" in told and "remove" not in told

    def test_the_state_of_another_optimizer_is_named(self, folder):
        """Only --allow-config-change leads here; the first step would end in a KeyError."""
        assert "state.safetensors" in self.refused(folder, "rmsprop")

    def test_progress_is_plain_json(self, folder):
        record = json.loads((folder / "state.json").read_text())
        assert record["progress"]["step"] == 3 and record["scalers"] == {}


class TestNewest:
    @pytest.fixture
    def folder(self, tmp_path, trained):
        for step in (3, 9, 10, 200):
            trained.progress.step = step
            checkpoint.save(tmp_path / f"{step:08d}", trained, {})
        (tmp_path / ".00000300.part").mkdir()
        (tmp_path / "notes").mkdir()
        (tmp_path / "00000400").write_text("a file, no checkpoint")
        return tmp_path

    def test_it_is_that_of_the_highest_step(self, folder, tmp_path):
        assert checkpoint.newest_complete(folder).name == "00000200"
        assert checkpoint.steps_in(folder) == [3, 9, 10, 200]
        assert checkpoint.newest_complete(tmp_path / "nowhere") is None

    def test_damaged_ones_are_named_and_passed_over(self, folder):
        (folder / "00000200" / "critic.safetensors").write_bytes(b"")
        (folder / "00000010" / "manifest.json").unlink()
        told = []
        assert checkpoint.newest_complete(folder, told.append).name == "00000009"
        assert len(told) == 2 and "00000200/critic.safetensors: damaged: 0 bytes" in told[0]
        assert "00000010: incomplete" in told[1] and all(line.endswith("; using 00000009") for line in told)

    def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(self, folder):
        for path in folder.glob("0*/state.json"):
            path.write_text("{}")
        with pytest.raises(UserError, match="no checkpoint in .* is whole") as caught:
            checkpoint.newest_complete(folder)
        assert len(str(caught.value).splitlines()) == 5

    def test_one_of_a_later_version_is_not_taken_for_damaged(self, folder, monkeypatch):
        monkeypatch.setattr(manifest, "_FORMAT", 2)
        checkpoint.seal(folder / "00000200", 200)
        monkeypatch.undo()
        with pytest.raises(UserError, match="newer version"):
            checkpoint.newest_complete(folder)

    def test_whatever_bit_of_a_manifest_is_flipped_it_is_damaged(self, folder):
        path = folder / "00000200" / "manifest.json"
        whole = path.read_bytes()
        for place in range(0, len(whole), 3):
            flipped = whole[place] ^ 1 << place % 8
            path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
            assert checkpoint.newest_complete(folder).name == "00000010", (place, flipped)

    @pytest.mark.parametrize("content", ["[]", "3", "{}", '{"format": 1, "step": 200, "files": {}}'])
    def test_a_manifest_that_says_nothing_is_damaged(self, folder, content):
        (folder / "00000200" / "manifest.json").write_text(content)
        assert checkpoint.newest_complete(folder).name == "00000010"

    @pytest.mark.parametrize("times", [1, 100])
    def test_what_a_disk_does_not_let_us_read_is_not_taken_for_damaged(self, folder, monkeypatch, times):
        """It is tried again, and nothing older is used: the next checkpoint would have the newer ones removed."""
        failures, read = [OSError(errno.ESTALE, "Stale file handle")] * times, manifest.sha256_of

        def failing(path):
            if failures and path == folder / "00000200" / "critic.safetensors":
                raise failures.pop()
            return read(path)

        monkeypatch.setattr(manifest, "PAUSES", (0.0, 0.0))
        monkeypatch.setattr(manifest, "sha256_of", failing)
        if times == 1:
            assert checkpoint.newest_complete(folder).name == "00000200"
            return
        with pytest.raises(UserError, match="critic.safetensors: cannot be read: Stale file handle; it may be whole"):
            checkpoint.newest_complete(folder)
        assert len(failures) == 97

    def test_weights_alone_are_taken(self, folder, trained):
        state = fresh("adam", 1)
        assert checkpoint.load_weights(folder / "00000010", state).startswith(f"{folder / '00000010'} ")
        assert state.progress == checkpoint.Progress() and not state.optimizers["critic"].state
        wanted = trained.networks[checkpoint.CRITIC].state_dict()
        assert all(torch.equal(t, wanted[k]) for k, t in state.networks[checkpoint.CRITIC].state_dict().items())


def test_networks_that_share_weights_are_written_apart(tmp_path):
    linear = nn.Linear(2, 2)
    state = checkpoint.TrainState({"a": linear, "b": linear}, {}, checkpoint.Progress())
    checkpoint.save(tmp_path / "1", state, {"same": linear.weight.T})
    extra = checkpoint.load(tmp_path / "1", state)
    assert torch.equal(extra["same"], linear.weight.T)
