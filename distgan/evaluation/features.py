"""Features of pictures by a network, over all processes; those of the real ones are kept."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from distgan.evaluation.crew import Crew
from distgan.evaluation.reals import Reals
from distgan.evaluation.shares import Share
from distgan.evaluation.store import Kept, Store


class Extractor(Protocol):
    """A network that sees pictures; the same weights on all processes."""

    name: str
    digest: str
    """Of its weights: another network has another."""
    width: int
    """Of the features."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Of pictures uint8 [n, C, H, W] on the host: features, then logits, float32 [n, width + classes]."""


class Features(NamedTuple):
    """Of pictures in their order."""

    features: Tensor
    """float32 [n, width]."""
    logits: Tensor
    """float32 [n, classes]."""


def extracted(crew: Crew, extractor: Extractor, share: Share) -> Features:
    """Of all pictures of a share, on all processes."""
    both = crew.rows(share.count, lambda block: extractor(share.pixels(block)))
    return Features(both[:, : extractor.width], both[:, extractor.width :])


class RealFeatures:
    """Those of the real pictures that a generator's are compared with, and of others; on the main process alone."""

    def __init__(self, reals: Reals, store: Store) -> None:
        self._reals, self._store = reals, store
        self.compared: Tensor | None = None
        """[n, width]."""

    def prepare(self, crew: Crew, extractor: Extractor) -> None:
        """Reads them from the store, or makes and keeps them."""
        name = self._store.name(extractor.name, extractor.digest, self._reals.compared, crew.arithmetic)
        if not crew.main(lambda moved: self._load(name)):
            found = extracted(crew, extractor, self._reals.compared_share(crew)).features
            crew.main(lambda moved: self._keep(name, found))

    def others(self, crew: Crew, extractor: Extractor) -> Tensor:
        """As many as half the set, or as are compared: none of them among the first as many of `compared`."""
        return extracted(crew, extractor, self._reals.share(crew, self._reals.half, self._reals.half)).features

    def _load(self, name: str) -> bool:
        kept: Kept | None = self._store.load(name)
        if kept is not None:
            self.compared = kept.tensors["features"]
        return kept is not None

    def _keep(self, name: str, found: Tensor) -> None:
        self.compared = found.cpu()
        self._store.save(name, {"features": self.compared}, {})
