from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.config import Config, dump_config, load_config, process_conflicts, read_config, reference
from distgan.config.keys import known_keys, nearest_key
from distgan.config.loading import merge, validate
from distgan.errors import ConfigError

TREE = {
    "run_dir": "runs/x",
    "data": {"shards": "x", "resolution": 32},
    "train": {"length": "10 steps"},
    "generator": {"name": "mlp"},
    "critic": {"name": "mlp"},
}
GROUPED = {"name": "dcgan", "minibatch_std": 4}


def config(**sections: object) -> Config:
    return validate(merge(TREE, sections))


def mistakes(tree: dict) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validate(merge(TREE, tree))
    return str(caught.value).splitlines()


@pytest.fixture
def write(tmp_path):
    def call(name: str, text: str):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        return path

    return call


@pytest.fixture
def base(write):
    return write("base.yaml", dump_config(config()))


class TestFiles:
    def test_later_files_win_over_earlier_ones_and_overrides_over_all(self, base, write):
        other = write("other.yaml", "seed: 1\ntrain: {batch_size: 8, critic_steps: 2}")
        loaded = load_config([base, other], ["train.batch_size=16", "seed=2", "seed=3"])
        assert (loaded.seed, loaded.train.batch_size, loaded.train.critic_steps) == (3, 16, 2)

    def test_a_file_lies_on_its_parents_in_their_order(self, base, write):
        write("shared/a.yaml", "extends: ../base.yaml\nseed: 1\ntrain: {batch_size: 8}")
        write("shared/b.yaml", "seed: 2\nobjective: {weight: 3}")
        child = write("child.yaml", "extends: [shared/a.yaml, shared/b.yaml]\nobjective: {drift: 0.5}")
        loaded = load_config([child])
        assert (loaded.seed, loaded.train.batch_size) == (2, 8)
        assert (loaded.objective.weight, loaded.objective.drift) == (3, 0.5)

    def test_a_grandparent_may_be_reached_twice(self, base, write):
        write("a.yaml", "extends: base.yaml\nseed: 5")
        write("b.yaml", "extends: base.yaml\ndata: {flip: true}")
        assert load_config([write("c.yaml", "extends: [a.yaml, b.yaml]")]).data.flip

    @pytest.mark.parametrize("text", ["extends: a.yaml", "extends: b.yaml"])
    def test_a_circle_is_refused(self, write, text):
        write("b.yaml", "extends: a.yaml")
        with pytest.raises(ConfigError, match=r"a.yaml: extends itself through a.yaml"):
            load_config([write("a.yaml", text)])

    def test_a_parent_that_is_missing_is_named(self, write):
        with pytest.raises(ConfigError, match="nowhere.yaml: cannot be read"):
            load_config([write("a.yaml", "extends: nowhere.yaml")])

    @pytest.mark.parametrize("value", ["3", "[1]", "{a: b}"])
    def test_a_parent_is_a_file_name(self, write, value):
        with pytest.raises(ConfigError, match="a.yaml: extends: .* must be a file name or a list"):
            load_config([write("a.yaml", f"extends: {value}")])

    def test_no_file_at_all_is_refused_with_an_example(self):
        with pytest.raises(ConfigError, match="--config configs/quickstart.yaml"):
            load_config([])


class TestMerging:
    def test_sections_are_merged_and_lists_replaced(self):
        one = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
        assert merge(one, {"a": {"c": [3]}, "e": 2}) == {"a": {"b": 1, "c": [3]}, "d": 1, "e": 2}
        assert one == {"a": {"b": 1, "c": [1, 2]}, "d": 1}

    def test_a_network_of_another_name_starts_afresh(self):
        old = {"name": "dcgan", "upsample": "nearest", "optimizer": {"lr": 1e-3}}
        assert merge({"generator": old}, {"generator": {"name": "mlp", "width": 8}})["generator"] == {
            "name": "mlp",
            "width": 8,
        }
        assert merge({"generator": old}, {"generator": {"name": "dcgan", "width": 8}})["generator"] == {
            **old,
            "width": 8,
        }
        assert merge({"generator": old}, {"generator": {"width": 8}})["generator"] == {**old, "width": 8}

    def test_an_optimizer_of_another_name_starts_afresh_and_is_adam_unless_named(self):
        base = {"critic": {"name": "mlp", "optimizer": {"betas": [0.5, 0.9], "lr": 1}}}
        renamed = merge(base, {"critic": {"optimizer": {"name": "rmsprop", "alpha": 0.9}}})
        assert renamed["critic"]["optimizer"] == {"name": "rmsprop", "alpha": 0.9}
        kept = merge(base, {"critic": {"optimizer": {"name": "adam", "lr": 2}}})
        assert kept["critic"]["optimizer"] == {"betas": [0.5, 0.9], "lr": 2, "name": "adam"}

    def test_a_network_that_gets_its_first_name_keeps_its_settings(self):
        shared = {"generator": {"optimizer": {"lr": 1e-3}}}
        assert merge(shared, {"generator": {"name": "mlp"}})["generator"] == {"name": "mlp", "optimizer": {"lr": 1e-3}}

    @given(
        st.dictionaries(st.sampled_from("abc"), st.integers() | st.dictionaries(st.sampled_from("de"), st.integers()))
    )
    def test_merging_with_nothing_or_with_itself_changes_nothing(self, tree):
        assert merge(tree, {}) == merge({}, tree) == merge(tree, tree) == tree


