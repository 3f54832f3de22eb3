"""The live page, in a real browser: what it shows, what its buttons do, who may look."""

import asyncio
import base64
import http.client
import json
import math
import re
import signal
import subprocess
import sys
import threading
import time

import aiohttp
import cv2
import numpy as np
import pytest

from benchmarks.browser import browser as chromium
from edge_rjepa.base import journal
from edge_rjepa.encoder import parity
from edge_rjepa.errors import ConfigError
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.config import MonitorConfig, RunConfig
from edge_rjepa.run.loop import FixationBatch
from edge_rjepa.run.monitor import Health
from edge_rjepa.run.run import Progress, Run
from edge_rjepa.sources import Frame, open_source
from edge_rjepa.views import metrics
from edge_rjepa.views.dashboard import page_of
from edge_rjepa.views.dashboard import server as server_room
from edge_rjepa.views.dashboard.buttons import Buttons
from edge_rjepa.views.dashboard.history import record_at, summed_up
from edge_rjepa.views.dashboard.kept import KeptRun
from edge_rjepa.views.dashboard.learning import LearningRun
from edge_rjepa.views.dashboard.live import LiveState, cells_of
from edge_rjepa.views.dashboard.server import (
    MOST_VIEWERS,
    REPLACED,
    Dashboard,
    is_loopback,
    parse_address,
)
from edge_rjepa.views.verdict import LEARNED, verdict
from firmware_bridge import open_head
from tests import browser
from tests.firmware_bridge.core_board import CoreBoard

pytestmark = pytest.mark.browser

browser.require()

NETWORK = RJepaConfig(n_embedding=16, n_hidden=24, n_predictor=24, n_gain=8)
# So small a network shrinks to nothing now and then, and would not be kept.
UNWATCHED = MonitorConfig(min_std=0.0, min_rank=0.0)
CONFIG = RunConfig(network=NETWORK, metrics_every_frames=10, monitor=UNWATCHED)
PATIENCE_S = 90.0
FRAME_S = 0.03  # as of a camera: the browser needs the processor, too


def wait_for(true, what, why_not=lambda: ""):
    """why_not: says more where it does not come true."""
    end_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end_s, f"not within {PATIENCE_S} s: {what} {why_not()}"
        time.sleep(0.05)


class Learning:
    """A run that learns in a thread, with its page; the head turns the camera of a scene."""

    def __init__(self, folder, board, address):
        self._head = open_head(f"serial:{board.path}")
        self._head.home()
        self._source = open_source("scene:", mount=self._head)
        self.run = Run.start(folder, CONFIG, self._source, head=self._head)
        self.run.loop._turn_head = lambda: None  # only the buttons turn it
        self.head = self._head
        self._page = page_of(self.run, address, None)
        self.page = self._page.__enter__()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._learn)
        self._thread.start()

    def _learn(self):
        def go_on(run):
            self.page.buttons.obey(run)
            return not self._ended.wait(FRAME_S)

        self.run.learn(go_on, self.page.live.on_progress, self.page.live.on_event)

    def standing(self):
        """Which of its parts still moves."""
        alive, shown = self._thread.is_alive(), self.page.live.batches
        return f"({shown} pictures, learning {alive}, {self.head.state()}, {self.run.loop.faults})"

    def close(self):
        self._ended.set()
        self._thread.join()
        self._page.__exit__(None, None, None)
        self._source.close()
        self._head.close()


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with CoreBoard(tmp_path_factory.mktemp("board")) as board:
        board.send_home()
        yield board


@pytest.fixture(scope="module")
def world(tmp_path_factory, board):
    learning = Learning(tmp_path_factory.mktemp("runs") / "desk", board, "127.0.0.1:0")
    try:
        with chromium() as driver:
            driver.get(learning.page.server.url)
            wait_for(lambda: text(driver, "line") == "live", "the page is live")
            yield learning, driver
    finally:
        learning.close()


