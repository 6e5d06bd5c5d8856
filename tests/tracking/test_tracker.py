from __future__ import annotations

import io
import os

import pytest

from distgan.errors import UserError
from distgan.run_folder import RunFolder, write_atomically
from distgan.tracking import terminal as terminal_module
from distgan.tracking.terminal import Terminal
from distgan.tracking.tracker import Tracker


def test_writing_atomically_leaves_the_old_or_the_new(tmp_path):
    path = tmp_path / "status"
    write_atomically(path, "one\n")
    write_atomically(path, "two\n")
    assert path.read_text() == "two\n" and os.listdir(tmp_path) == ["status"]
    with pytest.raises(UserError, match="status: cannot be written: No such file"):
        write_atomically(tmp_path / "nowhere" / "status", "x")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run_dir .*file/run: cannot be written: Not a directory; choose another"):
        RunFolder(tmp_path / "file" / "run").create()


def test_everything_goes_to_every_sink_in_turn(tmp_path):
    told = []

    class Sink:
        def __init__(self, name):
            self.name = name

        def metrics(self, line):
            told.append((self.name, line["step"]))

        def picture(self, name, path, step):
            told.append((self.name, name, path, step))

        def close(self, status):
            told.append((self.name, status))

    tracker = Tracker([Sink("a"), Sink("b")])
    tracker.metrics({"step": 1})
    tracker.picture("samples", tmp_path, 2)
    tracker.close("failed")
    assert told[:4] == [
        ("a", 1),
        ("b", 1),
        ("a", "samples", tmp_path, 2),
        ("b", "samples", tmp_path, 2),
    ]
    assert sorted(told[4:]) == [("a", "failed"), ("b", "failed")]


LINE = {
    "critic/loss": -1.23456,
    "critic/wasserstein": 2.0,
    "generator/loss": 3e-7,
    "throughput/images_per_second": 1234.5,
}


class TestTerminal:
    def test_a_file_gets_plain_lines_with_what_is_left(self, capsys):
        terminal = Terminal(0, 1000)
        for step, seconds in ((10, 5.0), (20, 10.0), (110, 3661.0)):
            terminal.metrics({"step": step, "seconds": seconds, **LINE})
        terminal.close("finished")
        first, second, third = capsys.readouterr().err.splitlines()
        assert first == "step 10/1000  critic -1.235  wasserstein 2  generator 3e-07  images/s 1234"
        assert second.endswith("  left 0:08:10")  # 980 steps at half a second
        assert third.endswith("  left 9:02:18")  # 890 steps at 36.56 seconds
        assert "\r" not in first + second + third

    def test_a_metric_that_is_missing_is_left_out(self, capsys):
        Terminal(5, 10).metrics({"step": 6, "seconds": 1.0})
        assert capsys.readouterr().err == "step 6/10  \n"

    def test_a_terminal_gets_a_bar_that_starts_where_the_run_does(self, monkeypatch):
        class Screen(io.StringIO):
            def isatty(self):
                return True

        screen = Screen()
        monkeypatch.setattr(terminal_module.sys, "stderr", screen)
        terminal = Terminal(40, 100)
        terminal.metrics({"step": 60, "seconds": 1.0, **LINE})
        assert terminal._bar.n == 60
        terminal.close("finished")
        assert "60/100" in screen.getvalue() and "critic -1.235" in screen.getvalue() and "\r" in screen.getvalue()