class TestOverrides:
    def test_values_are_yaml(self, base):
        given = ["tracking.wandb.mode=off", "critic.optimizer.lr=1e-3", "data.shards=[a, b]", "train.length=2 kimg"]
        loaded = load_config([base], [*given, "tracking.wandb.group=a=b", "train.micro_batch="])
        assert (loaded.tracking.wandb.mode, loaded.critic.optimizer.lr) == ("off", 1e-3)
        assert (loaded.data.shards, str(loaded.train.length)) == (["a", "b"], "2 kimg")
        assert (loaded.tracking.wandb.group, loaded.train.micro_batch) == ("a=b", None)

    @pytest.mark.parametrize("text", ["seed", "=3", ".seed=3", "train..length=3", "train.=3"])
    def test_what_is_no_override_is_shown_with_an_example(self, base, text):
        with pytest.raises(ConfigError, match="is not an override: write key.path=value"):
            load_config([base], [text])

    def test_a_value_that_is_no_yaml_is_named(self, base):
        with pytest.raises(ConfigError, match="override data.shards line 1: not valid YAML"):
            load_config([base], ["data.shards=[a"])

    def test_a_section_may_be_given_whole(self, base):
        assert load_config([base], ["critic={name: dcgan, width: 4}"]).critic.width == 4


