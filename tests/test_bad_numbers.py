"""Losses and gradients that are not finite: planted on one process, they are seen by all and applied by none."""

from __future__ import annotations

import json
import math
import shutil
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from forked import in_processes
from launching import TINY, assert_same_weights, lines, train, without_machine, worst_difference
from planting import Outcome, Plant, run
from safetensors.torch import load_file
from torch import Tensor

from distgan import randomness
from distgan.bad_numbers import MOST_IN_A_ROW, BadUpdate, Guard, Update
from distgan.checkpoint import seal
from distgan.errors import Diverged

SMALL = ["generator={name: mlp, latent: 8, width: 16, norm: batch}", "critic={name: mlp, width: 16}"]
LAYERED = ["generator={name: mlp, latent: 8, width: 16, norm: layer}", "critic={name: mlp, width: 16}"]
SELDOM = ["tracking.every=4 steps", "checkpoint.every=3 steps"]
NO_LINES = "tracking.every=1000 steps"
EACH, EACH_FOURTH = "checkpoint.every=1 steps", "checkpoint.every=4 steps"


def run_strictly(rank: int, *args) -> Outcome:
    """As `run`, and the processes must be at one about what they exchange, its dtype too."""
    dist.set_debug_level(dist.DebugLevel.DETAIL)
    return run(rank, *args)


def evidence(folder: Path, name: str) -> tuple[dict, dict[str, Tensor]]:
    return json.loads((folder / name / "report.json").read_text()), load_file(folder / name / "draws.safetensors")