def text(driver, name):
    return driver.find_element("id", name).text


def measured(folder):
    return [line for line in journal.read(folder / "metrics.jsonl") if "fixations" in line]


def press(driver, name):
    driver.find_element("css selector", f"[data-press='{name}']").click()
    wait_for(lambda: text(driver, "said") not in ("", "…"), f"{name} is answered")
    said = text(driver, "said")
    driver.execute_script("document.getElementById('said').textContent = ''")
    return said


def test_it_shows_what_is_and_says_nothing_wrong(world):
    learning, driver = world
    eye = driver.find_element("id", "eye")
    before = int(eye.get_attribute("data-count") or 0)
    wait_for(lambda: int(eye.get_attribute("data-count") or 0) > before + 10, "the picture moves")
    width = "return arguments[0].naturalWidth"
    wait_for(lambda: driver.execute_script(width, eye) == 320, "it is as large as the camera's")

    # Values are those of a line of metrics.jsonl, all of one line.
    def shown():
        values = driver.execute_script(
            "return [...document.querySelectorAll('[data-value]')]"
            ".map(b => [b.dataset.value, b.dataset.exact])"
            ".concat([['fixations', document.getElementById('count').dataset.fixations]])"
        )
        return {name: None if exact == "" else float(exact) for name, exact in values}

    wait_for(lambda: shown()["fixations"], "measures are shown")
    values = shown()
    wait_for(
        lambda: any(
            all(line[name] == value for name, value in values.items())
            for line in measured(learning.run.folder)
        ),
        "the line shown is in the journal",
    )
    wait_for(lambda: driver.find_element("id", "map").get_attribute("src"), "the map of surprise")
    wait_for(lambda: "still" in text(driver, "devices"), "the head is shown")
    assert browser.complaints(driver) == []


def painted(driver):
    """How many points of what is laid over the picture are not clear."""
    return driver.execute_script(
        "const over = document.getElementById('over'), {width, height} = over;"
        "const {data} = over.getContext('2d').getImageData(0, 0, width, height);"
        "let count = 0; for (let i = 3; i < data.length; i += 4) count += data[i] > 0;"
        "return count"
    )


def test_what_is_laid_over_the_picture_can_be_taken_away(world):
    _, driver = world
    wait_for(lambda: painted(driver), "fixations are drawn")
    switches = [driver.find_element("id", name) for name in ("show-fixations", "show-field")]
    for switch in switches:
        switch.click()
    wait_for(lambda: not painted(driver), "nothing is over the picture")
    switches[1].send_keys(" ")  # a key does it, too
    wait_for(lambda: painted(driver), "where it is usually surprised")
    switches[0].click()


def test_one_sentence_says_how_it_goes(world):
    learning, driver = world
    wait_for(lambda: text(driver, "sentence").endswith("."), "there is a sentence")
    measures = metrics.read(learning.run.folder / "metrics.jsonl").measures
    assert text(driver, "sentence") == verdict(measures).sentence


def test_boxes_with_nothing_in_them_are_not_shown(world):
    _, driver = world
    for name in ("teaching", "alarming", "masking", "leaf"):
        assert not driver.find_element("id", name).is_displayed(), name


def test_what_was_taught_is_shown(folder):
    found = {
        "taught": [{"name": "kitchen", "looks": 12}, {"name": "<b>größe</b>", "looks": 1}],
        "recognised": {"name": "kitchen", "probability": 0.934},
    }
    live = live_state()
    buttons = Buttons(lambda learner, path: None, live.on_event)
    run = LearningRun(folder, live, buttons, taught=lambda: found)
    with Dashboard("127.0.0.1:0", run) as server, chromium() as driver:
        driver.get(server.url)
        wait_for(lambda: "kitchen" in text(driver, "recognised"), "what is there now")
        assert text(driver, "recognised") == "Now: kitchen, 93 % sure."
        # At one moment: the page draws the list anew with each state that comes.
        said = driver.execute_script(
            "return [...document.querySelectorAll('#taught li')].map(item => item.innerText)"
        )
        assert said == ["kitchen: 12 looks", "<b>größe</b>: 1 look"]
        found["recognised"] = {"name": None, "probability": 0.2}
        wait_for(lambda: "nothing" in text(driver, "recognised"), "unknown is an answer")