class TestMistakes:
    def test_all_are_told_at_once(self):
        told = mistakes(
            {
                "sed": 1,
                "train": {"batch_sise": 3, "length": "soon", "precision": "fp8", "compile": "perhaps"},
                "critic": {"width": 0, "optimizer": {"betas": [0, 1.5]}},
                "data": {"resolution": "32", "channels": 2},
            }
        )
        assert sorted(line.partition(":")[0] for line in told) == [
            "critic.optimizer.betas.1",
            "critic.width",
            "data.channels",
            "data.resolution",
            "sed",
            "train.batch_sise",
            "train.compile",
            "train.length",
            "train.precision",
        ]

    @pytest.mark.parametrize(
        ("tree", "line"),
        [
            (
                {"train": {"batch_sise": 3}},
                "train.batch_sise: 3 is set, but there is no such key; nearest: train.batch_size",
            ),
            ({"batch_size": 3}, "batch_size: 3 is set, but there is no such key; nearest: train.batch_size"),
            ({1: 1}, "1: 1 is set, but there is no such key"),
            ({"train": {"batch_size": 0}}, "train.batch_size: 0 is not allowed; must be greater than or equal to 1"),
            ({"train": {"batch_size": 2.0}}, "train.batch_size: 2.0 is not allowed; must be a whole number"),
            ({"seed": True}, "seed: True is not allowed; must be a whole number"),
            ({"data": {"flip": "off"}}, "data.flip: 'off' is not allowed; must be true or false"),
            ({"train": {"compile": "off"}}, "train.compile: 'off' is not allowed; must be true or false or 'auto'"),
            ({"data": {"shards": 3}}, "data.shards: 3 is not allowed; must be text or a list"),
            ({"data": {"channels": 2}}, "data.channels: 2 is not allowed; must be 1 or 3"),
            (
                {"objective": {"penalty": "wgan-gp"}},
                "objective.penalty: 'wgan-gp' is not allowed; must be 'gp', 'lp', 'r1', 'r2', 'r1r2', 'clip' or 'none'",
            ),
            (
                {"critic": {"name": "unet"}},
                "critic.name: 'unet' is not known; allowed: mlp, dcgan, resnet, progressive",
            ),
            (
                {"critic": {"optimizer": {"name": "sgd"}}},
                "critic.optimizer.name: 'sgd' is not known; allowed: adam, rmsprop",
            ),
            (
                {"critic": {"optimizer": {"name": "rmsprop", "betas": [0, 0.9]}}},
                "critic.optimizer.betas: [0, 0.9] is set, but there is no such key for this critic.optimizer.name",
            ),
            (
                {"critic": {"optimizer": {"betas": [0, 1]}}},
                "critic.optimizer.betas.1: 1 is not allowed; must be less than 1",
            ),
            ({"train": None}, "train: None is not allowed; must be a section: a mapping of keys"),
            ({"critic": 3}, "critic: 3 is not allowed; must be a section: a mapping of keys"),
            (
                {"tracking": {"wandb": {"tags": ["a", " "]}}},
                "tracking.wandb.tags.1: ' ' is not allowed; must be a tag that is",
            ),
            (
                {"train": {"length": "20 min"}},
                "train.length: '20 min' is not allowed; must be a duration in steps or kimg",
            ),
            (
                {"train": {"max_time": 30}},
                "train.max_time: 30 is not allowed; must be a wall-clock time: a number and s, min or h, such as "
                '"90 s", "15 min" or "23 h"',
            ),
            (
                {"train": {"length": "1.5 steps"}},
                "train.length: '1.5 steps' is not allowed; must be a whole number of steps",
            ),
            (
                {"checkpoint": {"every": "a week"}},
                "checkpoint.every: 'a week' is not allowed; must be a duration: a number",
            ),
            (
                {"critic": {"optimizer": {"lr": float("inf")}}},
                "critic.optimizer.lr: inf is not allowed; must be a finite number",
            ),
            (
                {"critic": {"name": "dcgan", "minibatch_std": 1}},
                "critic.minibatch_std: 1 is not allowed; must be 0 (none), or a group of 2 images or more",
            ),
            (
                {"critic": {"name": "dcgan", "minibatch_std": -4}},
                "critic.minibatch_std: -4 is not allowed; must be 0 (none), or a group of 2",
            ),
            (
                {"checkpoint": {"best": "generator/diversity"}, "tracking": {"watch": False}},
                "checkpoint.best: generator/diversity is not measured with tracking.watch false; use true, or another",
            ),
            (
                {"checkpoint": {"best": "evaluate/swd"}},
                "checkpoint.best: evaluate/swd needs evaluate.every, which is not set; set it, or another metric",
            ),
            (
                {
                    "checkpoint": {"best": "evaluate/recall_own", "best_is": "highest"},
                    "evaluate": {"every": "10 steps"},
                },
                "checkpoint.best: evaluate/recall_own is not measured; add precision_recall_own to evaluate.metrics",
            ),
            (
                {"checkpoint": {"best": "evaluate/modes"}, "evaluate": {"every": "10 steps", "metrics": ["modes"]}},
                "checkpoint.best_is: lowest keeps the worst evaluate/modes; use highest",
            ),
            (
                {
                    "checkpoint": {"best": "evaluate/fd_own", "best_is": "highest"},
                    "evaluate": {"every": "10 steps", "metrics": ["fd_own"]},
                },
                "checkpoint.best_is: highest keeps the worst evaluate/fd_own; use lowest",
            ),
            ({"evaluate": {"metrics": []}}, "evaluate.metrics: [] is not allowed; must not be empty"),
            (
                {"augment": {"strength": "adaptiv"}},  # and not that adaptive, the default, would need data.holdout
                "augment.strength: 'adaptiv' is not allowed; must be 'adaptive' or a number",
            ),
            (
                {
                    "checkpoint": {"best": "evaluate/label_accuracy", "best_is": "highest"},
                    "evaluate": {"every": "10 steps", "metrics": ["modes"]},
                },
                "checkpoint.best: evaluate/label_accuracy needs a class that was asked for; set data.classes",
            ),
            (
                {"evaluate": {"every": "10 steps"}, "data": {"order": "resampled"}},
                "evaluate.every: needs shards with an index, which data.order resampled reads without one",
            ),
            ({"seed": "x" * 99}, f"seed: {'x' * 56!r}"[:-1] + "... is not allowed"),
        ],
    )
    def test_each_names_key_value_and_what_is_allowed(self, tree, line):
        (told,) = mistakes(tree)
        assert told.startswith(line)

    def test_what_is_required_is_told_with_its_help(self):
        with pytest.raises(ConfigError) as caught:
            validate({"generator": {}, "critic": {"name": "mlp"}, "data": {"shards": "x"}})
        told = str(caught.value)
        assert "run_dir: is required: Folder that receives everything" in told
        assert "data.resolution: is required: Height and width" in told
        assert "generator.name: is required; allowed: " in told
        assert "train: is required" in told

    @pytest.mark.parametrize("key", ["train.batch_size", "critic.optimizer.betas", "tracking.wandb.mode", "seed"])
    def test_a_key_with_a_slip_is_recognised(self, key):
        assert nearest_key(key[:-2] + key[-1]) == key
        assert nearest_key(key.rpartition(".")[2]).endswith(key.rpartition(".")[2])

    def test_nothing_is_near_to_nonsense(self):
        assert nearest_key("qqqqqqq") is None


