from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgan.data.needs import AHEAD, ShardNeeds
from distgan.data.order import Order, placement

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=9)
WINDOWS = st.one_of(st.none(), st.integers(1, 12))
PARTITIONS = st.integers(1, 6)


def order_of(sizes, seed, window, partitions) -> Order:
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    return Order(sum(sizes), seed, shard_of=shard_of, window=window, partitions=partitions)


@given(sizes=SIZES, seed=st.integers(0, 5), window=WINDOWS, partitions=PARTITIONS)
def test_each_epoch_holds_every_sample_once(sizes, seed, window, partitions):
    order = order_of(sizes, seed, window, partitions)
    for epoch in range(3):
        assert sorted(order.epoch(epoch).tolist()) == list(range(sum(sizes)))


@given(
    sizes=SIZES,
    window=WINDOWS,
    partitions=PARTITIONS,
    start=st.integers(0, 300),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
)
def test_the_order_does_not_depend_on_how_it_is_read(sizes, window, partitions, start, lengths):
    order, stop = order_of(sizes, 0, window, partitions), start + sum(lengths)
    edges = np.cumsum([start, *lengths])
    pieces = [order.samples(np.arange(a, b)).tolist() for a, b in zip(edges, edges[1:], strict=False)]
    whole = order_of(sizes, 0, window, partitions).samples(np.arange(start, stop)).tolist()
    assert sum(pieces, []) == whole
    backwards = order_of(sizes, 0, window, partitions).samples(np.arange(start, stop)[::-1].copy()).tolist()
    assert backwards == whole[::-1]


def test_epochs_and_seeds_have_their_own_order():
    for window in (None, 2):
        epochs = [tuple(order_of([10] * 3, seed, window, 1).epoch(epoch)) for seed in (0, 1) for epoch in (0, 1)]
        assert len(set(epochs)) == 4


@pytest.mark.parametrize(
    ("window", "partitions", "pinned"),
    [
        (None, 1, [1, 5, 9, 3, 6, 1, 6, 7, 9, 3]),
        (2, 1, [7, 8, 5, 9, 6, 1, 3, 2, 4, 6]),
        (2, 2, [5, 3, 9, 4, 6, 4, 6, 1, 7, 3]),
    ],
)
def test_the_order_is_pinned(window, partitions, pinned):
    """A run that is gone on with by another version must see the same pictures."""
    order = order_of([4, 1, 5], 0, window, partitions)
    assert order.samples(np.arange(5, 15)).tolist() == pinned


@given(sizes=st.lists(st.integers(5, 40), min_size=6, max_size=9), window=st.integers(1, 4), seed=st.integers(0, 9))
def test_about_window_shards_are_in_use_at_a_time(sizes, window, seed):
    """A shard whose place in the epoch is s has its first picture before any of the shard s + window + 1 comes."""
    shards = np.repeat(np.arange(len(sizes)), sizes)[order_of(sizes, seed, window, 1).epoch(0)]
    present, first = np.unique(shards, return_index=True)
    last = {shard: np.flatnonzero(shards == shard)[-1] for shard in present}
    for place in range(len(shards)):
        in_use = sum(first[i] <= place <= last[shard] for i, shard in enumerate(present))
        assert in_use <= window + 1


@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=9), window=WINDOWS, partitions=st.integers(2, 4))
def test_a_partition_keeps_its_pictures_but_for_the_seams(sizes, window, partitions):
    order, count = order_of(sizes, 0, window, partitions), sum(sizes)
    if count < partitions:
        return
    members = [
        [
            set(
                order.samples(
                    np.arange(e * count, (e + 1) * count)[(np.arange(e * count, (e + 1) * count) % partitions) == k]
                )
            )
            for e in range(3)
        ]
        for k in range(partitions)
    ]
    for epochs in members:
        for one in epochs[1:]:
            assert len(epochs[0] ^ one) <= 2 * partitions  # each part grows or shrinks by one from epoch to epoch
    shards = np.repeat(np.arange(len(sizes)), sizes)
    parts_of = [
        sum(bool({s for s in epochs[0] if shards[s] == shard}) for epochs in members) for shard in range(len(sizes))
    ]
    assert sum(parts_of) <= len(sizes) + partitions - 1  # only a shard at a seam is in two parts


@given(batch=st.integers(1, 64), partitions=st.integers(1, 8))
def test_a_batch_holds_its_positions_once_and_parts_side_by_side(batch, partitions):
    offsets = placement(batch * partitions, partitions)
    assert sorted(offsets.tolist()) == list(range(batch * partitions))
    assert (offsets % partitions == np.repeat(np.arange(partitions), batch)).all()


@given(
    sizes=SIZES,
    window=WINDOWS,
    partitions=st.integers(1, 3),
    share=st.integers(1, 4),
    world_size=st.integers(1, 4),
    start=st.integers(0, 100),
)
def test_shards_are_asked_for_before_they_are_read_and_given_up_after(
    sizes, window, partitions, share, world_size, start
):
    order = order_of(sizes, 1, window, partitions)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    batch = share * partitions * world_size
    for rank in range(world_size):
        offsets = placement(batch, partitions)[rank * (batch // world_size) : (rank + 1) * (batch // world_size)]
        needs = ShardNeeds(order, shard_of, start, batch, offsets)
        held = set()
        for number in range(3 * sum(sizes) // batch + 3):
            held |= set(needs.before(number))
            read = set(shard_of[order.samples(start + number * batch + offsets)].tolist())
            assert read <= held
            held -= set(needs.after(number))
        # what is held beyond the last batch is needed soon
        assert len(held) <= len(sizes)


def test_no_more_shards_are_held_than_the_window_and_those_ahead():
    sizes, window = [20] * 40, 3
    order, shard_of = order_of(sizes, 0, window, 1), np.repeat(np.arange(40), 20)
    needs, held, most = ShardNeeds(order, shard_of, 0, 8, np.arange(8)), set(), 0
    for number in range(250):
        held |= set(needs.before(number))
        most = max(most, len(held))
        held -= set(needs.after(number))
    assert most <= window + 2 + AHEAD + 1