@pytest.mark.parametrize("huge", [1e300, -1e300])
def test_one_huge_value_leaves_the_axis_and_hides_no_other(tmp_path, huge):
    kept = journal.Journal(tmp_path / "metrics.jsonl")
    for k in range(1, 40):
        line = {"frames": 10 * k, "fixations": 160 * k, "time_unix_s": 1e9 + k}
        kept.append(line | {"surprise": huge if k == 30 else 5.0 + k % 2})
    with Dashboard("127.0.0.1:0", KeptRun(tmp_path)) as server, chromium() as driver:
        driver.get(server.url)
        wait_for(lambda: driver.find_elements("css selector", "[data-curve='surprise'] .curve"), "")
        path = driver.find_element("css selector", "[data-curve='surprise'] .curve")
        y = [float(point.split()[1]) for point in path.get_attribute("d").split("L")]
        words = driver.find_elements("css selector", "[data-curve='surprise'] text")
    others = y[:29] + y[30:]
    assert max(others) - min(others) > 1.0  # px, of 150
    assert y[29] < min(others) if huge > 0 else y[29] > max(others)
    assert 0.0 <= min(y) and max(y) <= 150.0 and len(words) > 4


def test_a_run_that_has_ended_shows_its_pictures_curves_and_events(tmp_path):
    kept = journal.Journal(tmp_path / "metrics.jsonl")
    for k in range(1, 40):
        pause_s = 5000.0 * (k > 20)
        line = {"frames": 10 * k, "fixations": 160 * k, "time_unix_s": 1e9 + k + pause_s}
        surprise = math.nan if 10 < k < 15 else 5.0
        kept.append(line | {"information": 0.1 * k, "surprise": surprise})
    kept.append({"frames": 200, "time_unix_s": 1e9, "event": "camera: reopened <i>"})
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "sample.npz",
        image=rng.integers(0, 255, (2, 48, 64, 3), np.uint8),
        pixels=rng.uniform(5, 40, (2, 6, 2)),
        surprise=rng.random((2, 6)),
    )
    with Dashboard("127.0.0.1:0", KeptRun(tmp_path)) as server, chromium() as driver:
        driver.get(server.url)
        wait_for(lambda: text(driver, "which") == "1 of 2", "a picture it never learned from")
        wait_for(lambda: painted(driver), "with its fixations")
        driver.find_element("id", "next").click()
        wait_for(lambda: text(driver, "which") == "2 of 2", "the next one")

        def count(key, what):
            return len(driver.find_elements("css selector", f"[data-curve='{key}'] .{what}"))

        assert count("information", "curve") == 1 and count("surprise", "curve") == 2  # a gap
        assert count("information", "pause") == 1 and count("information", "event") == 1
        assert text(driver, "events").endswith("camera: reopened <i>")
        assert not driver.find_element("id", "box-effective_rank").is_displayed()
        curve = driver.find_element("css selector", "[data-curve='information']")
        assert curve.get_attribute("aria-label") == (
            "Information from 0 to 6.24 k fixations: between 0.1 and 3.9 nats, at last 3.9"
        )
        # A pause takes no room: the points stand as far apart there as elsewhere.
        path = curve.find_element("css selector", ".curve").get_attribute("d")
        x = [float(point.split()[0].lstrip("M")) for point in path.split("L")]
        np.testing.assert_allclose(np.diff(x), np.diff(x).mean(), atol=0.11)
        assert browser.complaints(driver) == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_nothing_is_wider_than_the_screen(world, width, height):
    learning, _ = world
    with chromium() as driver:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 800}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(learning.page.server.url)
        wait_for(lambda: driver.find_elements("css selector", ".curve"), "curves are drawn")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        first = ["view", "sentence", "first-curves", "curves"]  # from above to below
        tops = [driver.find_element("id", name).rect["y"] for name in first]
        assert tops == sorted(tops) if width < 800 else tops[0] <= tops[1] < tops[2] < tops[3]