class TestConflicts:
    @pytest.mark.parametrize("penalty", ["gp", "lp", "r1", "r2", "r1r2"])
    def test_batch_norm_in_a_critic_with_a_gradient_penalty_is_refused_with_what_works(self, penalty):
        (told,) = mistakes({"critic": {"norm": "batch"}, "objective": {"penalty": penalty}})
        assert told.startswith("critic.norm: batch") and penalty in told and "none, layer, instance or group" in told

    def test_it_is_told_how_to_see_it_fail_all_the_same(self):
        (told,) = mistakes({"critic": {"norm": "batch"}})
        assert "objective.allow_batch_norm true" in told
        assert config(critic={"norm": "batch"}, objective={"allow_batch_norm": True}).critic.norm == "batch"

    @pytest.mark.parametrize("penalty", ["clip", "none"])
    def test_batch_norm_in_a_critic_without_one_is_not(self, penalty):
        assert config(critic={"norm": "batch"}, objective={"penalty": penalty}).critic.norm == "batch"

    @pytest.mark.parametrize(
        ("name", "resolution", "right"),
        [
            ("mlp", 17, True),
            ("dcgan", 28, True),
            ("dcgan", 48, False),
            ("resnet", 64, True),
            ("resnet", 28, False),
            ("progressive", 1024, True),
            ("progressive", 28, False),
        ],
    )
    def test_a_resolution_that_a_family_lacks_is_refused(self, name, resolution, right):
        tree = {"critic": {"name": name}, "data": {"resolution": resolution}}
        if right:
            assert config(**tree).critic.resolutions() is None or resolution in config(**tree).critic.resolutions()
        else:
            assert f"{resolution} is not a resolution of critic.name {name}" in mistakes(tree)[0]

    def test_a_lazy_penalty_needs_a_penalty(self):
        assert "objective.every: 4 has no effect" in mistakes({"objective": {"every": 4, "penalty": "clip"}})[0]
        assert config(objective={"every": 4, "penalty": "r1"}).objective.every == 4

    def test_several_are_told_together_and_beside_other_mistakes(self):
        told = mistakes({"seed": "x", "critic": {"name": "resnet", "norm": "batch"}, "data": {"resolution": 48}})
        assert [line.partition(":")[0] for line in told] == ["seed", "critic.norm", "data.resolution"]

    @pytest.mark.parametrize(("processes", "right"), [(1, True), (5, True), (4, False), (11, False)])
    def test_the_batch_must_be_shared_evenly(self, processes, right):
        found = process_conflicts(config(train={"batch_size": 10}), processes)
        assert [mistake.key for mistake in found] == ([] if right else ["train.batch_size"])
        if processes == 4:
            assert str(found[0]).endswith("10 images cannot be shared by 4 processes; use 8 or 12")
        if processes == 11:
            assert str(found[0]).endswith("use 11")

    @pytest.mark.parametrize(
        ("train", "key"),
        [
            ({"checkpoint_activations": True, "compile": True}, "train.checkpoint_activations"),
            ({"cuda_graphs": True, "compile": False}, "train.cuda_graphs"),
            ({"cuda_graphs": True, "device": "cpu"}, "train.cuda_graphs"),
            ({"cuda_graphs": True, "checkpoint_activations": True}, "train.cuda_graphs"),
            ({"cuda_graphs": True, "tf32": True}, None),
            ({"checkpoint_activations": True}, None),
        ],
    )
    def test_what_only_compiled_or_only_eager_code_can_do_is_not_asked_of_the_other(self, train, key):
        if key is None:
            assert config(train=train).train.compile == "auto"
        else:
            (told,) = mistakes({"train": train})
            assert told.startswith(f"{key}: true ") and "compile" in told

    def test_a_cuda_graph_is_not_replayed_for_each_micro_batch(self):
        split = config(train={"batch_size": 8, "micro_batch": 4, "cuda_graphs": True}, generator={"norm": "layer"})
        assert [mistake.key for mistake in process_conflicts(split, 1)] == ["train.cuda_graphs"]
        talking = config(train={"batch_size": 8, "cuda_graphs": True}, generator={"norm": "batch"})
        assert [len(process_conflicts(talking, processes)) for processes in (1, 2)] == [0, 1]
        assert process_conflicts(split, 2) == []

    def test_batch_norm_is_not_split_into_micro_batches(self):
        split = config(train={"batch_size": 8, "micro_batch": 3}, generator={"norm": "batch"})
        (told,) = process_conflicts(split, 2)
        assert told.key == "train.micro_batch" and "generator.norm layer, instance" in told.text
        assert process_conflicts(split, 4) == []

    @pytest.mark.parametrize(("batch", "told"), [(10, "10 images .* use 8 or 12,"), (2, "2 images .* use 4,")])
    def test_the_batch_must_be_whole_groups(self, batch, told):
        (found,) = mistakes({"critic": GROUPED, "train": {"batch_size": batch}})
        assert re.match(f"train.batch_size: {told} or another critic.minibatch_std", found)
        assert "groups of critic.minibatch_std 4" in found

    @pytest.mark.parametrize(
        ("batch", "processes", "told"),
        [
            (24, 3, None),
            (24, 4, "24 images over 4 processes are 6 on each, .* use 16 or 32, fewer processes, or another"),
            (8, 4, "8 images over 4 processes are 2 on each, .* use 16, fewer processes, or another"),
            (12, 5, "12 images cannot be shared by 5 processes; use 20"),
        ],
    )
    def test_a_group_is_not_split_over_processes(self, batch, processes, told):
        found = process_conflicts(config(critic=GROUPED, train={"batch_size": batch}), processes)
        assert [mistake.key for mistake in found] == (["train.batch_size"] if told else [])
        assert not told or re.match(told, found[0].text)

    @pytest.mark.parametrize(("micro", "right"), [(4, True), (6, False), (8, True), (9, True), (3, False)])
    def test_a_group_is_not_split_over_micro_batches(self, micro, right):
        split = config(critic=GROUPED, train={"batch_size": 16, "micro_batch": micro})
        found = process_conflicts(split, 2)
        assert [mistake.key for mistake in found] == ([] if right else ["train.micro_batch"])
        nearest = {6: "4 or 8", 3: "4"}
        assert right or f"{micro} images" in found[0].text and f"use {nearest[micro]}, or" in found[0].text


