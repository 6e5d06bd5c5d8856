"""W&B online, against servers on this machine that do not do what a server should."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from recorded import Pictures, recorder_of, tell
from wandb_records import history, lines, segments

from distgan.run_folder import RunFolder
from distgan.tracking import background, weights_and_biases

KEY = "c0ffee" * 7


class Server(ThreadingHTTPServer):
    """Answers every request with `status`, or with nothing where that is None."""

    daemon_threads = True

    def __init__(self, status: int | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.requests, self.over = status, [], threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.requests.append((self.path, dict(self.headers), body))
        if self.server.status is None:
            self.server.over.wait(60)
            return
        self.send_response(self.server.status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_PUT = do_POST

    def log_message(self, *arguments) -> None:
        pass


_LATE = "deadline exceeded|Timed out|refused"
CAUSES = {None: _LATE, 401: "401", "gone": _LATE}


@pytest.fixture(params=CAUSES, ids=["hangs", "refuses the key", "is gone"])
def server(request):
    found = Server(request.param)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    if request.param == "gone":
        found.stop()
    yield found, CAUSES[request.param]
    if request.param != "gone":
        found.stop()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(weights_and_biases, "START_SECONDS", 2.5)
    return RunFolder(tmp_path / "run")


def test_the_run_neither_waits_nor_stops_and_is_written_offline(folder, server, monkeypatch, capfd):
    server, why = server
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    recorder, generator = recorder_of(folder.path, overrides=["tracking.wandb.mode=online", "tracking.watch=false"])
    began = time.monotonic()
    recorder.start(generator, Pictures(), "a run")
    tell(recorder, *range(1, 200))
    recorder.sample(199, generator)
    assert time.monotonic() - began < weights_and_biases.START_SECONDS  # of which the server took all
    recorder.close("finished")
    rows = history(folder.path)
    assert [row["step"] for row in lines(rows)] == list(range(1, 200))
    assert [row["step"] for row in rows if "samples.path" in row] == [0, 199]
    assert {segment.name for segment in segments(folder.path)} == {f"run-{folder.wandb_id.read_text().strip()}.wandb"}
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("distgan: ")]
    assert len(told) == 1 and "writing offline instead, `wandb sync` sends run_dir/wandb later" in told[0]
    assert "no API key" not in told[0] and re.search(why, told[0])

    secret = base64.b64encode(f"api:{KEY}".encode())
    for path, headers, body in server.requests:
        headers.pop("Authorization", None)
        sent = path.encode() + json.dumps(headers).encode() + body
        assert KEY.encode() not in sent and secret not in sent
    files = [path for path in folder.path.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_key_is_looked_for_without_the_server_and_what_is_no_key_is_told(folder, monkeypatch):
    """In a process of its own: wandb keeps what it has found."""
    server = Server(None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    code = "from distgan.tracking.wandb_process import has_key; print(has_key())"

    def asked() -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)

    assert asked().stdout == "True\n"
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert "API key" in asked().stderr.splitlines()[-1]
    monkeypatch.delenv("WANDB_API_KEY")
    assert asked().stdout == "False\n"
    server.stop()
    assert not server.requests


def test_without_a_key_it_is_offline_too(folder, monkeypatch, capfd):
    monkeypatch.delenv("WANDB_API_KEY")
    recorder, generator = recorder_of(folder.path, overrides=["tracking.wandb.mode=online"])
    recorder.start(generator, Pictures(), "a run")
    tell(recorder, 1)
    recorder.close("finished")
    assert [row["step"] for row in lines(history(folder.path))] == [1]
    assert (
        capfd.readouterr().err.count("there is no API key (run `wandb login`, or set WANDB_API_KEY); writing off") == 1
    )


def test_one_that_hangs_holds_up_no_run_that_is_preempted(folder, monkeypatch, capfd):
    monkeypatch.setattr(weights_and_biases, "START_SECONDS", 60.0)
    monkeypatch.setitem(background.CLOSE_SECONDS, "preempted", 3.0)
    server = Server(None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    recorder, generator = recorder_of(folder.path, overrides=["tracking.wandb.mode=online"])
    recorder.start(generator, Pictures(), "a run")
    tell(recorder, 1)
    began = time.monotonic()
    recorder.close("preempted")
    assert time.monotonic() - began < 6
    server.stop()
    assert "the next start of the run gives W&B what it lacks" in capfd.readouterr().err
    assert (folder.path / "status").read_text() == "preempted\n"
