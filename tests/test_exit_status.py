"""Who tells a failure, and how."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from distgan import exit_status as module
from distgan.errors import DataError, Diverged
from distgan.exit_status import exit_status
from distgan.run_folder import RunFolder

FAILING = """
import os, sys, time
from distgan import exit_status
from distgan.errors import DataError
exit_status._FIRST_WORD, exit_status._ALONE = 1.0, 2.0
def action():
    if os.environ["LOCAL_RANK"] not in sys.argv[1]:
        time.sleep(60)  # as where it waits for the others
    raise DataError("no such shards")
sys.exit(exit_status.exit_status(action))
"""


@pytest.mark.parametrize(("who", "tells"), [("01", "0"), ("1", "1")])
def test_what_all_meet_is_told_once_and_what_one_meets_alone_is_told_too(who, tells):
    """With an error that each process is expected to meet."""
    places = {"MASTER_ADDR": "here", "MASTER_PORT": f"of {os.getpid()}"}
    started = {
        rank: subprocess.Popen(
            [sys.executable, "-c", FAILING, who],
            env={**os.environ, **places, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    }
    try:
        said = {rank: started[rank].communicate(timeout=20)[1] for rank in who}
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    assert said == {rank: "distgan: no such shards\n" if rank == tells else "" for rank in who}
    assert {started[rank].returncode for rank in who} == {2}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_full_quota_are_one_line(capsys, number):
    def write() -> None:
        raise OSError(number, os.strerror(number))

    assert exit_status(write) == 1
    assert capsys.readouterr().err == f"distgan: cannot write: {os.strerror(number)}\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            DataError("a picture is gone\nand another"),
            "a picture is gone\ndistgan: and another; the same command goes on",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "cannot write: No space left on device; the same command goes on",
        ),
        (Diverged("nothing is finite"), "nothing is finite"),
    ],
)
def test_how_a_run_goes_on_after_a_failure_is_told_where_it_can(capsys, monkeypatch, tmp_path, error, told):
    def fails():
        raise error

    folder = RunFolder(tmp_path)
    monkeypatch.setattr(module, "way_on", folder.way_on)
    exit_status(fails)
    assert "the same command" not in capsys.readouterr().err, "there is no checkpoint"
    for name in ("00000007", "00000012", ".00000020.part"):
        (folder.checkpoints / name).mkdir(parents=True)
    exit_status(fails)
    assert capsys.readouterr().err == f"distgan: {told}{' from step 12' if 'goes on' in told else ''}\n"
