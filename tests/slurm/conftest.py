"""A real Slurm for the tests that ask for `cluster`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster import Cluster, missing


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """Two nodes, n1 and n2."""
    if reason := missing():
        pytest.skip(reason)
    cluster = Cluster(nodes=2)
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(slurm) -> Iterator[Cluster]:
    """The cluster, idle at the beginning of every test."""
    yield slurm
    slurm.clear()
