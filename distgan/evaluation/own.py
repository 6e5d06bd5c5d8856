"""Metrics in the features of a classifier that is trained on the labelled shards themselves."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from distgan.evaluation import classifier
from distgan.evaluation.crew import Crew
from distgan.evaluation.features import Features, RealFeatures, extracted
from distgan.evaluation.reals import Reals
from distgan.evaluation.shares import Share
from distgan.evaluation.store import Kept, Store, digest
from distgan.metrics.gaussians import Gaussian, frechet_distance
from distgan.metrics.modes import coverage
from distgan.metrics.neighbours import precision_recall
from distgan.trouble import tell

_RECIPE = 1
"""Of the classifier: another one where the same pictures would give another."""


class OwnExtractor:
    """The classifier's features and logits."""

    name, width = "own", classifier.FEATURES

    def __init__(self, state: dict[str, Tensor], channels: int, device: torch.device) -> None:
        """`state` as `classifier.train` returns it."""
        self.digest = digest(state)
        self.classes = state["classes"]
        """The label that each output stands for, int64 [K]."""
        weights = {name: value for name, value in state.items() if name != "classes"}
        with torch.random.fork_rng(devices=[]):
            self._network = classifier.Classifier(channels, len(self.classes))
        self._network.load_state_dict(weights)
        self._network.to(device).requires_grad_(False)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        return torch.cat(self._network(pixels.to(self._network.last.weight.device)), 1)


class Own:
    """`fd_own`, `precision_own`, `recall_own`, `modes`, `modes_kl`, `label_accuracy`, as far as they are asked for.

    `fd_own_floor` is between two disjoint sets of real pictures, of as many as `swd_floor` is (reals.Reals)."""

    def __init__(self, asked: Collection[str], reals: Reals, store: Store) -> None:
        self._asked, self._reals, self._store = asked, reals, store
        self._real = RealFeatures(reals, store)
        self._floor = 0.0

    def prepare(self, crew: Crew) -> str | None:
        dataset = self._reals.dataset
        if not len(classifier.labelled(dataset)):
            return (
                "a classifier is needed, and the shards have no labels of two classes or more; prepare the shards with "
                "labels, or leave them out of evaluate.metrics"
            )
        kept = crew.main(lambda moved: self._classifier(crew.runtime.device, moved), may_stop=True)
        self._extractor = OwnExtractor(kept.tensors, dataset.data.channels, crew.runtime.device)
        labels = self._reals.labels
        self._counts = torch.stack([(labels == label).sum() for label in self._extractor.classes])
        if {"fd_own", "precision_recall_own"} & set(self._asked):
            self._real.prepare(crew, self._extractor)
        if "fd_own" in self._asked:
            self._prepare_floor(crew)
        return None

    def _classifier(self, device: torch.device, moved: Callable[[], None]) -> Kept:
        name = self._store.name("classifier", _RECIPE)
        kept = self._store.load(name)
        if kept is None:
            dataset = self._reals.dataset
            tell(
                f"evaluate: training a classifier on {len(classifier.labelled(dataset))} labelled pictures, once for "
                "these shards; it takes a minute or more on a CPU"
            )
            state, accuracy = classifier.train(dataset, device, moved)
            kept = Kept(state, {"accuracy": accuracy})
            self._store.save(name, *kept)
        classes, accuracy = len(kept.tensors["classes"]), kept.facts["accuracy"]
        tell(f"evaluate: the classifier names {accuracy:.2%} of held-out pictures rightly, of {classes} classes")
        return kept

    def _prepare_floor(self, crew: Crew) -> None:
        name = self._store.name("fd-own-floor", self._extractor.digest, self._reals.half, crew.arithmetic)
        kept = crew.main(lambda moved: self._store.load(name))
        if kept is None:
            others = self._real.others(crew, self._extractor)
            kept = crew.main(lambda moved: self._measured_floor(others.cpu(), name))
        self._floor = kept.facts["fd_own"]

    def _measured_floor(self, others: Tensor, name: str) -> Kept:
        compared = self._real.compared[: self._reals.half]
        kept = Kept({}, {"fd_own": frechet_distance(Gaussian.of(compared), Gaussian.of(others))})
        self._store.save(name, *kept)
        return kept

    def measure(self, crew: Crew, fakes: Share, labels: Tensor | None) -> dict[str, float]:
        found = extracted(crew, self._extractor, fakes)
        return crew.main(lambda moved: self._values(Features(*(part.cpu() for part in found)), labels, moved))

    def _values(self, fakes: Features, labels: Tensor | None, moved: Callable[[], None]) -> dict[str, float]:
        values: dict[str, float] = {}
        if "fd_own" in self._asked:
            distance = frechet_distance(Gaussian.of(self._real.compared), Gaussian.of(fakes.features))
            values |= {"fd_own": distance, "fd_own_floor": self._floor}
        moved()
        if "precision_recall_own" in self._asked:
            count = min(len(self._real.compared), len(fakes.features))
            both = precision_recall(self._real.compared[:count], fakes.features[:count])
            values |= dict(zip(("precision_own", "recall_own"), both, strict=True))
        moved()
        if "modes" in self._asked:
            values |= self._modes(fakes.logits.argmax(1), labels)
        return values

    def _modes(self, seen: Tensor, labels: Tensor | None) -> dict[str, float]:
        """`seen`: which output of the classifier is the highest, int64 [n]."""
        modes, divergence = coverage(torch.bincount(seen, minlength=len(self._counts)), self._counts)
        values = {"modes": float(modes), "modes_kl": divergence}
        if labels is not None:
            values["label_accuracy"] = (self._extractor.classes[seen] == labels).double().mean().item()
        return values
