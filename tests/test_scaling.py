"""The scaling model (benchmarks/scaling) against values worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from launching import ROOT, TINY

from benchmarks.scaling.__main__ import main, report, step_of, traffic_of
from benchmarks.scaling.measure import line_through
from benchmarks.scaling.model import Cluster, Link, Model, Traffic, most_gpus
from distgan.config import load_config
from distgan.errors import UserError

INSIDE, BETWEEN = Link(100e9, 1e-6), Link(10e9, 10e-6)
CLUSTER = Cluster(INSIDE, BETWEEN, per_node=8, start=0.0)


def test_one_gpu_sends_nothing():
    assert CLUSTER.reduction(1e9, 1) == 0


def test_two_gpus_send_the_bytes_once_over_their_link():
    # a ring of 2: 2 * 1/2 of 100 MB over 100 GB/s, and 2 hops of 1 us
    assert CLUSTER.reduction(100e6, 2) == pytest.approx(1e-3 + 2e-6)


def test_a_large_reduction_over_nodes_goes_at_the_speed_of_the_slower_link():
    # 16 GPUs on 2 nodes: 30 hops, of which 2 between nodes; 30/16 of 1 GB over 10 GB/s
    assert CLUSTER.reduction(1e9, 16) == pytest.approx(28e-6 + 20e-6 + 0.1875)


def test_a_small_reduction_over_many_nodes_takes_the_depth_of_a_tree():
    # 512 GPUs on 64 nodes: up and down 7 hops inside and log2(64) = 6 between; twice 1 kB over 10 GB/s. A ring would
    # take (1022 - 126) us + 1260 us
    assert CLUSTER.reduction(1e3, 512) == pytest.approx(2 * (7e-6 + 60e-6) + 2e-7)


def test_every_reduction_begins_late_by_its_start():
    assert CLUSTER._replace(start=5e-6).reduction(100e6, 2) == pytest.approx(1.007e-3)


MODEL = Model(Traffic((100e6,) * 4, (0.0,)), CLUSTER, seconds=0.1, images=50)
"""On 2 GPUs it sends 4 x 1.002 ms and 0.002 ms: 4.01 ms beside 100 ms."""


def test_images_that_are_kept_cost_the_sending_alone():
    assert MODEL.sending(2) == pytest.approx(4.01e-3)
    assert MODEL.kept(2) == pytest.approx(0.1 / 0.10401)
    assert MODEL._replace(overlap=0.5).kept(2) == pytest.approx(0.1 / 0.102006), "statistics are not hidden"


def test_a_batch_that_is_shared_computes_less_and_sends_as_much():
    assert MODEL.shared(2, 50) == pytest.approx(0.05 / 0.05401)
    floored = MODEL._replace(floor=0.08)
    assert floored.shared(2, 50) == pytest.approx(0.05 / 0.08401) and floored.shared(1, 50) == 1


def test_the_fewest_images_reach_the_efficiency_and_one_less_does_not():
    # 0.9: nine times 4.01 ms of computing, at 2 ms an image: 18.05
    assert MODEL.fewest_images(2, 0.9) == 19
    assert MODEL.kept(2, 19) >= 0.9 > MODEL.kept(2, 18)
    assert MODEL._replace(floor=0.05).fewest_images(2, 0.9) == 1


def test_the_most_gpus_stop_where_the_efficiency_first_falls():
    efficiencies = {1: 1.0, 2: 0.95, 4: 0.8, 8: 0.92}
    assert most_gpus(efficiencies.get, efficiencies, 0.9) == 2


def test_a_step_sends_what_training_was_counted_to_send():
    # tests/test_communication.py counts the same bytes in a training: two updates of the critic, moments of norms of
    # 32, 16 and 8 maps, forward in two batches of fakes and there and back in the generator's update
    traffic = traffic_of(load_config([TINY]))
    critic, other, generator = traffic.gradients
    assert critic == other and sorted(traffic.statistics) == sorted([256, 128, 64] * 4)
    half = traffic_of(load_config([TINY], ["train.reduce=bf16"]))
    assert half.gradients == (critic / 2, critic / 2, generator / 2) and half.statistics == traffic.statistics


def test_the_line_through_measured_times_gives_back_the_link():
    cluster = Cluster(Link(2e9, 50e-6), Link(2e9, 50e-6), per_node=4, start=0.0)
    for processes in (2, 4):
        times = {size: cluster.reduction(size, processes) for size in (4_000, 16_000_000)}
        assert line_through(times, processes) == pytest.approx((50e-6, 2e9))


def test_the_report_says_when_it_stops_paying():
    text = report(MODEL, 64)
    assert "400.0 MB a step in 5 reductions; one GPU takes 100.0 ms for 50 images" in text
    # kept: 8 GPUs send 4 x 1.764 ms, 16 on two nodes 4 x 188 ms; shared: 64 / (64 + 4.01) ms, 32 / (32 + 6.02) ms
    assert "90%: up to 8 GPUs with 50 images each; a batch of 64 up to 2" in text


def write(folder, world_size: int, lines: list[dict]) -> None:
    folder.mkdir()
    (folder / "environment.json").write_text(json.dumps({"starts": [{"world_size": world_size}]}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_step_of_a_run_is_that_of_its_lines_after_the_first(tmp_path):
    lines = [{"step": step, "seconds": seconds} for step, seconds in ((10, 9.0), (20, 10.0), (30, 11.0))]
    write(tmp_path / "one", 1, lines)
    assert step_of(tmp_path / "one") == pytest.approx(0.1)
    write(tmp_path / "two", 2, lines)
    with pytest.raises(UserError, match="had 2 processes; take a run on one GPU"):
        step_of(tmp_path / "two")
    write(tmp_path / "short", 1, lines[:1])
    with pytest.raises(UserError, match="1 lines of metrics say nothing of a step"):
        step_of(tmp_path / "short")


def command(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", *words])
    return main()


@pytest.mark.parametrize(
    "word", ["--images=-3", "--per-node=0", "--inside=0,1", "--overlap=2", "--floor-ms=-5", "--step-ms=inf"]
)
def test_numbers_that_make_no_sense_are_bad_usage(monkeypatch, capsys, word):
    with pytest.raises(SystemExit, match="2"):
        command(monkeypatch, "--config", str(TINY), "--step-ms", "5", word)
    assert f"argument {word.split('=')[0]}: " in capsys.readouterr().err


def test_the_command_refuses_what_it_cannot_use(monkeypatch, capsys):
    assert command(monkeypatch, "--config", str(TINY)) == 2
    assert capsys.readouterr().err == "scaling: give --run FOLDER, or --config FILE and --step-ms\n"
    assert command(monkeypatch, "--run", "/nowhere") == 2 and command(monkeypatch, "--measure", "1") == 2
    with pytest.raises(SystemExit):
        command(monkeypatch, "--config", str(TINY), "--step-ms", "5", "--inside", "pigeon")
    assert "pigeon: one of nvlink4, nvlink3, pcie5, pcie4, or GB/s and microseconds" in capsys.readouterr().err


def test_links_have_names_or_numbers(monkeypatch, capsys):
    words = ["--config", str(TINY), "--step-ms", "5", "--between", "25GbE"]
    assert command(monkeypatch, *words, "--inside", "450,2") == 0
    by_numbers = capsys.readouterr().out
    assert command(monkeypatch, *words) == 0 and capsys.readouterr().out == by_numbers


@pytest.mark.long
def test_this_machine_is_measured():
    words = [sys.executable, "-m", "benchmarks.scaling", "--measure", "2", "--config", str(TINY)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "2 processes over gloo: --inside " in done.stdout and "a step" in done.stdout
