"""The pictures that a config names, opened and checked, and the streams that are read from them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from distgan.config.schema import Data
from distgan.data.index import ShardSet, check_against, open_shards
from distgan.data.indexing import Caching, default_caching
from distgan.data.lost import lost_pictures
from distgan.data.place import Place
from distgan.data.specs import named_shards
from distgan.data.urls import check_url, is_remote, shown
from distgan.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from distgan.data.holdout import Split
    from distgan.data.naming import Name
    from distgan.data.reader import Pictures
    from distgan.data.stream import BatchStream, Plan


_FEW = 0.9
"""Share of the classes that a window should hold."""
_BATCHES_LOOKED_AT = 20
"""For pictures of each class, where no index says which those are."""


class Dataset(Protocol):
    """What a run reads its pictures from."""

    fingerprint: str
    """16 hexadecimal digits of what is in it; another training set has others."""

    def summary(self) -> str:
        """A line for a person."""

    def stream(self, batch_size: int, seed: int, position: int, place: Place) -> BatchStream:
        """The batches of one process from a position (images of the global stream) on."""

    def first(self, count: int, seed: int) -> torch.Tensor:
        """The first pictures of the stream, uint8 [count or less, C, H, W]."""

    def first_of_classes(self, classes: int, each: int, seed: int) -> torch.Tensor:
        """The first `each` pictures of every class, class after class, black ones where a class has fewer: uint8
        [classes * each, C, H, W]."""

    def names(self, batch_size: int, seed: int, position: int) -> list[Name] | None:
        """Which picture each row of a global batch is, the first of it at this position; None where nobody knows."""


def open_dataset(data: Data) -> Dataset:
    """Opens what `data` names. Loads no torch. Raises `DataError` or `ConfigError` where it cannot be read or does not
    fit the config."""
    caching = caching_of(data)
    if data.order == "resampled":
        return Unindexed(data)
    shards = open_shards(data.shards, caching, lenient=data.bad_pictures == "replace")
    check_against(shards, data.resolution, data.channels, data.classes, data.fit)
    _check_cache(shards, data, caching)
    opened = Indexed(data, shards, caching)
    _check_lost(opened)
    return opened


def caching_of(data: Data) -> Caching:
    """Where `data` keeps fetched shards and indexes."""
    standard = default_caching()
    folder = Path(data.cache).expanduser() if data.cache else standard.folder
    return Caching(folder, data.cache_size.bytes, data.allow_shell)


class Indexed:
    """Shards with an index: exact, and the same for every number of processes."""

    def __init__(self, data: Data, shards: ShardSet, caching: Caching) -> None:
        self.data, self.shards, self._caching = data, shards, caching
        self.fingerprint = shards.fingerprint
        self._told: set[str] = set()

    @cached_property
    def split(self) -> Split:
        """The samples to train on, and those held out."""
        from distgan.data.holdout import split

        return split(self.shards, self.data.holdout)

    @cached_property
    def lost(self) -> int:
        """Pictures to train on that are known to be gone with their shards."""
        if not self.shards.faults:
            return 0
        lost = lost_pictures(self.shards)
        return len(lost) if not self.data.holdout else len(set(lost.tolist()) & set(self.split.train.tolist()))

    def summary(self) -> str:
        count = len(self.shards.shards)
        text = f"{self.shards.count} pictures in {count} shard{'s' * (count != 1)}"
        if self.data.stage and self.shards.paths:
            text += f", copied into {self._caching.folder} first"
        if self.data.holdout:
            text += f", {len(self.split.held_out)} held out"
        return text + self._faults() + self._warning()

    def _faults(self) -> str:
        """What is to be said of shards that are not as their index says, and opened all the same; mostly nothing."""
        if not self.shards.faults:
            return ""
        return (
            f"\nwarning    {_told(self.shards.faults)}; what cannot be read is replaced by other pictures, "
            f"data.bad_limit {self.data.bad_limit} at most"
        )

    def _warning(self) -> str:
        """What is to be said of a window over shards that are sorted by class; mostly nothing."""
        classes = classes_in_windows(self.shards, 0)[1] if self.data.order == "window" else 0
        if self.data.order != "window" or classes < 2 or self.data.window >= len(self.shards.shards):
            return ""
        seen, _ = classes_in_windows(self.shards, self.data.window)
        if seen > _FEW * classes:
            return ""
        return (
            f"\nwarning    the shards are sorted by class: a window of {self.data.window} of them holds at most "
            f"{seen:.0f} of {classes} classes; use a larger data.window, or prepare them again with --shuffle"
        )

    def stream(self, batch_size: int, seed: int, position: int, place: Place) -> BatchStream:
        """Raises ReadError where memory for the whole set was asked for and cannot be had."""
        from distgan.data.tiers import open_tier

        plan = self._plan(self.split.train, batch_size, seed, position, place)
        return open_tier(self.data, plan, self._pictures(self.split.train), place)

    def held_out(self, batch_size: int, seed: int, position: int, place: Place) -> BatchStream:
        """As `stream`, of the pictures that are never trained on, in an order of their own.

        Raises `ConfigError` where `data.holdout` holds none out."""
        from distgan import randomness
        from distgan.data.stream import Stream

        if not len(self.split.held_out):
            raise ConfigError('data.holdout is not set; set for example data.holdout: "1000 images"')
        plan = self._plan(self.split.held_out, batch_size, randomness.key(seed, "held out"), position, place)
        return Stream(plan, self._pictures(self.split.held_out), threads=1)

    def first(self, count: int, seed: int) -> torch.Tensor:
        count = min(count, len(self.split.train))
        return self.read(self._plan(self.split.train, count, seed, 0, Place(), partitions=1).batch(0))

    def first_of_classes(self, classes: int, each: int, seed: int) -> torch.Tensor:
        from distgan.data.by_class import first_places

        train = self.split.train
        ordered = self._plan(train, 1, seed, 0, Place(), partitions=1).samples_of_epoch(0)
        places = first_places(self.shards.samples["label"][ordered], classes, each)
        found = self.read(ordered[places[places >= 0]])
        shown = found.new_zeros(len(places), *found.shape[1:])
        shown[places >= 0] = found
        return shown

    def read(self, samples: np.ndarray) -> torch.Tensor:
        """Pictures by their numbers, int64 [n], in the set; uint8 [n, C, H, W]. Raises ReadError."""
        import torch

        from distgan.data.decode import as_pictures

        pictures = self._pictures(self.split.train)
        rows = torch.empty(len(samples), pictures.decoder.bytes, dtype=torch.uint8)
        pictures.shelf.want(sorted(set(pictures.shard_of[samples].tolist())))
        try:
            pictures.read(samples, rows, torch.empty(len(samples), dtype=torch.int64))
        finally:
            pictures.shelf.close()
        return as_pictures(rows, pictures.decoder.shape)

    def each_once(self, batch_size: int, threads: int) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Every picture that is trained on, once, in some order: their numbers, int64 [n], and themselves, uint8
        [n, C, H, W], `batch_size` or in the end fewer at a time. Raises ReadError."""
        from contextlib import closing

        from distgan.data.stream import Stream

        train = self.split.train
        plan = self._plan(train, batch_size, 0, 0, Place(), partitions=1)
        with closing(Stream(plan, self._pictures(train), threads=threads)) as stream:
            for number, start in enumerate(range(0, len(train), batch_size)):
                count = min(batch_size, len(train) - start)  # an endless stream: then the next epoch begins
                yield plan.batch(number)[:count], next(stream).pixels[:count]

    def names(self, batch_size: int, seed: int, position: int) -> list[Name]:
        """The pictures that the order has there: a bad one is named itself, and not what took its place."""
        from distgan.data.naming import names_of

        return names_of(self.shards, self._plan(self.split.train, batch_size, seed, position, Place()).batch(0))

    def _plan(
        self, samples, batch_size: int, seed: int, position: int, place: Place, partitions: int | None = None
    ) -> Plan:
        from distgan.data.order import Order
        from distgan.data.stream import Plan

        data, partitions = self.data, partitions or self.data.partitions
        window = data.window if data.order == "window" else None
        whole = len(samples) == self.shards.count
        shard_of = None
        if window or data.partitions > 1:
            shard_of = self.shards.shard_of if whole else self.shards.shard_of[samples]
        order = Order(len(samples), seed, shard_of=shard_of, window=window, partitions=data.partitions)
        return Plan(
            order,
            None if whole else samples,
            batch_size=batch_size,
            rank=place.rank,
            world_size=place.world_size,
            position=position,
            partitions=partitions,
        )

    def _pictures(self, allowed) -> Pictures:
        import numpy as np

        from distgan.data.decode import Decoder
        from distgan.data.reader import Pictures
        from distgan.data.shelf import Shelf
        from distgan.data.substitutes import Substitutes

        data, shards = self.data, self.shards
        fetched = data.stage or any(shard.is_remote for shard in shards.shards)
        cache = self._caching.open() if fetched else None
        mask = None
        if len(allowed) < shards.count:
            mask = np.zeros(shards.count, bool)
            mask[allowed] = True
        decoder = Decoder(data.resolution, data.channels, data.fit)
        replaces = data.bad_pictures == "replace"
        substitutes = Substitutes(shards, mask, data.bad_limit, self._told) if replaces else None
        return Pictures(shards, decoder, Shelf(shards.shards, cache, copy=data.stage, any_size=replaces), substitutes)


