"""metrics.jsonl through restarts, and on disks that are full, gone and back."""

from __future__ import annotations

import json
import shutil
import threading

import pytest

from distgan.errors import UserError
from distgan.run_folder import RunFolder, read_lines
from distgan.tracking import json_lines
from distgan.tracking.json_lines import JsonLines


def made(path) -> RunFolder:
    folder = RunFolder(path)
    folder.create()
    return folder


@pytest.fixture
def folder(tmp_path):
    return made(tmp_path / "run")


def steps(folder: RunFolder) -> list[int]:
    """Of the file as it is; every line must be whole."""
    return [line["step"] for line in map(json.loads, folder.metrics.read_text().splitlines())]


def write(folder: RunFolder, *numbers: int, start: int = 0) -> None:
    record = JsonLines(folder, start)
    add(record, *numbers)
    record.close()


def add(record: JsonLines, *numbers: int) -> None:
    for number in numbers:
        record.add({"step": number, "critic/loss": number / 3, "filling": 0.1 + 0.2})


class TestRestarts:
    def test_a_line_is_an_object_and_there_at_once(self, folder):
        record = JsonLines(folder, 0)
        record.add({"step": 1, "critic/loss": 0.1 + 0.2, "bad": float("nan")})
        assert json.loads(folder.metrics.read_text()) == {"step": 1, "critic/loss": 0.1 + 0.2, "bad": None}
        assert record.last_step == 1
        record.close()

    def test_going_on_keeps_what_was_before_the_checkpoint_and_drops_what_came_after(self, folder):
        write(folder, 10, 20, 30, 40)
        write(folder, 30, 40, 50, start=20)
        assert steps(folder) == [10, 20, 30, 40, 50]

    def test_a_line_that_a_crash_cut_short_is_dropped(self, folder):
        write(folder, 10, 20)
        with open(folder.metrics, "a") as file:
            file.write('{"step": 30, "critic/lo')
        assert [line["step"] for line in read_lines(folder.metrics)] == [10, 20]
        write(folder, 30, 40, start=20)
        assert steps(folder) == [10, 20, 30, 40]

    def test_the_line_of_an_early_end_is_written_anew(self, folder):
        write(folder, 10, 20, 25)
        write(folder, 30, start=20)
        assert steps(folder) == [10, 20, 30]

    @pytest.mark.parametrize("damage", [b"\xff", b"x", b"\n"])
    def test_a_damaged_line_takes_no_other_with_it_and_is_told(self, folder, damage, capsys):
        write(folder, *range(10, 90, 10))
        whole = folder.metrics.read_bytes().splitlines(keepends=True)
        whole[3] = whole[3][:4] + damage + whole[3][5:]
        folder.metrics.write_bytes(b"".join(whole) + b'{"step": 90, "cri')
        record = JsonLines(folder, 80, (8, 80))
        add(record, 90)
        record.close()
        assert steps(folder) == [10, 20, 30, 50, 60, 70, 80, 90]
        (told,) = capsys.readouterr().err.splitlines()
        assert "1 of its 8 lines up to step 80 are missing or damaged (the widest gap is from step 30 to 50)" in told

    def test_a_file_that_was_removed_or_lost_lines_is_told_and_a_whole_one_not(self, folder, capsys):
        write(folder, *range(10, 80, 10))
        JsonLines(folder, 70, (7, 70)).close()
        JsonLines(folder, 75, (7, 70)).close()
        assert capsys.readouterr().err == ""
        write(folder, start=50)
        JsonLines(folder, 70, (7, 70)).close()
        assert "2 of its 7 lines up to step 70" in (told := capsys.readouterr().err) and "from step 50 to 70" in told
        folder.metrics.unlink()
        JsonLines(folder, 70, (7, 70)).close()
        assert "7 of its 7 lines up to step 70" in (told := capsys.readouterr().err) and "from step 0 to 70" in told

    def test_starting_from_nothing_drops_all(self, folder):
        write(folder, 10, 20)
        write(folder, 10)
        assert steps(folder) == [10]

    def test_going_back_to_a_checkpoint_drops_what_came_after(self, folder):
        record = JsonLines(folder, 0)
        add(record, 10, 20, 30)
        record.rewind(20)
        assert steps(folder) == [10, 20] and record.last_step == 20
        add(record, 30, 40)
        record.close()
        assert steps(folder) == [10, 20, 30, 40]