def test_nothing_is_fetched_from_elsewhere(world):
    learning, driver = world
    here = learning.page.server.url.removeprefix("http://").rstrip("/")
    for url in browser.requests(driver):
        assert url.startswith((f"http://{here}", f"ws://{here}", "data:", "blob:")), url


def test_pause_and_resume(world):
    learning, driver = world
    assert press(driver, "pause") == "learning is paused"
    fixations = learning.run.learner.fixations
    eye = driver.find_element("id", "eye")
    before = int(eye.get_attribute("data-count"))
    wait_for(
        lambda: int(eye.get_attribute("data-count")) > before + 5,
        "it looks on",
        lambda: (
            f"{before} to {eye.get_attribute('data-count')}, {text(driver, 'line')!r}"
            f" {learning.standing()} {browser.complaints(driver)}"
        ),
    )
    assert learning.run.learner.fixations == fixations
    wait_for(lambda: text(driver, "line") == "paused", "it says so")
    assert press(driver, "resume") == "learning goes on"
    wait_for(lambda: learning.run.learner.fixations > fixations, "it learns again")


def test_checkpoint(world):
    learning, driver = world
    kept = learning.run.frames_kept
    said = press(driver, "checkpoint")
    frame = int(said.removeprefix("kept at frame ").replace(",", ""))
    assert kept < frame <= learning.run.frames_kept


def test_export_can_be_downloaded(world, monkeypatch):
    monkeypatch.setattr(parity, "PARITY_STEPS", 60)
    learning, driver = world
    assert press(driver, "export").startswith("writing ")
    wait_for(lambda: driver.find_element("id", "download").is_displayed(), "it is written")
    status, data = ask(learning.page.server, "GET", "/encoder.onnx")
    assert status == 200 and data == (learning.run.folder / "encoder.onnx").read_bytes()


def test_the_head_is_turned_by_its_buttons_and_by_the_arrow_keys(world):
    learning, driver = world
    for way, axis, sign in [("left", 0, -1), ("right", 0, 1), ("up", 1, 1), ("down", 1, -1)]:
        before = learning.head.wait()[axis]
        assert press(driver, f"jog {way}") == f"the head goes {way}"
        assert (learning.head.wait()[axis] - before) * sign > math.radians(2.0), way
    before = learning.head.wait().pan_rad
    driver.find_element("css selector", "[data-press='home']").send_keys("\ue014")  # arrow right
    wait_for(lambda: learning.head.state().pan_rad > before + math.radians(2.0), "the arrow key")
    assert press(driver, "home") == "the head goes home"
    wait_for(lambda: abs(learning.head.wait().pan_rad) < 0.01, "it is home")


def test_it_recovers_when_the_run_starts_again(world, board, tmp_path):
    learning, driver = world
    address = f"127.0.0.1:{learning.page.server._port}"
    learning.close()
    wait_for(lambda: "does not answer" in text(driver, "line"), "it says that the run is gone")
    again = Learning(tmp_path / "again", board, address)
    try:
        wait_for(lambda: text(driver, "line") == "live", "it is back")
        assert text(driver, "name") == "again"
        wait_for(lambda: press(driver, "checkpoint").startswith("kept"), "its buttons work")
    finally:
        again.close()


# -- who may look --------------------------------------------------------------------------------


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server._port, timeout=10.0)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    return tmp_path


