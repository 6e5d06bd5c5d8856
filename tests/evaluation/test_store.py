"""What is kept of real pictures, and when it is made anew."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from evaluated import config_of, evaluator_of

from distgan.data.dataset import open_dataset
from distgan.data.index import open_shards
from distgan.data.prepare import prepare
from distgan.evaluation import classifier, features, sliced
from distgan.evaluation.crew import Crew
from distgan.evaluation.store import Store

OURS = "swd,fd_own,precision_recall_own,modes"


@pytest.fixture
def work(monkeypatch) -> list[str]:
    """What is done of what the store could have spared."""
    done = []
    for module, name in ((classifier, "train"), (features, "extracted"), (sliced, "swd")):
        original = getattr(module, name)

        def noted(*args, name=name, original=original):
            done.append(name)
            return original(*args)

        monkeypatch.setattr(module, name, noted)
    return done


def prepared(shards, *overrides: str) -> dict[str, bytes]:
    evaluator_of(config_of(shards, OURS, *overrides)).prepare()
    return {path.name: path.read_bytes() for path in (shards / "evaluation").iterdir()}


def test_a_second_evaluation_measures_no_real_picture(own_shards, work):
    kept = prepared(own_shards)
    assert work == ["swd", "extracted", "extracted"]
    work.clear()
    assert prepared(own_shards) == kept and work == []


@pytest.mark.parametrize("damage", [b"", b"{}", "cut", "flipped"])
def test_a_damaged_file_is_made_anew(own_shards, work, damage, capfd):
    kept = prepared(own_shards)
    for name in (name for name in kept if not name.startswith("classifier")):
        content = bytearray(kept[name])
        if damage == "flipped":
            content[-2] ^= 1
        (own_shards / "evaluation" / name).write_bytes(
            damage if isinstance(damage, bytes) else content[: len(content) - (damage == "cut")]
        )
    work.clear(), capfd.readouterr()
    assert prepared(own_shards) == kept
    assert work == ["swd", "extracted", "extracted"]
    assert capfd.readouterr().err.count("; made anew\n") == 3


def test_other_pictures_or_another_count_have_files_of_their_own(own_shards, tmp_path):
    store = store_of(own_shards)
    same = store.name("own", 1)
    assert store_of(own_shards).name("own", 1) == same != store.name("own", 2)
    prepare("shapes", None, tmp_path / "other", resolution=16, channels=1, count=400, workers=1, seed=1)
    others = [
        store_of(tmp_path / "other"),
        store_of(own_shards, "data.holdout=10 images"),
        store_of(own_shards, "data.resolution=32", "data.fit=crop"),
        store_of(own_shards, "data.bad_pictures=replace"),
    ]
    assert len({same, *(other.name("own", 1) for other in others)}) == 5


def test_another_kind_of_device_or_tf32_has_files_of_its_own():
    products = torch.backends.cuda.matmul
    before = products.allow_tf32

    def arithmetic(kind: str, tf32: bool) -> str:
        products.allow_tf32 = tf32
        return Crew(SimpleNamespace(device=torch.device(kind)), 50, lambda: None).arithmetic

    try:
        found = [arithmetic(kind, tf32) for kind in ("cpu", "cuda") for tf32 in (False, True)]
    finally:
        products.allow_tf32 = before
    assert found[0] == found[1] and len(set(found)) == 3


def test_a_damaged_file_is_not_told_where_the_next_folder_has_it_whole(own_shards, tmp_path, capfd):
    store = store_of(own_shards, f"data.cache={tmp_path / 'cache'}")
    first, second = store.folders
    for folder in (second, first):
        store.folders = [folder]
        store.save("a", {}, {"y": 1})
    (first / "a").write_bytes(b"")
    store.folders = [first, second]
    assert store.load("a").facts == {"y": 1} and capfd.readouterr().err == ""
    (second / "a").unlink()
    assert store.load("a") is None and f"{first / 'a'}: damaged" in capfd.readouterr().err


def store_of(shards, *overrides: str) -> Store:
    return Store(open_dataset(config_of(shards, OURS, *overrides).data))


def test_what_is_kept_is_not_taken_for_shards(own_shards):
    prepared(own_shards)
    (own_shards / "index.json").unlink()
    for place in (own_shards, own_shards / "*.tar"):
        assert open_shards(str(place)).count == 400


def test_shards_that_cannot_be_written_beside_have_it_in_the_cache(own_shards, tmp_path, capfd):
    (own_shards / "evaluation").rename(tmp_path / "away")
    (own_shards / "evaluation").write_text("no folder")
    store = store_of(own_shards, f"data.cache={tmp_path / 'cache'}")
    kept = store.save("a", {"x": torch.arange(3)}, {"y": 1})
    assert kept.parent == tmp_path / "cache" / "evaluation"
    found = store.load("a")
    assert torch.equal(found.tensors["x"], torch.arange(3)) and found.facts == {"y": 1}
    (tmp_path / "file").write_text("")
    assert store_of(own_shards, f"data.cache={tmp_path / 'file'}").save("a", {}, {}) is None
    assert "cannot be written" in capfd.readouterr().err
