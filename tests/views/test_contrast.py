"""Text on the page can be read: WCAG 2's contrast, as a real browser paints it, light and dark."""

import json

import numpy as np
import pytest

from benchmarks.browser import browser as chromium
from edge_rjepa.base import journal
from edge_rjepa.views.dashboard.buttons import Buttons
from edge_rjepa.views.dashboard.learning import LearningRun
from edge_rjepa.views.dashboard.live import LiveState
from edge_rjepa.views.dashboard.server import Dashboard
from tests import browser
from tests.views.test_dashboard import batch, live_state, text, wait_for
from tests.views.test_watch_page import JPEG, SQUARE, Yard, alarm

pytestmark = pytest.mark.browser

browser.require()

LEAST, LEAST_OF_LARGE = 4.5, 3.0  # AA; large is 24 px, or 18.7 px where it is bold
# Each piece of text that is shown and not of a switched-off button: [what, size, weight, contrast].
CONTRASTS = """
const parts = colour => { const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const over = ([r, g, b, a], under) => [r, g, b].map((v, i) => a * v + (1 - a) * under[i]);
const behind = one => {
  const chain = []; for (let at = one; at; at = at.parentElement) chain.unshift(at);
  return chain.reduce((under, at) => over(parts(getComputedStyle(at).backgroundColor), under), [255, 255, 255]);
};
const light = colour => colour.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; node = walker.nextNode();) {
  const one = node.parentElement, style = getComputedStyle(one), said = node.textContent.trim();
  if (!said || !one.checkVisibility() || one.closest("script, style, :disabled")) continue;
  const under = behind(one), ink = over(parts(one.closest("svg") ? style.fill : style.color), under);
  const [dark, bright] = [light(ink), light(under)].sort((a, b) => a - b);
  found.push([said, parseFloat(style.fontSize), +style.fontWeight, (bright + .05) / (dark + .05)]);
}
return found;
"""  # noqa: E501 - a line of a program in another language


def least_readable(driver):
    """What has too little contrast, and how many texts were looked at."""
    found = driver.execute_script(CONTRASTS)
    faint = []
    for said, size_px, weight, contrast in found:
        large = size_px >= 24.0 or (size_px >= 18.66 and weight >= 700)
        if contrast < (LEAST_OF_LARGE if large else LEAST):
            faint.append((said, round(contrast, 2)))
    return faint, len(found)


def each_look(driver):
    """Light and dark, at a desk and on a phone."""
    for scheme in ("light", "dark"):
        for width, height in ((1280, 800), (390, 844)):
            scheme_is = [{"name": "prefers-color-scheme", "value": scheme}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme_is})
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            yield f"{scheme}, {width} px"


def check(driver, at_least):
    papers = set()
    for look in each_look(driver):
        faint, count = least_readable(driver)
        assert faint == [], look
        assert count >= at_least, look
        papers.add(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(papers) == 2  # it was dark, too


def test_what_is_too_faint_is_found():
    page = "<body style='background:#fff'><p style='color:#777'>faint<p style='color:#767676'>good"
    with chromium() as driver:
        driver.get(f"data:text/html,{page.replace('#', '%23')}")
        assert least_readable(driver) == ([("faint", 4.48)], 2)


def test_a_run_that_learns_can_be_read(tmp_path):
    kept = journal.Journal(tmp_path / "metrics.jsonl")
    line = {"embedding_std": 0.8, "effective_rank": 9.0, "time_unix_s": 1e9, "surprise": 4.0}
    for k in range(1, 40):
        kept.append(line | {"frames": 10 * k, "fixations": 160 * k, "information": 0.1 * k})
    kept.append({"frames": 200, "time_unix_s": 1e9, "event": "camera: reopened"})
    head = {"name": "serial:", "connected": True, "torque_off": False, "moving": False,
            "pan_deg": 3.0, "tilt_deg": -2.0, "faults": {"lost": 2}}  # fmt: skip
    devices = {"live": True, "faults": {"frozen": 1}, "head": head}
    taught = {"taught": [{"name": "kitchen", "looks": 12}],
              "recognised": {"name": "kitchen", "probability": 0.9}}  # fmt: skip
    live = live_state()
    for k in range(80):
        live.observe(batch(k, np.random.default_rng(k)))
        live.remember()
    run = LearningRun(tmp_path, live, _no_buttons(live), lambda: devices, lambda: taught)
    with Dashboard("127.0.0.1:0", run) as server, chromium() as driver:
        driver.get(server.url)
        shown = ("taught", "devices", "h-events", "around", "near", "curves")
        wait_for(lambda: all(driver.find_element("id", n).is_displayed() for n in shown), "all")
        for kind, words in (("good", "kept"), ("bad", "not done: it does not answer")):
            driver.execute_script(f"say({json.dumps(words)}, {json.dumps(kind == 'good')})")
            for standing in ("good", "bad", "warn", ""):
                driver.execute_script(f"status('live', '{standing}')")
                check(driver, 60)


def test_a_watch_can_be_read(tmp_path):
    yard = Yard(tmp_path / "yard")
    yard.masks = [SQUARE]
    yard.look()
    for number in (1, 2, 3, 4):
        yard.page.tell(alarm(number, what="removed" if number == 4 else "new"), JPEG)
    yard.page.tell({"kind": "gone", "number": 2, "after_s": 30.0}, None)
    yard.page.tell({"kind": "fine", "number": 3}, None)
    yard.page.on_event("camera: no picture for 1.6 s; reopening")
    with Dashboard("127.0.0.1:0", yard.page) as server, chromium() as driver:
        driver.get(server.url)
        wait_for(lambda: text(driver, "line") == "watching", "the page is live")
        wait_for(lambda: "! still away" in text(driver, "alarms"), "the alarms are shown")
        wait_for(lambda: "mask 1" in text(driver, "masks"), "and the mask")
        driver.find_element("id", "draw").click()
        check(driver, 30)


def _no_buttons(live: LiveState) -> Buttons:
    return Buttons(lambda learner, path: None, live.on_event)