def test_elsewhere_the_token_is_needed(folder):
    with Dashboard("0.0.0.0:0", KeptRun(folder)) as server:
        assert len(server.token) > 15 and server.token in server.url
        for path in ("/", "/history", "/live", "/encoder.onnx", "/?token=wrong", "/nowhere"):
            assert ask(server, "GET", path) == (401, b"401: the token is wrong or missing")
        status, data = ask(server, "POST", "/press", '{"button": "pause"}', Cookie="x=y")
        assert (status, data) == (401, b"401: the token is wrong or missing")
        assert ask(server, "GET", f"/?token={server.token}")[0] == 302
        cookie = f"edge_rjepa_token_{server._port}={server.token}"
        assert ask(server, "GET", "/history", Cookie=cookie)[0] == 200
        assert ask(server, "GET", "/history", Cookie=cookie + "x")[0] == 401


def test_a_browser_with_the_token_is_let_in(folder):
    with (
        Dashboard("127.0.0.1:0", KeptRun(folder), token="as you like") as server,
        chromium() as driver,
    ):
        driver.get(server.url)
        wait_for(lambda: "not learning" in text(driver, "line"), "the page answers")
        assert "token" not in driver.current_url
        driver.delete_all_cookies()
        driver.get(server.url.split("?")[0])
        assert driver.find_element("tag name", "body").text == "401: the token is wrong or missing"


@pytest.mark.parametrize("token", ["a&b=c", "größer", "50% #1/2?;,+", "a b"])
def test_a_token_of_any_signs_lets_in(folder, token):
    with Dashboard("127.0.0.1:0", KeptRun(folder), token=token) as server:
        path = server.url[server.url.index("/", len("http://")) :]
        connection = http.client.HTTPConnection("127.0.0.1", server._port, timeout=PATIENCE_S)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 302
        cookie = answer.headers["Set-Cookie"].split(";")[0]
        connection.close()
        assert ask(server, "GET", "/history", Cookie=cookie)[0] == 200
        assert ask(server, "GET", "/history", Cookie=cookie + "x")[0] == 401


def test_two_pages_on_one_machine_do_not_share_their_cookies(folder):
    with (
        Dashboard("127.0.0.1:0", KeptRun(folder), token="one") as one,
        Dashboard("127.0.0.1:0", KeptRun(folder), token="two") as two,
    ):
        both = f"{one._cookie}=one; {two._cookie}=two"
        assert [ask(server, "GET", "/history", Cookie=both)[0] for server in (one, two)] == [
            200
        ] * 2


@pytest.mark.parametrize("name", ["encoder.onnx", "report.png"])
def test_a_link_in_the_folder_is_not_served(folder, tmp_path_factory, name):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret"
    elsewhere.write_text("secret")
    (folder / name).symlink_to(elsewhere)
    with Dashboard("127.0.0.1:0", KeptRun(folder)) as server:
        status, data = ask(server, "GET", f"/{name}")
        assert status == 404 and b"secret" not in data


def test_other_sites_press_no_buttons(folder):
    button = '{"button": "pause"}'
    with Dashboard("127.0.0.1:0", KeptRun(folder)) as server:
        host = f"127.0.0.1:{server._port}"
        assert ask(server, "POST", "/press", button, Origin=f"http://{host}")[0] == 200
        assert ask(server, "POST", "/press", button)[0] == 200  # no browser
        for headers in (
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Host": "evil.example"},  # a name that was rebound to this machine
        ):
            assert ask(server, "POST", "/press", button, **headers)[0] == 403, headers
            assert ask(server, "GET", "/live", **headers)[0] == 403, headers
        assert ask(server, "POST", "/press", "{")[0] == 400
        assert ask(server, "GET", "/../setup.py")[0] == 404


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:x", "127.0.0.1:99999", ":\u00b2"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigError, match="use HOST:PORT"):
        parse_address(address)


def test_a_port_that_is_taken_is_refused_in_one_line(folder):
    with Dashboard("127.0.0.1:0", KeptRun(folder)) as server:
        with pytest.raises(ConfigError, match="name another port"):
            Dashboard(f"127.0.0.1:{server._port}", KeptRun(folder))


