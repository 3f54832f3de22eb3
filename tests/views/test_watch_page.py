"""The page of a watch, in a real browser: alarms, what the owner says of them, masks."""

import http.client
import json
import math
import re
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from selenium.webdriver import ActionChains, Keys

from benchmarks.browser import browser as chromium
from benchmarks.faulty_camera import FaultyCamera
from edge_rjepa.base import journal
from edge_rjepa.encoder.export import export
from edge_rjepa.errors import ConfigError
from edge_rjepa.eye.retina import Retina
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.views.dashboard.kept import KeptWatch
from edge_rjepa.views.dashboard.server import Dashboard
from edge_rjepa.views.dashboard.subject import Refused
from edge_rjepa.views.dashboard.watching import (
    ALARMS,
    JPEGS,
    MOST_POINTS,
    MOST_POLYGONS,
    Look,
    Watching,
)
from tests import browser
from tests.views.test_dashboard import NETWORK, PATIENCE_S, ask, painted, text, wait_for

pytestmark = pytest.mark.browser

browser.require()

SQUARE = [[0.1, 0.1], [0.4, 0.1], [0.4, 0.5], [0.1, 0.5]]


class Yard:
    """What stands behind the page: it does what the page asks for, and keeps it."""

    def __init__(self, folder, **more):
        self.fine, self.masks = [], []
        self.page = Watching(folder, self.say_fine, self.set_masks, lambda: self.masks, **more)

    def say_fine(self, number):
        if number == 13:
            raise ConfigError("alarm 13 is not remembered")
        self.fine.append(number)
        self.page.tell({"kind": "fine", "number": number}, None)

    def set_masks(self, polygons):
        self.masks = polygons

    def look(self, threshold=4.0, to_go_s=0.0, scores=(0.5, 3.0, 5.0)):
        image = np.full((240, 320, 3), 90, np.uint8)
        pixels = np.array([[50.0, 60.0], [160.0, 120.0], [250.0, 200.0]])
        expected = 0.5 if math.isfinite(threshold) else math.nan
        self.page.observe(Look(image, pixels, np.array(scores), threshold, to_go_s, expected))


def alarm(number, **more):
    return {
        "kind": "alarm", "what": "new", "number": number, "time": "2026-11-27T12:00:00+0000",
        "t_s": 60.0, "frame": 600, "pixel": [100.0, 60.0], "box": [80, 40, 40, 40],
        "azimuth_deg": -11.6, "elevation_deg": 2.0, "surprise_nats": 9.0, "usual_nats": 0.1,
        "score": 9.0, "expected_per_hour": 0.01, "picture": None,
    } | more  # fmt: skip


JPEG = cv2.imencode(".jpg", np.full((40, 40, 3), (0, 0, 255), np.uint8))[1].tobytes()


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    yard = Yard(tmp_path_factory.mktemp("watch") / "yard")
    yard.look()
    with Dashboard("127.0.0.1:0", yard.page) as server, chromium() as driver:
        driver.get(server.url)
        wait_for(lambda: text(driver, "line") == "watching", "the page is live")
        yield yard, driver


def items(driver):
    """What the alarms say, newest first."""
    return driver.execute_script(
        "return [...document.querySelectorAll('#alarms li')].map(item => item.innerText)"
    )


def test_it_says_how_it_stands(yard):
    yard, driver = yard
    yard.look()
    wait_for(lambda: text(driver, "sentence") == "It watches: all is as usual.", "it is quiet")
    assert text(driver, "more") == "One false alarm in about 2 hours is to be expected."
    yard.look(math.inf, 250.0, (-math.inf,) * 3)
    wait_for(lambda: text(driver, "line") == "blind", "all has changed")
    assert "learns the place anew for 4 min" in text(driver, "sentence")
    yard.look()
    wait_for(lambda: text(driver, "line") == "watching", "it sees again")
    wait_for(lambda: painted(driver), "scores are laid over the picture")
    driver.find_element("id", "show-scores").click()
    wait_for(lambda: not painted(driver), "they can be taken away")
    driver.find_element("id", "show-scores").click()
    assert browser.complaints(driver) == []


