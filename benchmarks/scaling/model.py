"""Seconds of a step on W GPUs, from what each sends and what one takes alone: arithmetic, whose assumptions are in
docs/scaling.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

GB = 1e9


class Link(NamedTuple):
    """One way; bytes and seconds."""

    bandwidth: float
    """Bytes a second that leave a GPU (within a node) or a node (between nodes), while as many come in."""
    latency: float
    """Seconds from one GPU to the next, once a collective runs."""


INSIDE = {
    "nvlink4": Link(450 * GB, 2e-6),  # H100, H200: 900 GB/s both ways
    "nvlink3": Link(300 * GB, 2e-6),  # A100: 600 GB/s both ways
    "pcie5": Link(63 * GB, 2.5e-6),
    "pcie4": Link(31.5 * GB, 2.5e-6),
}
BETWEEN = {
    "8xNDR": Link(400 * GB, 9e-6),  # 8 x 400 Gb/s a node
    "4xHDR": Link(100 * GB, 9e-6),  # 4 x 200 Gb/s
    "100GbE": Link(12.5 * GB, 20e-6),
    "25GbE": Link(3.125 * GB, 20e-6),
    "10GbE": Link(1.25 * GB, 20e-6),
}
"""Of a node, by the specifications of the links: more than a program gets."""


class Cluster(NamedTuple):
    """Where the GPUs are."""

    inside: Link
    between: Link
    per_node: int = 8
    start: float = 10e-6
    """Seconds before a collective begins to send."""

    def reduction(self, size: float, gpus: int) -> float:
        """Seconds of an all-reduce of `size` bytes: the faster of a ring and a tree, as NCCL chooses.

        A ring sends 2 (W - 1) / W of the bytes over its slowest link in 2 (W - 1) hops, of which 2 (N - 1) go between
        the N nodes; a tree sends twice the bytes, and needs the hops of its depth alone."""
        if gpus == 1:
            return 0.0
        nodes = -(-gpus // self.per_node)
        bandwidth = self.inside.bandwidth if nodes == 1 else min(self.inside.bandwidth, self.between.bandwidth)
        far, hops = 2 * (nodes - 1), 2 * (gpus - 1)
        ring = (hops - far) * self.inside.latency + far * self.between.latency + hops / gpus * size / bandwidth
        here = min(gpus, self.per_node)
        depth = 2 * ((here - 1) * self.inside.latency + math.ceil(math.log2(nodes)) * self.between.latency)
        return self.start + min(ring, depth + 2 * size / bandwidth)


class Traffic(NamedTuple):
    """What each process gives to reductions in a step; bytes."""

    gradients: tuple[float, ...]
    """Of every update."""
    statistics: tuple[float, ...] = ()
    """Of every batch norm, each time that it asks."""

    @property
    def bytes(self) -> float:
        return sum(self.gradients) + sum(self.statistics)


class Model(NamedTuple):
    """A run on a cluster."""

    traffic: Traffic
    cluster: Cluster
    seconds: float
    """Of a step of one GPU with `images` images an update."""
    images: int
    floor: float = 0.0
    """Seconds that a step takes however few its images are."""
    overlap: float = 0.0
    """Share of the gradients' reduction that the backward hides."""

    def computing(self, images: float) -> float:
        """Seconds of a step with so many images on the GPU: in proportion to them, but for the floor."""
        return max(self.floor, self.seconds * images / self.images)

    def sending(self, gpus: int) -> float:
        """Seconds of a step in which nothing else is done than to reduce. Statistics are waited for where they are
        asked for; of gradients a share is hidden."""
        gradients = sum(self.cluster.reduction(size, gpus) for size in self.traffic.gradients)
        return (1 - self.overlap) * gradients + sum(
            self.cluster.reduction(size, gpus) for size in self.traffic.statistics
        )

    def kept(self, gpus: int, images: float | None = None) -> float:
        """Efficiency when every GPU keeps its images, and the batch grows."""
        computing = self.computing(self.images if images is None else images)
        return computing / (computing + self.sending(gpus))

    def shared(self, gpus: int, batch: int) -> float:
        """Efficiency when GPUs share a batch: seconds of one with all of it, over W times the seconds of W."""
        return self.computing(batch) / gpus / (self.computing(batch / gpus) + self.sending(gpus))

    def fewest_images(self, gpus: int, efficiency: float) -> int:
        """The smallest number of images on each GPU whose step is so efficient."""
        needed = efficiency / (1 - efficiency) * self.sending(gpus)
        return 1 if needed <= self.floor else max(1, math.ceil(needed / self.seconds * self.images - 1e-9))


def most_gpus(efficiency: Callable[[int], float], counts: Iterable[int], least: float) -> int:
    """The last of the counts up to which all are so efficient."""
    most = 1
    for count in counts:
        if efficiency(count) < least:
            break
        most = count
    return most
