"""What all tests share: one quiet thread, the embedded data set as shards, and who runs them where several do."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve each other on shared cores

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of compilers, which would outlive a test

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402
from small_disks import limited, mounted  # noqa: E402

from distgan.data.prepare import prepare  # noqa: E402

torch.set_num_threads(1)
settings.register_profile("shared", deadline=None, max_examples=40)  # no deadline: others use the cores too
settings.load_profile("shared")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests go one by one to whichever process is free, but all that share the Slurm cluster to one."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "cluster" if file in ("tests/slurm/test_cluster.py", "tests/slurm/test_jobs.py") else nodeid

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def shapes_shards(tmp_path_factory) -> Path:
    """Folder of 4 shards with 256 labelled pictures, 32 x 32 RGB."""
    folder = tmp_path_factory.mktemp("shapes") / "shards"
    prepare("shapes", None, folder, resolution=32, count=256, shard_size=64, workers=1)
    return folder


@pytest.fixture(params=[mounted, limited], ids=["tmpfs", "limit"])
def disk(request, tmp_path):
    """A folder on a disk that can be filled up, and made room on."""
    with request.param(tmp_path / "disk") as found:
        if found is None:
            pytest.skip("only root may mount a disk")
        yield found