def test_alarms_come_end_and_are_said_to_be_fine(yard):
    yard, driver = yard
    assert driver.find_element("id", "no-alarms").is_displayed()
    yard.page.tell(alarm(1), JPEG)
    yard.page.tell(alarm(2, what="removed", azimuth_deg=3.0, elevation_deg=-7.0), JPEG)
    wait_for(lambda: len(items(driver)) == 2, "both are shown")
    newest, first = items(driver)
    assert newest.startswith("2: something was taken away") and "3° right, 7° down" in newest
    assert first.startswith("1: something new") and "still there" in first
    wait_for(lambda: "2 things here changed" in text(driver, "sentence"), "the sentence says so")
    loaded = "return [...document.querySelectorAll('#alarms img')].every(i => i.naturalWidth == 40)"
    wait_for(lambda: driver.execute_script(loaded), "with their pictures")
    yard.page.tell({"kind": "gone", "number": 2, "time": "", "t_s": 90.0, "after_s": 30.0}, None)
    wait_for(lambda: "back after 30 s" in items(driver)[0], "it has an end")
    driver.find_element("css selector", "[data-fine='1']").send_keys(Keys.ENTER)
    wait_for(lambda: "this is usual" in items(driver)[1], "its owner said so")
    assert yard.fine == [1] and text(driver, "said") == "alarm 1 counts as usual from now on"
    assert "This is fine" not in items(driver)[1] and "This is fine" in items(driver)[0]
    assert driver.switch_to.active_element.get_attribute("id") == "alarms"  # no focus is lost
    assert len(yard.page.overview()["alarms"]) == 2
    wait_for(lambda: text(driver, "sentence") == "It watches: all is as usual.", "all is well")
    assert browser.complaints(driver) == []