class TestStop:
    @pytest.mark.parametrize(
        ("processes", "plant", "settings", "lagged"),
        [
            (1, Plant("critic", (4,), 1, 0, "infinite loss"), [*SMALL, EACH], None),
            (2, Plant("critic", (4,), 0, 1, "nan loss", micro=0), [*LAYERED, "train.micro_batch=4", EACH], None),
            (2, Plant("generator", (4,), 0, 1, "gradient"), ["train.precision=bf16", EACH], None),
            (2, Plant("critic", (4,), 1, 0, "infinite loss"), [*SMALL, EACH_FOURTH, NO_LINES], True),
            (1, Plant("generator", (4,), 0, 0, "gradient"), [*SMALL, EACH, NO_LINES], True),
        ],
    )
    def test_no_process_goes_on_and_nothing_is_applied(
        self, shapes_shards, tmp_path, processes, plant, settings, lagged
    ):
        folder = tmp_path / "run"
        settings = ["train.length=8 steps", "checkpoint.keep=9", *settings]
        told = in_processes(processes, tmp_path, run, shapes_shards, folder, settings, [plant], lagged)
        assert len({outcome.status for outcome in told}) == 1
        name = f"00000004-{plant.phase}-{plant.repeat + 1}"
        what = "its gradient, or the square of it," if plant.kind == "gradient" else "its loss"
        where = "" if plant.kind == "gradient" else f" on process {plant.rank}"
        message = told[0].status
        assert (
            f"after step 4, in update {plant.repeat + 1} of the {plant.phase}: {what} is not finite{where};" in message
        )
        assert f"{folder / 'bad_numbers' / name} has what is needed" in message
        assert "The newest checkpoint, of step 4," in message and "train.bad_numbers=skip or rollback" in message
        assert (folder / "status").read_text() == "failed\n"
        kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
        assert kept == ([f"{step:08d}" for step in range(1, 5)] if EACH in settings else ["00000004"])
        if EACH_FOURTH in settings:
            assert len(told[0].reals) == 2 * 6, "it ends with the step after"
        if plant.phase == "critic" and plant.repeat == 0:  # nothing has been applied since the checkpoint
            for network in ("critic", "generator"):
                files = [
                    folder / part / f"{network}.safetensors" for part in ("checkpoints/00000004", f"bad_numbers/{name}")
                ]
                torch.testing.assert_close(load_file(files[1]), load_file(files[0]), rtol=0, atol=0)

    def test_in_a_step_that_lags_the_weights_stay_those_before_the_bad_update(self, shapes_shards, tmp_path):
        settings, kept = ["train.length=8 steps", *SMALL], []
        for lagged in (True, False):
            folder, plants = tmp_path / str(lagged), [Plant("critic", (4,), 1, 0, "nan loss")]
            in_processes(1, folder, run, shapes_shards, folder / "run", settings, plants, lagged)
            found = folder / "run" / "bad_numbers" / "00000004-critic-2"
            kept.append({name: load_file(found / f"{name}.safetensors") for name in ("critic", "generator")})
        for name in ("critic", "generator"):
            one, other = (
                {k: v for k, v in kept[i][name].items() if "running" not in k and "num_" not in k} for i in (0, 1)
            )
            assert one
            torch.testing.assert_close(one, other, rtol=0, atol=0)

    @pytest.mark.parametrize("phase", ["critic", "generator"])
    def test_the_evidence_is_what_the_update_was_made_of(self, shapes_shards, tmp_path, phase):
        settings = ["train.length=8 steps", "data.classes=4", "data.partitions=2", "augment.strength=0.25", *SMALL]
        plant = Plant(phase, (2,), 0, 1, "gradient")
        told = in_processes(2, tmp_path, run, shapes_shards, tmp_path / "run", settings, [plant])
        report, draws = evidence(tmp_path / "run" / "bad_numbers", f"00000002-{phase}-1")
        batch = 2 * 2 + (1 if phase == "generator" else 0)  # of the stream: two of each step, one an update
        assert (report["step"], report["phase"], report["update"], report["seed"]) == (2, phase, 1, 0)
        assert report["position"] == batch * 16 and report["learning_rate"] == 1e-4 and report["rollbacks"] == 0
        assert report["augmentation_strength"] == 0.25
        assert all(math.isfinite(loss) for loss in report["loss_of_each_process"])
        assert len(report["loss_of_each_process"]) == 2
        (broken,) = report["gradient"]
        assert broken["not_finite"] == 1 and broken["entries"] > 100 and broken["parameter"].endswith("weight")
        keys = randomness.image_keys(randomness.key(0, phase, 2, 0), torch.arange(16))
        assert torch.equal(draws["key"], keys)
        assert torch.equal(draws["latent"], randomness.normal(keys, "latent", (8,)))
        if phase == "critic":
            assert torch.equal(draws["epsilon"], randomness.uniform(keys, "epsilon"))
        real = torch.cat([outcome.reals[batch] for outcome in told])
        pixels = torch.where(draws["flip"][:, None, None, None], real.flip(-1), real)
        pixels = ((pixels + 1) * 127.5).round().to(torch.uint8)
        named = [_picture(entry) for entry in report["pictures"]]
        assert torch.equal(pixels, torch.stack([picture for picture, _ in named]))
        assert draws["label"].tolist() == [label for _, label in named]

    def test_a_launched_run_says_it_once_and_ends_with_1(self, shapes_shards, tmp_path):
        wild = [*SMALL, "critic.optimizer.lr=1e30", "checkpoint.every=1 steps"]
        folder = tmp_path / "run"
        done = train(
            "--config", TINY, f"data.shards={shapes_shards}", f"run_dir={folder}", *wild, processes=2, check=False
        )
        assert done.returncode == 1 and (folder / "status").read_text() == "failed\n"
        (told,) = [line for line in done.stderr.splitlines() if line.startswith("distgan:") and "finite" in line]
        (kept,) = (folder / "bad_numbers").iterdir()
        assert f"{kept} has what is needed" in told

    def test_moments_that_are_not_finite_are_not_kept(self, shapes_shards, tmp_path):
        plant = Plant("generator", (3,), 0, 0, "moments")
        settings = ["train.length=8 steps", EACH, *SMALL]
        (told,) = in_processes(1, tmp_path, run, shapes_shards, tmp_path / "run", settings, [plant])
        assert "step 4: moments of the generator's optimizer are not finite; the run has diverged" in told.status
        assert max(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == "00000003"

    def test_evidence_that_cannot_be_written_is_said_and_keeps_nobody_waiting(self, shapes_shards, tmp_path):
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "bad_numbers").write_text("no folder")
        plant = Plant("critic", (1,), 0, 1, "nan loss")
        told = in_processes(2, tmp_path, run_strictly, shapes_shards, folder, SMALL, [plant])
        assert "could not be written to" in told[0].status and "Not a directory" in told[0].status
        assert "There is no checkpoint to go back to" in told[1].status


