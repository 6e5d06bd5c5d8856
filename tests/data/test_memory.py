"""How much memory a process has, and how much it may still take."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from distgan.data.memory import available_memory, taken_memory


def test_available_memory_is_no_more_than_the_machine_has():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory() <= total


GB = 10**9


def write_group(folder, names, limit, used, file=0):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {file}\ntotal_inactive_file {file}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_batch_job_counts_wherever_it_is_set(tmp_path, version):
    """As Slurm does it: the step has no limit of its own, its job has one; files in the cache can be given back."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 1 kB\nMemAvailable: 100000000 kB\n")
    line, root, names = (
        ("0::/system.slice/job_7/step_0", groups, ("memory.max", "memory.current"))
        if version == 2
        else (
            "4:cpu:/\n5:memory:/system.slice/job_7/step_0",
            groups / "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        )
    )
    (proc / "self" / "cgroup").write_text(line + "\n")
    assert available_memory(proc, groups) == 100_000_000 * 1024
    write_group(root / "system.slice/job_7/step_0", names, "max", 3 * GB)
    write_group(root / "system.slice/job_7", names, 8 * GB, 7 * GB, 2 * GB)
    assert available_memory(proc, groups) == 3 * GB
    write_group(root / "system.slice/job_7", names, 8 * GB, 9 * GB)
    assert available_memory(proc, groups) == 0


def shown(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return json.loads(done.stdout)


def test_what_a_process_has_taken_is_its_own_and_not_what_the_one_that_started_it_had():
    kept = torch.ones(3 * GB // 4, dtype=torch.uint8)
    mine, _ = taken_memory()
    now, most = shown("from distgan.data.memory import taken_memory; import json; print(json.dumps(taken_memory()))")
    assert 0 < now <= most < GB // 2 < len(kept) <= mine


GIVEN_BACK = """
import json, torch
from distgan.data.memory import taken_memory
taken = [taken_memory()]
kept = torch.ones(10**9, dtype=torch.uint8)
taken.append(taken_memory())
del kept
taken.append(taken_memory())
print(json.dumps(taken))
"""


def test_the_most_that_was_taken_stays_when_it_is_given_back():
    (before, _), (during, _), (after, most) = shown(GIVEN_BACK)
    assert max(before, after) + GB // 2 < min(during, most)


def test_where_the_system_does_not_say_what_is_taken_it_is_the_most_that_is_known(tmp_path):
    now, most = taken_memory(tmp_path)
    assert now == most > 0