def test_a_mask_is_drawn_with_the_pointer_shown_and_deleted(yard):
    yard, driver = yard
    driver.find_element("id", "draw").click()
    stage = driver.find_element("id", "over")
    size = stage.size
    drag = ActionChains(driver, duration=20)
    drag.move_to_element_with_offset(stage, -size["width"] // 4, -size["height"] // 4)
    drag.click_and_hold()
    for x, y in [(0, -0.25), (0.25, -0.25), (0.25, 0.25), (0, 0.25), (-0.25, 0.25), (-0.25, 0)]:
        drag.move_to_element_with_offset(stage, int(x * size["width"]), int(y * size["height"]))
    drag.release().perform()
    wait_for(lambda: text(driver, "said") == "kept: 1 mask", "it is kept")
    (polygon,) = yard.masks
    low, high = np.min(polygon, axis=0), np.max(polygon, axis=0)
    picture = driver.find_element("id", "eye").size  # as high as the picture, maybe wider
    wide = min(1.0, picture["height"] * 320 / 240 / picture["width"])
    np.testing.assert_allclose(low, [0.5 - 0.25 / wide, 0.25], atol=0.03)
    np.testing.assert_allclose(high, [0.5 + 0.25 / wide, 0.75], atol=0.03)
    driver.find_element("id", "show-scores").click()
    wait_for(lambda: painted(driver), "it is shown")
    driver.find_element("css selector", "[data-mask='0']").click()
    wait_for(lambda: not yard.masks, "it is deleted")
    wait_for(lambda: not painted(driver), "and shown no more")
    driver.find_element("id", "show-scores").click()


def test_a_mask_is_drawn_with_the_keys(yard):
    yard, driver = yard
    driver.find_element("id", "draw").send_keys(Keys.ENTER)
    keys = ActionChains(driver).send_keys(Keys.ARROW_LEFT * 5)
    keys.key_down(Keys.SHIFT).send_keys(Keys.ARROW_DOWN * 3).key_up(Keys.SHIFT)
    keys.send_keys(Keys.ENTER).perform()
    wait_for(lambda: yard.masks, "it is kept")
    np.testing.assert_allclose(yard.masks[0], [[0.3, 0.4], [0.5, 0.4], [0.5, 0.66], [0.3, 0.66]])
    driver.find_element("id", "draw").click()
    ActionChains(driver).send_keys(Keys.ARROW_UP).send_keys(Keys.ESCAPE).perform()
    assert len(yard.masks) == 1 and text(driver, "draw") == "Draw a mask"


def test_a_finger_draws_too(yard, tmp_path):
    yard = Yard(tmp_path / "yard")
    yard.look()
    with Dashboard("127.0.0.1:0", yard.page) as server, chromium() as driver:
        size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        driver.get(server.url)
        wait_for(lambda: text(driver, "line") == "watching", "the page is live")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        driver.find_element("id", "draw").click()
        where = driver.execute_script(
            "const {x, y, width, height} = document.getElementById('over').getBoundingClientRect();"
            "return [x, y, width, height]"
        )
        corners = [(0.2, 0.2), (0.5, 0.2), (0.8, 0.2), (0.8, 0.8), (0.5, 0.8), (0.2, 0.8)]
        for k, (u, v) in enumerate(corners):
            point = {"x": where[0] + u * where[2], "y": where[1] + v * where[3]}
            kind = "touchMove" if k else "touchStart"
            touch = {"type": kind, "touchPoints": [point]}
            driver.execute_cdp_cmd("Input.dispatchTouchEvent", touch)
        touch = {"type": "touchEnd", "touchPoints": []}
        driver.execute_cdp_cmd("Input.dispatchTouchEvent", touch)
        wait_for(lambda: yard.masks, "it is kept")
        np.testing.assert_allclose(yard.masks[0], corners, atol=0.02)


# -- a watch that has ended ------------------------------------------------------------------------


@pytest.fixture
def ended(tmp_path):
    """The folder of a watch that told of four changes, and has a mask."""
    folder = tmp_path / "porch"
    folder.mkdir()
    lines = journal.Journal(folder / "alarms.jsonl")
    for line in (
        alarm(1), alarm(2), alarm(3, what="removed"), alarm(4),
        {"kind": "gone", "number": 1, "after_s": 12.0}, {"kind": "fine", "number": 2},
    ):  # fmt: skip
        lines.append(line)
    (folder / "alarm-000001.jpg").write_bytes(JPEG)
    view = cv2.imencode(".jpg", np.full((240, 320, 3), 90, np.uint8))[1]
    (folder / "view.jpg").write_bytes(view.tobytes())
    (folder / "mask.json").write_text(json.dumps({"polygons": [SQUARE]}))
    return folder


def test_an_ended_watch_shows_its_alarms_masks_and_what_is_fine(ended):
    (ended / "fine").mkdir()
    (ended / "fine" / "4").touch()  # said to be fine since it ended
    with Dashboard("127.0.0.1:0", KeptWatch(ended)) as server, chromium() as driver:
        driver.get(server.url)
        wait_for(lambda: text(driver, "line") == "not watching here", "the page is there")
        assert text(driver, "name") == "porch"
        assert text(driver, "sentence") == "It told of 4 changes: 1 not over, 1 over, 2 usual."
        states = ["this is usual", "away at last", "this is usual", "gone after 12 s"]
        assert all(state in item for state, item in zip(states, items(driver), strict=True))
        loaded = "return document.querySelector('[data-number=\"1\"] img').naturalWidth == 40"
        wait_for(lambda: driver.execute_script(loaded), "with their pictures")
        wait_for(lambda: painted(driver), "the mask lies on what was seen last")
        driver.find_element("id", "show-masks").click()
        wait_for(lambda: not painted(driver), "it can be taken away")
        assert not [b.text for b in driver.find_elements("tag name", "button") if b.is_displayed()]
        assert not driver.find_element("id", "legend-surprise").is_displayed()
        complaints = browser.complaints(driver)
        assert all("alarm-" in each and "404" in each for each in complaints)  # not kept


def test_an_ended_watch_is_only_looked_at(ended):
    page = KeptWatch(ended)
    for name, value in [("mask", []), ("fine", 1), ("pause", None)]:
        with pytest.raises(Refused, match="only looked at"):
            page.press(name, value).result(0)


@pytest.mark.parametrize("masks", ["{", "[]", '{"polygons": [[[0, 0], [2, 0], [1, 1]]]}'])
def test_an_ended_watch_with_damaged_files_is_shown_without_them(ended, masks):
    (ended / "mask.json").write_text(masks)
    (ended / "view.jpg").unlink()
    (ended / "view.jpg").symlink_to(ended / "alarm-000001.jpg")
    (ended / "alarms.jsonl").write_text("nothing\n")
    page = KeptWatch(ended)
    overview = page.overview()
    assert overview["masks"] == [] and overview["alarms"] == [] and page.pictures_kept() == []
    assert overview["verdict"]["sentence"] == "It told of nothing so far."


@pytest.mark.slow
def test_the_command_serves_a_watch_that_has_ended(ended):
    command = [sys.executable, "-m", "edge_rjepa", "dashboard", str(ended)]
    with subprocess.Popen(
        [*command, "--address", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True
    ) as served:
        address = re.search(r"http://([\d.:]+)/", served.stderr.readline())[1]
        connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
        connection.request("GET", "/history")
        assert len(json.loads(connection.getresponse().read())["alarms"]) == 4
        connection.close()
        served.send_signal(signal.SIGTERM)
        assert served.wait(PATIENCE_S) == 0


# -- what the page may ask for ---------------------------------------------------------------------


def polygons_that_are_none():
    yield {}
    yield [SQUARE[:2]]
    yield [[[0.5, 0.5]] * (MOST_POINTS + 1)]
    yield [SQUARE] * (MOST_POLYGONS + 1)
    for strange in (math.nan, math.inf, -0.01, 1.01, "0.5", True, None, [0.5], 10**400):
        yield [[*SQUARE, [0.5, strange]]]
    yield [[*SQUARE, [0.5]]]
    yield [[*SQUARE, 0.5]]
    yield [SQUARE, None]


@pytest.mark.parametrize(
    "value", list(polygons_that_are_none()), ids=lambda value: repr(value)[-24:]
)
def test_what_is_no_mask_is_refused(tmp_path, value):
    yard = Yard(tmp_path)
    with pytest.raises(Refused, match="mask"):
        yard.page.press("mask", value).result(0)
    assert not yard.masks
    assert yard.page.press("mask", [SQUARE]).result(0) == "kept: 1 mask"
    assert yard.masks == [SQUARE]


@pytest.mark.parametrize("value", [None, "1", 1.0, True, 2, -1, [1], 10**400])
def test_what_is_no_alarm_is_not_fine(tmp_path, value):
    yard = Yard(tmp_path)
    yard.page.tell(alarm(1), None)
    with pytest.raises(Refused, match="there is no such alarm"):
        yard.page.press("fine", value).result(0)
    assert not yard.fine


def test_what_cannot_be_done_is_said(tmp_path):
    yard = Yard(tmp_path)
    yard.page.tell(alarm(13), None)
    with pytest.raises(Refused, match="13 is not remembered"):
        yard.page.press("fine", 13).result(0)
    with pytest.raises(Refused, match="no button 'pause'"):
        yard.page.press("pause").result(0)
    looked_at = Watching(tmp_path)
    for name, value in [("mask", [SQUARE]), ("fine", 13)]:
        with pytest.raises(Refused, match="there is no button"):
            looked_at.press(name, value).result(0)


def test_others_press_nothing_and_nothing_too_long_is_read(tmp_path):
    yard = Yard(tmp_path)
    body = json.dumps({"button": "mask", "value": [SQUARE]})
    with Dashboard("127.0.0.1:0", yard.page) as server:
        assert ask(server, "POST", "/press", body, Origin="http://evil.example")[0] == 403
        assert ask(server, "POST", "/press", body.replace("0.1", "NaN"))[0] == 400
        long = json.dumps({"button": "mask", "value": [SQUARE] * 40_000})
        assert ask(server, "POST", "/press", long)[0] in (400, 413)
        assert not yard.masks
        assert json.loads(ask(server, "POST", "/press", body)[1]) == {"done": "kept: 1 mask"}
    with Dashboard("0.0.0.0:0", yard.page) as server:
        for path in ("/alarm-1.jpg", "/pictures", "/press"):
            assert ask(server, "GET", path)[0] == 401, path


@pytest.mark.slow
def test_the_command_serves_the_page_of_its_watch(tmp_path):
    encoder, folder = tmp_path / "encoder.onnx", tmp_path / "yard"
    export(RJepa(NETWORK), Retina(), encoder)
    command = [sys.executable, "-m", "edge_rjepa", "watch", encoder, "--out", folder]
    with FaultyCamera(size=(320, 240)) as camera:
        command += ["--source", camera.url, "--dashboard", "127.0.0.1:0"]
        with (
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as watching,
            chromium() as driver,
        ):
            said = iter(watching.stderr.readline, "")
            address = next(found[1] for line in said if (found := re.search(r"page: (\S+)", line)))
            driver.get(address)
            wait_for(lambda: text(driver, "line") == "learning", "it learns what is usual")
            wait_for(lambda: driver.find_element("id", "eye").is_displayed(), "a picture has come")
            assert text(driver, "name") == "yard"
            driver.find_element("id", "draw").send_keys(Keys.ENTER)
            ActionChains(driver).send_keys(Keys.ARROW_LEFT, Keys.ENTER).perform()
            wait_for(lambda: text(driver, "said") == "kept: 1 mask", "it is kept")
            (mask,) = json.loads((folder / "mask.json").read_text())["polygons"]
            np.testing.assert_allclose(mask, [[0.38, 0.4], [0.58, 0.4], [0.58, 0.6], [0.38, 0.6]])
            assert browser.complaints(driver) == []
            watching.send_signal(signal.SIGTERM)
            assert watching.wait(PATIENCE_S) == 0


# -- what is kept ---------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_alarms(tmp_path):
    page = Yard(tmp_path).page
    for number in range(1, 1000):
        page.tell(alarm(number), JPEG)
        page.on_event(f"something {number}")
    assert [each["number"] for each in page.overview()["alarms"]] == list(range(900, 1000))[
        -ALARMS:
    ]
    assert len(page._jpegs) == JPEGS and page.alarm_jpeg(999) == JPEG
    assert page.alarm_jpeg(1) is None and len(page.overview()["events"]) == 50


def test_alarms_of_an_earlier_watch_are_shown_as_such(tmp_path):
    lines = journal.Journal(tmp_path / "alarms.jsonl")
    for line in (
        alarm(1), alarm(2, score=math.inf, box="no", time=5), {"kind": "gone", "number": 1,
        "after_s": 12.0}, {"kind": "fine", "number": 2}, alarm("3"), alarm(-4), alarm(True),
        {"kind": "alarm"}, {"kind": "gone", "number": [1]}, alarm(6, azimuth_deg=None),
    ):  # fmt: skip
        lines.append(line)
    (tmp_path / "alarm-000001.jpg").write_bytes(JPEG)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "alarm-000002.jpg").symlink_to(tmp_path / "secret")
    page = Yard(tmp_path).page
    found = page.overview()["alarms"]
    json.dumps(found, allow_nan=False)
    assert [each["number"] for each in found] == [1, 2, 6]
    assert found[0]["gone_after_s"] == 12.0 and found[1]["fine"] and found[1]["score"] is None
    assert page.alarm_jpeg(1) == JPEG and page.alarm_jpeg(2) is None
    assert page.state()["stage"] == "waiting" and not page._boxes()


def test_a_head_that_turns_leaves_no_boxes_behind(tmp_path):
    for turns in (False, True):
        yard = Yard(tmp_path, turns=turns)
        yard.look()
        yard.page.tell(alarm(1), None)
        boxes = yard.page.picture().overlay["boxes"]
        assert boxes == [] if turns else boxes[0]["box"] == [0.25, 1 / 6, 0.125, 1 / 6]


def test_scores_are_told_as_shares_of_the_threshold(tmp_path):
    yard = Yard(tmp_path)
    yard.look(4.0, scores=(-math.inf, 3.0, 80.0))
    scores = yard.page.picture().overlay["scores"]
    assert [share for _, _, share in scores] == [0.75, 2.0]
    yard.look(math.inf)
    assert yard.page.picture().overlay["scores"] == []
