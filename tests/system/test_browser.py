"""TensorBoard's pages on a sweep, as a real browser shows them: they draw what they should and log no error."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lntrain.runs.dashboard import LAYOUT

ROOT = Path(__file__).parents[2]
SWEEP = ["problem.n=12", "problem.d=8", "problem.k=2", "model.replicas=null", "penalty.alpha_ratio=0.2", "engine=torch"]
SWEEP += ["optimizer.lr=0.002,0.003", "seed=0,1", "steps=300", "hydra/launcher=basic"]
GROUPS = ("lr=0.002", "lr=0.003")
RUNS = tuple(f"{group},seed={seed}" for group in GROUPS for seed in (0, 1))
# TensorBoard's own requests to nowhere but itself; the other options quieten Chromium's
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
           "--disable-background-networking", "--disable-component-update", "--window-size=1600,1400"]  # fmt: skip
# all text of a page, TensorBoard's shadow trees included
TEXT = """
const walk = node => [...node.childNodes].map(child => {
    if (child.nodeType === Node.TEXT_NODE) return child.textContent.trim();
    if (['SCRIPT', 'STYLE', 'TEMPLATE'].includes(child.nodeName)) return '';
    return (child.shadowRoot ? walk(child.shadowRoot) : '') + ' ' + walk(child);
}).join(' ');
return walk(document.body);
"""
CLICK = """
const find = node => {
    for (const child of node.querySelectorAll('*')) {
        if (child.nodeName === 'PAPER-TAB' && child.textContent.includes(arguments[0])) return child;
        const found = child.shadowRoot && find(child.shadowRoot);
        if (found) return found;
    }
};
find(document).click();
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser") / "sweep"
    code = "from lntrain.{} import main; main()"
    for module, arguments in (("cli", ["-m", *SWEEP, f"hydra.sweep.dir={folder}"]), ("sweeps.report", [folder])):
        command = [sys.executable, "-c", code.format(module), *map(str, arguments)]
        subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL, cwd=folder.parent)
    return folder


@pytest.fixture(scope="module")
def tensorboard(sweep, tmp_path_factory):
    """scripts/dashboard on the sweep: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [ROOT / "scripts" / "dashboard", sweep, "--host=127.0.0.1", f"--port={port}"]
    log = tmp_path_factory.mktemp("tensorboard") / "log"
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as server:
        try:
            _wait_for(lambda: len(_runs(port)) > 2 * len(GROUPS), log.read_text)
            yield f"http://127.0.0.1:{port}/?smoothing=0"
        finally:
            server.terminate()
    assert f"http://localhost:{port}/?smoothing=0" in log.read_text()


def _runs(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs", timeout=10) as answer:
            return answer.read().decode().split(",")
    except OSError:
        return []


def _wait_for(condition, why, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s:\n{why()}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("chromium and chromium-driver are not installed: run .ci/packages as root")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    environment = {**os.environ, "NO_PROXY": "127.0.0.1,localhost"}
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1], env=environment))
    driver.set_page_load_timeout(90)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def page(browser, tensorboard):
    """Open a plugin's page, wait until it shows each text and not `without`; its console holds no error at the end."""

    def show(plugin, *texts, without="(no such text)", tab=None):
        browser.get("about:blank")
        browser.get(f"{tensorboard}#{plugin}")
        if tab is not None:
            _wait_for(lambda: tab in _text(), _text)
            browser.execute_script(CLICK, tab)
        _wait_for(lambda: (seen := _text()) and without not in seen and all(text in seen for text in texts), _text)

    def _text():
        return " ".join(browser.execute_script(TEXT).split())

    browser.get_log("browser")
    yield show
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


def test_the_time_series_page_names_every_run_and_metric(page):
    page("timeseries", *RUNS, "distance /mean", "lasso", "support", "Smoothing 0")


def test_the_custom_scalars_page_draws_each_chart_of_the_layout(page):
    charts = [title for charts in LAYOUT.values() for title in charts]
    page("custom_scalars", *RUNS, *charts, "Matches (", without="Matches (0)")


def test_the_hparams_page_shows_the_swept_keys_and_what_was_reached(page):
    page("hparams", "lr", "result/distance_mean", "result/lambda_ratio", "result/support_f1", RUNS[0], tab="TABLE VIEW")


def test_the_parallel_coordinates_are_drawn(page):
    page(
        "hparams",
        "Color by",
        "lr",
        "result/distance_mean",
        "Number of matching session groups",
        tab="PARALLEL COORDINATES",
    )