def test_loopback():
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "10.0.0.1", "::", "robot.local", ""]))


# -- viewers -------------------------------------------------------------------------------------


def batch(number, rng, size=(640, 480), fixations=4):
    image = rng.integers(0, 255, (size[1], size[0], 3), np.uint8)
    frame = Frame(image, 0.0, (0.0, 0.0), number)
    pixels = rng.uniform(70, 400, (fixations, 2))
    features = rng.normal(size=(fixations, 8)).astype(np.float32)
    return FixationBatch(frame, pixels, pixels / 1000.0 - 0.2, features, rng.random(fixations))


def live_state(seed=0):
    return LiveState(RJepa(RJepaConfig(n_features=8, n_embedding=5), seed).patch_encoder)


def learning(folder, live):
    return LearningRun(folder, live, Buttons(lambda learner, path: None, live.on_event))


def test_a_few_viewers_are_served_and_a_slow_one_is_dropped(folder, monkeypatch):
    monkeypatch.setattr(server_room, "SLOW_S", 0.5)
    live, rng = live_state(), np.random.default_rng(0)
    noise = [batch(k, rng, (1600, 1200)) for k in range(2)]  # pictures of a megabyte

    async def look(server):
        async with aiohttp.ClientSession() as session:
            url = f"ws://127.0.0.1:{server._port}/live"
            sockets = [await session.ws_connect(url) for _ in range(MOST_VIEWERS)]
            newest = await session.ws_connect(url)  # takes the place of the first
            while not sockets[0].closed:
                await sockets[0].receive(PATIENCE_S)
            assert sockets[0].close_code == REPLACED
            assert len(server._viewers) == MOST_VIEWERS
            for socket in sockets[1:]:
                await socket.close()
            assert not newest.closed
            # The one that is left reads nothing: it is dropped, and others are let in.
            end_s = time.monotonic() + PATIENCE_S
            while server._viewers:
                live.observe(noise[int(time.monotonic() * 10) % 2])
                assert time.monotonic() < end_s
                await asyncio.sleep(0.02)

    with Dashboard("127.0.0.1:0", learning(folder, live)) as server:
        asyncio.run(look(server))


def test_surprise_is_kept_by_direction():
    live = live_state()
    assert live.surprise_map() is None
    gaze_rad = np.radians([[-20.0, 10.0], [25.0, -7.0]])
    frame = Frame(np.zeros((480, 640, 3), np.uint8), 0.0, (0.0, 0.0), 0)
    features, pixels = np.zeros((2, 8), np.float32), np.full((2, 2), 100.0)
    for _ in range(3):
        live.observe(FixationBatch(frame, pixels, gaze_rad, features, np.array([1.0, 5.0])))
    rows, columns = cells_of(gaze_rad)
    np.testing.assert_allclose(live._surprise[rows, columns], [1.0, 5.0])
    found = live.surprise_map()
    assert found["azimuth_deg"] == pytest.approx([-21.0, 27.0])
    assert found["elevation_deg"] == pytest.approx([-9.0, 12.0])
    assert found["nats"] == pytest.approx([1.0, 5.0], abs=0.3)


def test_looks_alike_are_neighbours_and_the_map_stays_as_it_was():
    live, rng = live_state(), np.random.default_rng(1)
    assert live.neighbours() is None and live.embedding_map() is None
    kinds = rng.normal(size=(3, 8)).astype(np.float32)
    for k in range(120):
        look = batch(k, rng, fixations=1)
        features = kinds[k % 3][None] + 0.05 * rng.normal(size=(1, 8)).astype(np.float32)
        live.observe(look._replace(features=features))
        live.remember()
    near = live.neighbours()
    assert len(near["past"]) == 6 and all(past["alike"] > 0.95 for past in near["past"])
    assert near["now"].startswith("data:image/jpeg;base64,")
    one, two = (np.array(live.embedding_map()["points"]) for _ in range(2))
    np.testing.assert_allclose(one, two, atol=2e-3)
    live.observe(batch(0, rng, fixations=1))
    live.remember()
    three = np.array(live.embedding_map()["points"])[:120]
    assert np.corrcoef(one.ravel(), three.ravel())[0, 1] > 0.95


