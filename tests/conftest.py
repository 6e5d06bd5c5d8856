"""What all tests share: one quiet thread, a process that stays as it is, shards of the embedded data set, real data."""

from __future__ import annotations

import os
import warnings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve each other on shared cores

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy, whose threads spin too

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no pool of compilers, which would outlive a test

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402
from leftovers import put_back, state  # noqa: E402
from small_disks import limited, mounted  # noqa: E402

from distgan.data.prepare import prepare  # noqa: E402

torch.set_num_threads(1)
# Now, while it starts no threads: where the first one is of compiled code it does, and what is forked from this process
# could differentiate nothing any more.
torch.ones(1, requires_grad=True).sum().backward()
settings.register_profile("shared", deadline=None, max_examples=40)  # no deadline: others use the cores too
settings.load_profile("shared")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from scheduling import OneByOne

    return OneByOne(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Long ones first, so that no process is left with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def leaves_nothing(request):
    """What a test changes in its process is put back, and told of."""
    before = state()
    yield
    for change in put_back(before):
        warnings.warn(f"{request.node.nodeid} has left behind {change}", stacklevel=1)


@pytest.fixture(scope="session")
def shapes_shards(tmp_path_factory) -> Path:
    """Folder of 4 shards with 256 labelled pictures, 32 x 32 RGB."""
    folder = tmp_path_factory.mktemp("shapes") / "shards"
    prepare("shapes", None, folder, resolution=32, count=256, shard_size=64, workers=1)
    return folder


@pytest.fixture
def real_data():
    """A function from a file's name to its path among the real pictures; skips where they are absent."""

    def find(name: str) -> Path:
        root = os.environ.get("DISTGAN_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data"
        path = Path(root) / name
        if not path.exists():
            pytest.skip(f"no real pictures at {path} (set DISTGAN_TEST_DATA)")
        return path

    return find


@pytest.fixture(params=[mounted, limited], ids=["tmpfs", "limit"])
def disk(request, tmp_path):
    """A folder on a disk that can be filled up, and made room on."""
    with request.param(tmp_path / "disk") as found:
        if found is None:
            pytest.skip("only root may mount a disk")
        yield found