def _picture(entry: dict) -> tuple[Tensor, int]:
    """Pixels uint8 [3, H, W] and label of a picture that a report names, by its number and by its name."""
    with tarfile.open(entry["shard"]) as archive:
        members = archive.getnames()
        (extension,) = {name.split(".")[1] for name in members} - {"cls"}
        numbered = [name for name in members if name.endswith(extension)][entry["number"]]
        assert numbered == entry["member"]
        data = archive.extractfile(numbered).read()
        label = int(archive.extractfile(f"{numbered.split('.')[0]}.cls").read())
    return torch.from_numpy(np.load(BytesIO(data))).permute(2, 0, 1), label


class TestSkip:
    SETTINGS = ["train.bad_numbers=skip", "train.length=8 steps", "train.precision=fp64"]

    def test_the_update_is_skipped_on_all_processes_and_counted(self, shapes_shards, tmp_path):
        """The curve is that of one process, and no line knows of the bad numbers."""
        for processes in (1, 2):
            last = processes - 1
            plants = [
                Plant("critic", (2,), 1, last, "infinite loss"),
                Plant("critic", (5,), 0, last, "nan loss"),
                Plant("generator", (5,), 0, last, "gradient"),
            ]
            folder = tmp_path / str(processes)
            told = in_processes(processes, folder, run, shapes_shards, folder / "run", [*self.SETTINGS, *SMALL], plants)
            assert [outcome.status for outcome in told] == ["finished"] * processes
        one, two = (without_machine(tmp_path / str(processes) / "run") for processes in (1, 2))
        assert [line.keys() for line in one] == [line.keys() for line in two]
        assert worst_difference(tmp_path / "1" / "run", tmp_path / "2" / "run") < 1e-9
        assert [line["critic/skipped_updates"] for line in one] == [0, 0, 1, 1, 1, 2, 2, 2]
        assert [line["generator/skipped_updates"] for line in one] == [0, 0, 0, 0, 0, 1, 1, 1]
        assert all(value is not None for line in one for value in line.values())
        assert "generator/loss" not in one[5] and "generator/loss" in one[6], "its only update was skipped"

    def test_a_device_that_is_not_waited_for_skips_the_same(self, shapes_shards, tmp_path):
        plants = [Plant("critic", (1, 2), 1, 1, "nan loss", micro=1), Plant("generator", (3,), 0, 0, "infinite loss")]
        settings = ["train.bad_numbers=skip", "train.length=6 steps", "train.precision=bf16", *LAYERED]
        settings.append("train.micro_batch=4")
        for lagged in (True, False):
            folder = tmp_path / str(lagged)
            in_processes(2, folder, run, shapes_shards, folder / "run", settings, plants, lagged)
        assert_same_weights(tmp_path / "True" / "run", tmp_path / "False" / "run", 6)
        assert without_machine(tmp_path / "True" / "run") == without_machine(tmp_path / "False" / "run")
        assert lines(tmp_path / "True" / "run")[-1]["critic/skipped_updates"] == 2

    def test_a_new_start_goes_on_counting_those_in_a_row(self, shapes_shards, tmp_path):
        plants, told = [Plant("generator", tuple(range(1, 40)), 0, 0, "nan loss")], []
        for length in (11, 21, 40):
            settings = ["train.bad_numbers=skip", f"train.length={length} steps", "checkpoint.every=5 steps", *SMALL]
            folder = tmp_path / str(length)
            told += in_processes(1, folder, run, shapes_shards, tmp_path / "run", settings, plants, True)
        assert [outcome.status for outcome in told[:2]] == ["finished"] * 2
        assert "after step 21, in update 1 of the generator: more than 20 updates" in told[2].status