class Unindexed:
    """Shards read by webdataset's own pipeline, with replacement: neither exact nor the same for every number of
    processes."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.places = [place for place, _ in named_shards(data.shards)]
        for place in self.places:
            check_url(place, data.allow_shell)
        names = "\n".join(shown(place) if is_remote(place) else Path(place).name for place in self.places)
        self.fingerprint = hashlib.blake2b(names.encode(), digest_size=8).hexdigest()

    def summary(self) -> str:
        count = len(self.places)
        return f"{count} shard{'s' * (count != 1)}, drawn with replacement: not exact (data.order: resampled)"

    def stream(self, batch_size: int, seed: int, position: int, place: Place) -> BatchStream:
        from distgan.data.decode import Decoder
        from distgan.data.resampled import ResampledStream
        from distgan.data.tiers import on_device

        data = self.data
        batches = ResampledStream(
            self.places,
            Decoder(data.resolution, data.channels, data.fit),
            batch_size=batch_size,
            seed=seed,
            rank=place.rank,
            world_size=place.world_size,
            workers=data.threads or place.cores,
            position=position,
            bad=data.bad_pictures,
            limit=data.bad_limit,
            allow_shell=data.allow_shell,
            pin=place.device != "cpu",
        )
        return on_device(batches, place.device)

    def names(self, batch_size: int, seed: int, position: int) -> None:
        return None

    def first(self, count: int, seed: int) -> torch.Tensor:
        batches = self.stream(count, seed, 0, Place())
        try:
            return next(batches).pixels
        finally:
            batches.close()

    def first_of_classes(self, classes: int, each: int, seed: int) -> torch.Tensor:
        """Of the first `_BATCHES_LOOKED_AT` batches of `classes * each` pictures."""
        from distgan.data.by_class import first_pictures

        batches = self.stream(classes * each, seed, 0, Place())
        shape = self.data.channels, self.data.resolution, self.data.resolution
        try:
            return first_pictures(islice(batches, _BATCHES_LOOKED_AT), classes, each, shape)
        finally:
            batches.close()


def classes_in_windows(shards: ShardSet, window: int) -> tuple[float, int]:
    """How many classes a window of so many shards drawn at random holds at most, on average, and how many there are."""
    import numpy as np

    labels = shards.samples["label"]
    of_shard = [set(np.unique(labels[a:b]).tolist()) for a, b in pairwise(shards.starts.tolist())]
    return window * sum(map(len, of_shard)) / len(of_shard), len(set().union(*of_shard))


def _told(faults: Sequence[str]) -> str:
    return faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _check_lost(opened: Indexed) -> None:
    """Raises `DataError` where more pictures are gone with their shards than a run would replace."""
    lost, limit = opened.lost, opened.data.bad_limit
    if lost > limit:
        raise DataError(
            f"{_told(opened.shards.faults)}: {lost} of {opened.shards.count} pictures are lost, more than "
            f"data.bad_limit {limit}; copy it again, or raise data.bad_limit to {lost} or more"
        )


def _check_cache(shards: ShardSet, data: Data, caching: Caching) -> None:
    """Raises `ConfigError` where all fetched shards are in use at once and the cache cannot hold them, and where the
    cache lies among the shards that are to be copied into it."""
    fetched = sum(shard.bytes for shard in shards.shards if data.stage or shard.is_remote)
    if data.order == "shuffle" and fetched > caching.limit:
        raise ConfigError(
            f"data.cache_size: {data.cache_size} cannot hold the {-(-fetched // 10**6)} MB of "
            f"{'staged' if data.stage else 'remote'} shards, all of which data.order shuffle has in use "
            "at once; make it that large, or use data.order: window"
        )
    folders = {os.path.realpath(folder) for folder in {path.parent for path in shards.paths}}
    if data.stage and os.path.realpath(caching.folder) in folders:
        raise ConfigError(
            f"data.cache: {caching.folder} holds the very shards that data.stage is to copy into it; give a folder on "
            "the disk of the node"
        )