def test_after_a_roll_back_of_what_diverged_the_maps_go_on():
    broken = False

    def snapshot():
        factor = np.nan if broken else 1.0
        return lambda features: factor * features

    live, rng = LiveState(snapshot), np.random.default_rng(1)
    look = batch(0, rng, fixations=4)
    for k in range(60):
        broken = k == 20
        live._encoder = None  # as a line of metrics does it
        surprise = np.full(4, np.inf) if broken else look.surprise
        live.observe(look._replace(surprise=surprise))
        live.remember()
    assert len(live.embedding_map()["points"]) == 59 and live.neighbours()
    assert max(live.surprise_map()["nats"]) <= look.surprise.max() + 1e-3


@pytest.mark.parametrize("huge", [1e5, 1e300, -1e300])
@pytest.mark.parametrize("fixations", [1, 4, 16])
def test_one_huge_surprise_is_soon_gone_from_the_maps(huge, fixations):
    live, rng = live_state(), np.random.default_rng(1)
    look = batch(0, rng, fixations=fixations)
    for k in range(40):
        surprise = rng.uniform(1.0, 2.0, fixations)
        if k == 20:
            surprise[0] = huge
        live.observe(look._replace(surprise=surprise))
        if k == 20 and fixations > 1:
            low, high = live.surprise_map()["nats"]
            assert -3.0 < low < high < 5.0
    low, high = live.surprise_map()["nats"]
    assert 0.9 < low < high < 2.1


def test_maps_that_begin_with_a_huge_surprise_go_on():
    live, rng = live_state(), np.random.default_rng(1)
    look = batch(0, rng, fixations=1)
    for k in range(60):
        live.observe(look._replace(surprise=np.array([1e300 if k == 0 else 1.0 + k % 2])))
    assert 1.0 <= live.surprise_map()["nats"][0] <= 2.0


def test_history_shows_a_spike_however_long_it_is(tmp_path):
    kept = journal.Journal(tmp_path / "metrics.jsonl")
    for k in range(2000):
        spike = 99.0 if k == 1234 else math.nan if k == 77 else 1.0
        kept.append({"frames": k, "fixations": 16 * k, "time_unix_s": 1e9 + k, "surprise": spike})
    kept.append({"frames": 5, "time_unix_s": 1.0, "event": "something"})
    found = summed_up(record_at(tmp_path / "metrics.jsonl"), points=50)
    json.dumps(found["curves"], allow_nan=False)
    surprise = found["curves"]["surprise"]
    assert len(surprise["mean"]) == 50 and max(surprise["high"]) == 99.0
    assert min(surprise["low"]) == 1.0 and found["last"]["fixations"] == 16 * 1999
    assert found["events"] == [[1.0, "something", 80.0]]  # where it happened
    assert found["curves"]["information"]["mean"] == [None] * 50
    assert summed_up(record_at(tmp_path / "nowhere.jsonl"))["last"] is None


