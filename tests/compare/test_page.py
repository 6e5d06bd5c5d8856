"""The report in a real browser that has no network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from runs import add_grid, make_run

from distgan.compare.grids import grids_of
from distgan.compare.metrics import in_order
from distgan.compare.page import page
from distgan.compare.sources import read_runs

selenium = pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

EVIL = "<img src=x onerror=alert(1)>"
NAME = f"</script>{EVIL} %{{x}}"
NOTES = "</script><script>alert(2)</script> \u2028 &amp; {{ 7 * 7 }}"
RUNS = ["run 0", "run 1", "run 2"]
METRICS = ("critic/loss", "critic/wasserstein", "evaluate/fid")


@pytest.fixture(scope="module")
def browser():
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if not driver or not chromium:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    no_network = "--host-resolver-rules=MAP * ~NOTFOUND"
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,5000", no_network):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of one config, and a run of another that would break out of a page."""
    root = tmp_path_factory.mktemp("runs")
    for name, level, more in (("seed0", 1, []), ("seed1", 2, ["seed=1"]), (EVIL, 3, ["objective.penalty=lp"])):
        run = make_run(root / name, *more, level=level)
        for step in (0, 5, 10):
            add_grid(run, step, 60 * level + 5 * step)
        Image.fromarray(np.full((64, 64, 3), 9, np.uint8)).save(run / "reals.png")
    (root / EVIL / "end.json").write_text(json.dumps({"status": "failed", "why": f"why {EVIL}"}))
    (root / EVIL / "status").write_text("failed\n")
    found = read_runs([str(root)])
    assert [run.name for run in found] == [EVIL, "seed0", "seed1"]
    return [replace(found[0], name=NAME, notes=NOTES, tags=(EVIL,)), *found[1:]]