class TestRollback:
    SETTINGS = ["train.bad_numbers=rollback", *SELDOM, "samples.every=2 steps", *SMALL]

    @pytest.mark.parametrize(
        ("processes", "lagged", "more"),
        [
            (1, None, []),
            (2, True, []),
            (
                1,
                None,
                [
                    "augment={strength: adaptive, every: 2, speed: 1, target: 0.01}",
                    "objective={loss: hinge, penalty: r1}",
                ],
            ),
        ],
    )
    def test_it_is_a_start_from_the_newest_checkpoint_with_other_noise(
        self, shapes_shards, tmp_path, processes, lagged, more, capfd
    ):
        plants = [Plant("critic", (8,), 1, processes - 1, "infinite loss")]
        until = {steps: [*self._until(steps), *more] for steps in (6, 10)}
        told = in_processes(
            processes, tmp_path / "a", run, shapes_shards, tmp_path / "rolled", until[10], plants, lagged
        )
        assert [(outcome.status, outcome.rollbacks) for outcome in told] == [("finished", 1)] * processes
        (said,) = [line for line in capfd.readouterr().err.splitlines() if "rollback" in line]
        assert said.endswith("it was not applied; rollback 1 of 3, to step 6") and "after step 8" in said
        other = tmp_path / "fresh"
        in_processes(processes, tmp_path / "b", run, shapes_shards, other, until[6], [], lagged)
        _count_a_rollback(other / "checkpoints" / "00000006" / "state.json")
        in_processes(processes, tmp_path / "c", run, shapes_shards, other, until[10], [], lagged)
        assert_same_weights(tmp_path / "rolled", other, 10)
        if more:
            assert 0 < lines(other)[-1]["augment/strength"] < 1
        assert without_machine(tmp_path / "rolled") == without_machine(other)
        assert [line["step"] for line in lines(other)] == [4, 8, 10]
        grids = [
            {path.name: path.read_bytes() for path in (run / "samples").glob("0*.png")}
            for run in (tmp_path / "rolled", other)
        ]
        assert len(grids[0]) == 6 and grids[0] == grids[1]

    def test_every_step_has_its_line_once(self, shapes_shards, tmp_path):
        plants = [Plant("generator", (5,), 0, 0, "gradient")]
        settings = [*self._until(5), "tracking.every=1 steps", "samples.every=1 steps", "train.rollbacks=1"]
        settings[settings.index("train.length=5 steps")] = "train.length=6 steps"
        (told,) = in_processes(1, tmp_path, run, shapes_shards, tmp_path / "run", settings, plants)
        found = lines(tmp_path / "run")
        assert told.rollbacks == 1 and [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
        seconds = [line["seconds"] for line in found]
        assert seconds == sorted(seconds)

    def test_the_curve_is_the_same_on_one_process_and_on_two_and_after_a_new_start(self, shapes_shards, tmp_path):
        for processes in (1, 2):
            plants = [Plant("critic", (4,), 1, processes - 1, "nan loss"), Plant("critic", (7,), 0, 0, "nan loss", 1)]
            for length in (10,) if processes == 1 else (9, 10):  # on two: a new start, one step before the end
                folder = tmp_path / str(processes)
                settings = ["train.precision=fp64", *self._until(length)]
                told = in_processes(
                    processes, folder / str(length), run, shapes_shards, folder / "run", settings, plants
                )
                assert told[0][:2] == ("finished", 2)
        one, two = (without_machine(tmp_path / str(processes) / "run") for processes in (1, 2))
        assert [line.keys() for line in one] == [line.keys() for line in two]
        assert worst_difference(tmp_path / "1" / "run", tmp_path / "2" / "run") < 1e-9

    def test_bad_pictures_stay_counted(self, shapes_shards, tmp_path):
        spoiled = tmp_path / "shards"
        shutil.copytree(shapes_shards, spoiled)
        for shard in sorted(spoiled.glob("*.tar")):
            data = bytearray(shard.read_bytes())
            data[4000] ^= 255
            shard.write_bytes(data)
        settings = [*self._until(10), "tracking.every=1 steps", "data.bad_pictures=replace", "data.tier=stream"]
        plants = [Plant("critic", (8,), 0, 0, "nan loss")]
        (told,) = in_processes(1, tmp_path, run, spoiled, tmp_path / "run", settings, plants)
        assert told[:2] == ("finished", 1)
        counted = {line["step"]: line["data/replaced_pictures"] for line in lines(tmp_path / "run")}
        assert [counted[step] for step in (6, 7, 10)] == [4, 4, 4]  # step 7 by the stream from step 6 on

    def test_no_more_rollbacks_than_are_allowed(self, shapes_shards, tmp_path):
        plants = [Plant("critic", (4,), 0, 0, "nan loss", rollbacks=-1)]
        settings = [*self._until(10), "train.rollbacks=2"]
        (told,) = in_processes(1, tmp_path, run, shapes_shards, tmp_path / "run", settings, plants)
        assert told.rollbacks == 2 and "train.rollbacks 2 are used up" in told.status
        report, draws = evidence(tmp_path / "run" / "bad_numbers", "00000004-critic-1")
        assert report["rollbacks"] == 2
        again = randomness.image_keys(randomness.key(0, "critic", 4, 0, "rollback", 2), torch.arange(16))
        assert torch.equal(draws["key"], again)

    def test_killed_starts_do_not_forget_how_many_were_made_and_take_the_same_curve(self, shapes_shards, tmp_path):
        killed, calm = tmp_path / "killed", tmp_path / "calm"
        settings = ["train.rollbacks=2", *self._until(10)]

        def start(name: str, folder: Path, plants: list[Plant]) -> Outcome:
            (told,) = in_processes(1, tmp_path / name, run, shapes_shards, folder, settings, plants)
            return told

        once = Plant("critic", (4,), 0, 0, "nan loss")
        for number in (1, 2):  # starts that roll back and end before a checkpoint says so
            assert start(f"killed {number}", killed, [once, once._replace(kind="moments", rollbacks=1)]).rollbacks == 1
            assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == ["00000003"]
        told = start("stopped", killed, [once])
        assert told.rollbacks == 0 and "train.rollbacks 2 are used up" in told.status
        settings[0] = "train.rollbacks=3"
        for folder in (killed, calm):
            assert start(f"last {folder.name}", folder, [once])[:2] == ("finished", 1)
        assert_same_weights(killed, calm, 10)
        shutil.rmtree(calm / "checkpoints")  # begun anew, in the same folder
        settings[0] = "train.rollbacks=1"
        assert start("anew", calm, [once])[:2] == ("finished", 1)

    @staticmethod
    def _until(steps: int) -> list[str]:
        return [f"train.length={steps} steps", *TestRollback.SETTINGS]


def _count_a_rollback(state: Path) -> None:
    record = json.loads(state.read_text())
    assert record["progress"]["rollbacks"] == 0
    record["progress"]["rollbacks"] = 1
    state.write_text(json.dumps(record))
    seal(state.parent, record["progress"]["step"])


def test_fp16_skips_by_itself(shapes_shards, tmp_path):
    plant = Plant("critic", (4,), 0, 1, "nan loss")
    settings = ["train.precision=fp16", "train.length=6 steps", *SMALL]
    told = in_processes(2, tmp_path, run, shapes_shards, tmp_path / "run", settings, [plant])
    assert [outcome.status for outcome in told] == ["finished"] * 2
    assert not (tmp_path / "run" / "bad_numbers").exists()
    found = lines(tmp_path / "run")
    assert found[4]["critic/skipped_updates"] == found[3]["critic/skipped_updates"] + 1


class TestGuard:
    UPDATE = Update("critic", 3, 1, 0, 1e-4, None, [(torch.tensor(0.0), 1.0)])

    @staticmethod
    def optimizer(entries: list[float]) -> torch.optim.Optimizer:
        """Of two weights, with these gradients of the second."""
        parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(len(entries)))]
        parameters[0].grad, parameters[1].grad = torch.ones(3), torch.tensor(entries)
        return torch.optim.Adam(parameters, fused=True)

    @pytest.mark.parametrize("lagged", [False, True])
    @pytest.mark.parametrize("name", ["Adam", "RMSprop"])
    def test_a_finite_gradient_that_would_hold_a_weight_for_ever_is_not_applied(self, name, lagged):
        weight = torch.nn.Parameter(torch.zeros(3))
        optimizer = getattr(torch.optim, name)([weight], **({"fused": True} if name == "Adam" else {}))
        guard = Guard("skip", torch.device("cpu"), lagged=lagged)
        for largest in (1e24, 1.0, 1e18):
            weight.grad, before = torch.tensor([1.0, -largest, 1e-45]), weight.detach().clone()
            assert bool(guard.step(optimizer, self.UPDATE)) == (largest == 1e24)
            guard.end_step()
        assert weight[1] > before[1], "it still moves"
        assert all(tensor.isfinite().all() for tensor in optimizer.state[weight].values())

    @pytest.mark.parametrize("lagged", [False, True])
    def test_large_is_not_infinite(self, lagged):
        optimizer, guard = self.optimizer([1e18, -1e19, 1e-45]), Guard("stop", torch.device("cpu"), lagged=lagged)
        guard.step(optimizer, self.UPDATE)
        guard.look()
        assert [int(fields["step"]) for fields in optimizer.state.values()] == [1, 1]
        assert optimizer.param_groups[0]["params"][0].all()

    @pytest.mark.parametrize("lagged", [False, True])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_one_entry_is_enough(self, lagged, value):
        optimizer, guard = self.optimizer([1.0] * 100 + [value]), Guard("stop", torch.device("cpu"), lagged=lagged)
        with pytest.raises(BadUpdate, match="after step 3, in update 1 of the critic"):
            guard.step(optimizer, self.UPDATE)
            guard.end_step()
            assert lagged, "the host knew at once"
            self._try_a_good_one(optimizer, guard)
            guard.end_step()
        assert not any(parameter.any() for parameter in optimizer.param_groups[0]["params"])

    def _try_a_good_one(self, optimizer: torch.optim.Optimizer, guard: Guard) -> None:
        optimizer.param_groups[0]["params"][1].grad.fill_(1.0)
        guard.step(optimizer, self.UPDATE._replace(step=4))

    def test_an_optimiser_that_cannot_look_itself_is_waited_for(self):
        parameter = torch.nn.Parameter(torch.zeros(3))
        parameter.grad = torch.full((3,), math.nan)
        optimizer, guard = torch.optim.RMSprop([parameter]), Guard("stop", torch.device("cpu"), lagged=True)
        with pytest.raises(BadUpdate):
            guard.step(optimizer, self.UPDATE)
        assert not parameter.any()

    @pytest.mark.parametrize("lagged", [False, True])
    def test_a_network_that_skips_for_good_is_of_no_use(self, lagged):
        optimizer, guard = self.optimizer([math.nan]), Guard("skip", torch.device("cpu"), lagged=lagged)
        other = self.optimizer([1.0])

        def steps(first: int, count: int) -> None:
            for step in range(first, first + count):
                assert guard.step(optimizer, self.UPDATE._replace(step=step))
                assert not guard.step(other, self.UPDATE._replace(phase="generator"))
                guard.end_step()

        steps(0, MOST_IN_A_ROW)
        optimizer.param_groups[0]["params"][1].grad.fill_(1.0)
        assert not guard.step(optimizer, self.UPDATE)
        optimizer.param_groups[0]["params"][1].grad.fill_(math.nan)
        steps(100, MOST_IN_A_ROW)
        guard.look()
        with pytest.raises(Diverged, match="after step 120, in update 1 of the critic: more than 20 updates"):
            steps(100 + MOST_IN_A_ROW, 2)