def test_a_picture_goes_with_what_is_laid_over_it():
    live = live_state()
    assert live.picture() is None
    look = batch(0, np.random.default_rng(0))._replace(
        pixels=np.array([[-0.5, -0.5], [639.5, 479.5], [319.5, 239.5], [0.0, 0.0]]),
        surprise=np.array([1.0, 2.0, math.nan, 3.0]),
    )
    live.observe(look)
    over, jpeg = live.picture()
    assert over["fixations"][:3] == [[0.0, 0.0, 1.0], [1.0, 1.0, 2.0], [0.5, 0.5, None]]
    assert over["scale"] == pytest.approx([1.1, 2.9])
    json.dumps(over, allow_nan=False)
    sent = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert sent.shape == look.frame.image.shape
    wide = look.frame._replace(image=np.zeros((1000, 4000, 3), np.uint8))
    live.observe(look._replace(frame=wide))
    sent = cv2.imdecode(np.frombuffer(live.picture().jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert sent.shape == (320, 1280, 3)


def test_usual_surprise_lies_where_its_direction_is_in_the_picture():
    camera = Pinhole(640, 480, math.radians(60.0))
    live = LiveState(lambda: None, lambda: camera)
    x, y = np.meshgrid(np.arange(10, 640, 20), np.arange(10, 480, 20))
    pixels = np.column_stack([x.ravel(), y.ravel()]).astype(float)
    surprise = np.where(pixels[:, 0] > 320, 9.0, 1.0)  # the right half surprises
    image = np.zeros((480, 640, 3), np.uint8)
    features = np.zeros((len(pixels), 8), np.float32)
    gaze_rad = camera.angles_of_pixels(pixels)

    def levels(head_rad):
        frame = Frame(image, 0.0, head_rad, 0)
        live.observe(FixationBatch(frame, pixels, gaze_rad, features, surprise))
        field = live.picture().overlay["field"]
        grid = np.frombuffer(base64.b64decode(field["levels"]), np.uint8)
        return grid.reshape(field["rows"], field["columns"])

    ahead = levels((0.0, 0.0))
    assert ahead[:, :12].max() < 40 and ahead[:, 20:].min() > 215
    turned = levels((math.radians(28.0), 0.0))  # to the right: that half is left in the picture
    assert turned[8:16, 6:12].min() > 215 and turned[8:16, -3:].max() == 0  # never looked at


def test_a_long_run_is_judged_by_all_of_it_and_held_in_few_lines(folder):
    kept = journal.Journal(folder / "metrics.jsonl")
    line = {"embedding_std": 0.8, "effective_rank": 9.0, "time_unix_s": 1e9, "seconds": 1.0}
    for k in range(1, 3000):
        judged = {"held_out_information": 1.0, "held_out_known_again": 0.5} if k == 1501 else {}
        line |= {"frames": k, "fixations": 100 * k, "information": min(4.0, k / 700)}
        kept.append(line | judged)
    live = LiveState(lambda: None)  # no encoder is made anew for each line
    run = LearningRun(folder, live, Buttons(lambda learner, path: None, live.on_event))
    overview = run.overview()
    assert "50% of views" in overview["verdict"]["sentence"]
    assert run.maps()["verdict"] == overview["verdict"]
    health = Health(4.0, 9.0, 0.8)
    for k in range(3000, 12_000):
        live.on_progress(
            Progress(k, 100 * k, 1.0, 1.0, 1.0, health, 1.0, 1.0, None, None, {}, {}, 0, {})
        )
    assert len(live.measured) <= 1200 and len(run._earlier) == 601  # one was judged
    assert run.maps()["verdict"]["stage"] == LEARNED


def test_the_command_serves_a_run_that_has_ended_until_it_is_stopped(tmp_path):
    journal.Journal(tmp_path / "metrics.jsonl").append({"frames": 30, "fixations": 480})
    command = [sys.executable, "-m", "edge_rjepa", "dashboard", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--address", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True
    ) as served:
        address = re.search(r"http://([\d.:]+)/", served.stderr.readline())[1]
        connection = http.client.HTTPConnection(address, timeout=10.0)
        connection.request("GET", "/history")
        assert json.loads(connection.getresponse().read())["last"]["fixations"] == 480
        connection.close()
        served.send_signal(signal.SIGTERM)
        assert served.wait(10.0) == 0
    done = subprocess.run([*command[:-1], "nowhere"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "nowhere is no folder of a run" in done.stderr