@pytest.fixture(scope="module")
def opened(browser, runs, tmp_path_factory):
    """The browser with the report open, all panels drawn."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page(runs, METRICS, "kimg"))
    browser.get(file.as_uri())
    _drawn(browser)
    return browser


def _drawn(browser) -> None:
    """Waits until the panels near the window are drawn."""
    waiting = "return document.querySelectorAll('.chart').length - document.querySelectorAll('[data-drawn]').length"
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(waiting) == 0)


def _traces(browser, key: str) -> list[list]:
    """What plotly draws, by panel: (meta, the key) of each trace that is seen."""
    return browser.execute_script(
        "return [...document.querySelectorAll('.chart')].map(plot => plot.data"
        ".filter(t => t.visible && t.hoverinfo !== 'skip').map(t => [t.meta, t[arguments[0]]]))",
        key,
    )


def _paths(browser) -> list[list[float]]:
    """Lengths of the lines that stand in the page, by panel."""
    return browser.execute_script(
        "return [...document.querySelectorAll('.chart')].map(plot => "
        "[...plot.querySelectorAll('.scatterlayer .trace .js-line')].map(path => path.getTotalLength()))"
    )


def _click(browser, selector: str) -> None:
    browser.find_element(By.CSS_SELECTOR, selector).click()
    _drawn(browser)


def test_the_page_opens_without_errors_and_asks_for_nothing(opened):
    wrong = [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [told["params"]["request"]["url"] for told in messages if told["method"] == "Network.requestWillBeSent"]
    assert wrong == []
    assert any(url.startswith("file:") for url in asked)
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_the_curve_of_each_run_is_drawn_in_each_panel(opened):
    drawn, lengths = _traces(opened, "y"), _paths(opened)
    assert len(drawn) == len(METRICS) + 1  # and the histogram of gradient norms
    assert [[meta for meta, _ in panel] for panel in drawn] == [["group 1", *RUNS]] * len(METRICS) + [RUNS]
    assert sorted(y[-1] for meta, y in drawn[1] if meta.startswith("run")) == [10, 20, 30]
    assert all(len(panel) >= 3 and min(panel) > 20 for panel in lengths), lengths


def test_a_click_on_a_name_hides_a_run_everywhere_and_another_shows_it(opened):
    picture = opened.find_element(By.CSS_SELECTOR, 'figure[data-run="1"]')
    lines = [len(panel) for panel in _paths(opened)]
    _click(opened, '.chip[data-run="1"]')
    assert [[meta for meta, _ in panel if meta in RUNS] for panel in _traces(opened, "y")] == [["run 0", "run 2"]] * 4
    assert [len(panel) for panel in _paths(opened)] == [count - 1 for count in lines]
    assert not picture.is_displayed()
    _click(opened, '.chip[data-run="1"]')
    assert [[meta for meta, _ in panel if meta in RUNS] for panel in _traces(opened, "y")] == [RUNS] * 4
    assert [len(panel) for panel in _paths(opened)] == lines and picture.is_displayed()


def test_a_click_on_a_mean_hides_the_band_of_a_group(opened):
    _click(opened, '.chip[data-group="1"]')
    assert all("group 1" not in [meta for meta, _ in panel] for panel in _traces(opened, "y"))
    _click(opened, "#all")
    assert ["group 1" in [meta for meta, _ in panel] for panel in _traces(opened, "y")] == [True, True, True, False]


def test_the_axis_can_be_changed(opened):
    found = {}
    for axis in ("step", "hours", "kimg"):
        _click(opened, f'button[data-axis="{axis}"]')
        found[axis] = {meta: x[-1] for meta, x in _traces(opened, "x")[0]}
        titles = opened.execute_script(
            "return [...document.querySelectorAll('.chart .xtitle')].map(t => t.textContent)"
        )
        assert titles[:-1] == [axis] * len(METRICS)
    assert [found[axis]["run 0"] for axis in ("step", "kimg", "hours")] == [10, 0.4, 0.1]
    assert [round(found[axis]["group 1"], 6) for axis in ("step", "kimg", "hours")] == [10, 0.4, 0.1]


def test_a_log_scale_is_taken_where_all_is_positive(opened):
    _click(opened, "#log")
    kinds = opened.execute_script("return [...document.querySelectorAll('.chart')].map(p => p._fullLayout.yaxis.type)")
    assert kinds == ["linear", "log", "log", "linear"]
    _click(opened, "#log")


def test_smoothing_makes_a_curve_smoother(opened):
    before = _traces(opened, "y")[2][-1][1]
    opened.execute_script(
        "const s = document.getElementById('smoothing'); s.value = 20; s.dispatchEvent(new Event('input'))"
    )
    _drawn(opened)
    after = _traces(opened, "y")[2][-1][1]
    assert len(after) == len(before) and np.abs(np.diff(after, 2)).max() < np.abs(np.diff(before, 2)).max() + 1e-9
    assert after != before
    opened.execute_script(
        "const s = document.getElementById('smoothing'); s.value = 0; s.dispatchEvent(new Event('input'))"
    )


def test_a_slider_over_kimg_shows_the_samples_of_all_runs(opened):
    def shown():
        images = opened.find_elements(By.CSS_SELECTOR, "figure[data-run] img")
        return [image.get_attribute("src") for image in images]

    last = shown()
    assert len(set(last)) == 3 and all(source.startswith("data:image/jpeg") for source in last)
    captions = [caption.text for caption in opened.find_elements(By.CSS_SELECTOR, "figure[data-run] .at")]
    assert captions == ["at kimg 0.4"] * 3
    opened.execute_script(
        "const s = document.getElementById('moment'); s.value = 0; s.dispatchEvent(new Event('input'))"
    )
    assert set(shown()).isdisjoint(last)
    assert opened.find_element(By.ID, "moment-kimg").text == "0"
    real = opened.find_elements(By.CSS_SELECTOR, "figure:not([data-run]) img")
    assert len(real) == 1 and real[0].get_property("naturalWidth") == 64


def test_names_and_notes_are_text_and_nothing_else(opened):
    assert NAME in [chip.text for chip in opened.find_elements(By.CSS_SELECTOR, ".chip[data-run]")]
    body = opened.find_element(By.TAG_NAME, "body").text
    assert f"failed: why {EVIL}" in body and "</script><script>alert(2)</script>" in body and "{{ 7 * 7 }}" in body
    assert opened.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    scripts = opened.execute_script("return document.querySelectorAll('script').length")
    assert scripts == 3
    number = opened.execute_script(
        "const plot = document.querySelector('.chart');"
        "return plot.data.findIndex(trace => trace.meta === `run ${arguments[0]}`)",
        [chip.text for chip in opened.find_elements(By.CSS_SELECTOR, ".chip[data-run]")].index(NAME),
    )
    opened.execute_script(
        "Plotly.Fx.hover(document.querySelector('.chart'), [{curveNumber: arguments[0], pointNumber: 5}])", number
    )
    label = WebDriverWait(opened, 10).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".chart .hovertext"))
    assert NAME in label[0].get_property("textContent")


def test_a_group_says_how_many_of_it_have_not_finished(opened):
    heads = [head.text for head in opened.find_elements(By.CSS_SELECTOR, "#by-group thead th")]
    assert [head.partition("(")[2] for head in heads[1:]] == ["n = 1, 1 not finished)", "n = 2)"]


def test_pictures_fit_in_their_room_at_moments_from_the_first_to_the_last(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", count=40)
    noise = np.random.default_rng(0)
    for step in range(0, 41):
        Image.fromarray(noise.integers(0, 255, (200, 200, 3), np.uint8)).save(run / "samples" / f"{step:08d}.png")
    (run / "samples" / "00000040.png").write_bytes(b"no picture")
    monkeypatch.setattr("distgan.compare.grids._MOST_BYTES", 300_000)
    found = grids_of(read_runs([str(run)]))
    assert sum(map(len, found.pictures)) < 300_000 * 4 / 3 + 12 * 40
    assert len(found.moments) == 12 and (found.moments[0], found.moments[-1]) == (0, pytest.approx(1.6))
    assert found.shown[0][-1][1] is None and found.unreadable == [run / "samples" / "00000040.png"]


def test_metrics_that_say_most_come_first():
    names = {"memory/host_gb", "own/metric", "critic/loss", "evaluate/fid", "critic/wasserstein", "generator/loss"}
    assert in_order(names) == [
        "evaluate/fid",
        "critic/wasserstein",
        "critic/loss",
        "generator/loss",
        "memory/host_gb",
        "own/metric",
    ]
