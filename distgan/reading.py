"""The pictures of a run as what its networks take: training batches from any position on, and held-out ones beside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from distgan import randomness
from distgan.config import Config
from distgan.data.dataset import Dataset
from distgan.data.place import Place
from distgan.data.stream import Batch, BatchStream
from distgan.errors import DataError
from distgan.inputs import Inputs, Noise
from distgan.networks.growth import shrunk
from distgan.phases import Phases
from distgan.runtime import Runtime


class Reader:
    """What one process reads; every process has its own."""

    def __init__(self, config: Config, runtime: Runtime, phases: Phases, dataset: Dataset) -> None:
        self._config, self._runtime, self._phases, self._dataset = config, runtime, phases, dataset
        self._stream: BatchStream | None = None
        self._unseen: BatchStream | None = None
        self._replaced: frozenset[str] = frozenset()
        self._waited = 0.0
        self.newest: Inputs | None = None
        """The training pictures of the newest update."""

    @contextlib.contextmanager
    def at(self, images: int, held_out: int) -> Iterator[None]:
        """Reads batches of the stage of now from where a run has come that has shown `images`, and `held_out` of those
        that it holds out; what was replaced before stays counted."""
        config, place = self._config, place_of(self._runtime)
        batch, seed = self._phases.stage.batch_size, config.seed
        self._waited += self._stream.wait_seconds if self._stream is not None else 0.0
        with contextlib.ExitStack() as opened:
            self._stream = opened.enter_context(contextlib.closing(self._dataset.stream(batch, seed, images, place)))
            opened.callback(self._keep_replaced)
            if config.data.holdout is not None:
                unseen = self._dataset.held_out(batch, seed, held_out, place)
                self._unseen = opened.enter_context(contextlib.closing(unseen))
            yield

    def _keep_replaced(self) -> None:
        self._replaced |= self._stream.replaced

    def forget(self) -> None:
        """The run goes on from another step: the newest pictures are not its own."""
        self.newest = self._stream = None
        self._waited = 0.0

    @property
    def wait_seconds(self) -> float:
        """Time that training has waited for pictures since its start, or since it went back."""
        return self._waited + self._stream.wait_seconds

    def read(self, noise: Noise) -> Inputs:
        """The next batch, what is random about it drawn already."""
        self.newest = self._prepared(next(self._stream), noise)
        return self.newest

    def held_out(self, step: int) -> Inputs | None:
        """As many held-out pictures as a batch has, the next ones each time, with keys of `step`; None where the run
        holds none out."""
        if self._unseen is None:
            return None
        key = randomness.key(self._config.seed, "held out pictures", step)
        return self.prepare(next(self._unseen), randomness.image_keys(key, self._phases.positions))

    def prepare(self, batch: Batch, keys: Tensor) -> Inputs:
        """On the device, in [-1, 1], at the resolution of now, and mirrored by the keys."""
        return self._prepared(batch, self._phases.noise_of(keys))

    def _prepared(self, batch: Batch, noise: Noise) -> Inputs:
        data = self._config.data
        labels = batch.labels.to(self._runtime.device, non_blocking=True) if data.classes else None
        real = shrunk(self._runtime.images(batch.pixels), self._phases.stage.resolution, self._phases.share)
        if noise.mirrored is not None:
            real = torch.where(noise.mirrored[:, None, None, None], real.flip(-1), real)
        return Inputs(real, labels, noise.keys, noise.latent)

    def count_replaced(self) -> int | None:
        """With data.bad_pictures replace: bad pictures that this start has replaced, of all processes. Raises
        DataError, on all of them, when there are too many."""
        data = self._config.data
        if data.bad_pictures != "replace":
            return None
        found = len(self._runtime.union(self._replaced | self._stream.replaced))
        if found > data.bad_limit:
            raise DataError(
                f"{found} bad pictures were replaced, more than data.bad_limit {data.bad_limit}; look at the shards "
                "with `distgan doctor --data` and make them again, or raise data.bad_limit"
            )
        return found


def place_of(runtime: Runtime) -> Place:
    """Where a process reads its streams."""
    return Place(
        rank=runtime.rank,
        world_size=runtime.world_size,
        device=str(runtime.device),
        local_rank=runtime.local_rank,
        local_size=runtime.local_size,
        cores=runtime.cores,
        share=runtime.share_on_machine,
        union=runtime.union,
    )