class TestDump:
    ODD = {
        "run_dir": "runs/010",
        "train": {"length": "12345.678 kimg", "compile": False, "micro_batch": 4},
        "critic": {"optimizer": {"name": "rmsprop", "lr": 5e-5, "decay": "cosine"}},
        "checkpoint": {"every": "90 min"},
        "tracking": {"wandb": {"mode": "off", "tags": ["1e-4", "off"], "group": "null"}},
    }

    @pytest.mark.parametrize("tree", [{}, ODD])
    def test_what_is_written_loads_as_the_same_config(self, write, tree):
        before = config(**tree)
        path = write("config.yaml", dump_config(before))
        assert read_config(path) == before and dump_config(read_config(path)) == path.read_text()

    def test_every_default_is_written_out(self):
        written = dump_config(config())
        for key in ("critic_steps: 5", "mode: off", "betas: [0.0, 0.9]", "every: 1000 steps", "micro_batch: null"):
            assert key in written

    def test_a_config_cannot_be_changed(self):
        with pytest.raises(Exception, match="frozen"):
            config().seed = 3


def test_the_reference_lists_every_key_with_default_and_help():
    lines = reference().splitlines()
    listed = {line.split(": ")[0]: line for line in lines}
    leaves = [key for key in known_keys() if not any(other.startswith(key + ".") for other in known_keys())]
    optional = ["augment", "growing"]
    assert sorted(listed) == sorted([*leaves, *optional]) and len(lines) == len(leaves) + len(optional)
    assert all(listed[section].split()[1] == "unset" for section in optional), "not there, whatever its keys' defaults"
    for key, help_text in known_keys().items():
        assert help_text, f"{key} has no help"
        if key in listed:
            assert help_text in listed[key] or key.startswith(("generator", "critic"))
    assert "train.batch_size: 64 " in listed["train.batch_size"] and "m in WGAN-GP" in listed["train.batch_size"]


def test_lengths_are_counted_in_steps():
    run = config(train={"length": "1 kimg", "batch_size": 10, "critic_steps": 4})
    assert (run.course.images, run.total_steps) == (1000, 25)


@pytest.mark.parametrize("amount", ["10%", "1000", "0.1", ""])
def test_an_amount_of_held_out_pictures_needs_its_unit(amount):
    with pytest.raises(ConfigError, match='data.holdout: .* must be an amount with a unit, such as "1000 images"'):
        load_config(["configs/quickstart.yaml"], [f"data.holdout='{amount}'"])