class TestDiskFull:
    def test_lines_wait_in_their_order_and_no_line_is_ever_torn(self, disk, capsys):
        folder = made(disk.folder / "run")
        record = JsonLines(folder, 0)
        add(record, 10, 20)
        disk.fill(folder.metrics)
        waiting = list(range(30, 2000, 10))
        for step in waiting:
            add(record, step)
            assert steps(folder) == list(range(10, step + 10, 10))[: len(steps(folder))]
        assert len(steps(folder)) < len(waiting) and not record.written(1990) and record.written(20)
        assert not record.sync(1990) and record.sync(20)
        disk.make_room()
        assert record.written(1990) and record.sync(1990)
        add(record, 2000)
        record.close()
        assert steps(folder) == list(range(10, 2010, 10))
        told = capsys.readouterr().err.splitlines()
        assert told[0] == (
            f"distgan: {folder.metrics}: cannot be written: {disk.reason}; the run goes on and tries again"
        )
        assert len(told) == 2 and "is written again" in told[1]

    def test_a_second_time_is_told_again(self, disk, capsys):
        folder = made(disk.folder / "run")
        record = JsonLines(folder, 0)
        for start in (10, 5010):
            disk.fill(folder.metrics)
            add(record, *range(start, start + 2000, 10))
            disk.make_room()
            add(record, start + 2000)
        assert steps(folder) == [*range(10, 2020, 10), *range(5010, 7020, 10)]
        assert capsys.readouterr().err.count("the run goes on") == 2

    def test_lines_that_are_still_not_there_at_the_end_are_an_error_that_names_them(self, disk):
        folder = made(disk.folder / "run")
        record = JsonLines(folder, 0)
        add(record, 10)
        disk.fill(folder.metrics)
        add(record, *range(20, 2010, 10))
        there = steps(folder)
        with pytest.raises(UserError) as caught:
            record.close()
        disk.make_room()
        assert steps(folder) == there
        assert str(caught.value) == (
            f"{folder.metrics}: cannot be written: {disk.reason}; its last {200 - len(there)} lines are lost (steps "
            f"{there[-1] + 10} to 2000); make room and start again to resume"
        )

    def test_room_that_comes_just_before_the_end_is_enough(self, disk):
        folder = made(disk.folder / "run")
        record = JsonLines(folder, 0)
        disk.fill(folder.metrics)
        add(record, *range(10, 2010, 10))
        disk.make_room()
        record.close()
        assert steps(folder) == list(range(10, 2010, 10))

    def test_going_back_while_lines_wait(self, disk):
        folder = made(disk.folder / "run")
        record = JsonLines(folder, 0)
        disk.fill(folder.metrics)
        add(record, *range(10, 2010, 10))
        there = steps(folder)
        record.rewind(1000)
        assert steps(folder) == there[:100]
        disk.make_room()
        add(record, 1010)
        record.close()
        assert steps(folder) == list(range(10, 1020, 10))

    def test_a_start_needs_room(self, disk):
        folder = made(disk.folder / "run")
        write(folder, *range(10, 2010, 10))
        disk.fill(folder.environment)
        with pytest.raises(UserError, match=f"metrics.jsonl: cannot be written: {disk.reason}; make room"):
            JsonLines(folder, 2000)
        disk.make_room()
        assert steps(folder) == list(range(10, 2010, 10))


class TestDiskGone:
    @pytest.mark.parametrize("what", ["file", "folder", "emptied", "replaced"])
    def test_a_file_that_vanished_is_made_again_with_all_lines(self, folder, what):
        write(folder, 10, 20)
        record = JsonLines(folder, 20)
        add(record, 30)
        if what == "file":
            folder.metrics.unlink()
        elif what == "folder":
            shutil.rmtree(folder.path)
        elif what == "emptied":
            folder.metrics.write_text("")
        else:
            folder.metrics.unlink()
            folder.metrics.write_text("something else\n" * 100)
        add(record, 40)
        assert steps(folder) == [10, 20, 30, 40]
        add(record, 50)
        record.close()
        assert steps(folder) == [10, 20, 30, 40, 50]

    def test_what_another_appended_goes(self, folder):
        record = JsonLines(folder, 0)
        add(record, 10)
        with open(folder.metrics, "a") as file:
            file.write('{"step"')
        add(record, 20)
        assert steps(folder) == [10, 20]

    def test_a_folder_that_cannot_be_made_again_yet(self, folder, capsys):
        record = JsonLines(folder, 0)
        add(record, 10)
        shutil.rmtree(folder.path)
        folder.path.write_text("a file in its place")
        add(record, 20, 30)
        assert not record.written(10)
        folder.path.unlink()
        add(record, 40)
        assert steps(folder) == [10, 20, 30, 40] and record.written(40)
        told = capsys.readouterr().err
        assert told.count("cannot be written") == 1 and told.count("is written again") == 1

    def test_what_a_flush_to_disk_may_have_lost_is_written_anew(self, folder, monkeypatch):
        record = JsonLines(folder, 0)
        add(record, 10)

        def fail(descriptor: int) -> None:
            folder.metrics.write_text("")  # as a file system may that had not put it there yet
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(json_lines.os, "fsync", fail)
            assert not record.sync(10)
        assert record.sync(10) and steps(folder) == [10]


def test_a_thread_may_flush_while_another_writes(folder):
    record, flushed, done = JsonLines(folder, 0), [], threading.Event()

    def flush() -> None:
        while not done.is_set():
            flushed.append(record.sync(record.last_step))

    thread = threading.Thread(target=flush)
    thread.start()
    add(record, *range(1, 301))
    done.set()
    thread.join(20)
    record.close()
    assert steps(folder) == list(range(1, 301)) and flushed and all(flushed)
