"""The live page behind Debian's nginx as docs/dashboard.md sets it up: a name, a path and TLS."""

import os
import re
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from benchmarks.browser import browser as chromium
from edge_rjepa.base import journal
from edge_rjepa.views.dashboard.buttons import Buttons
from edge_rjepa.views.dashboard.learning import LearningRun
from edge_rjepa.views.dashboard.server import Dashboard
from tests import browser
from tests.tools import need
from tests.views.test_dashboard import batch, live_state, text, wait_for

pytestmark = pytest.mark.browser

browser.require()
need("there is no reverse proxy to look through", {"nginx": "nginx-light", "openssl": "openssl"})

NAME = "robot.example"
PAGE = Path(__file__).parents[2] / "docs" / "dashboard.md"
FRAME = """
daemon off; pid nginx.pid; error_log stderr; worker_processes 1; {user}
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path temp; proxy_temp_path temp; fastcgi_temp_path temp;
    uwsgi_temp_path temp; scgi_temp_path temp;
    {server}
}}
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout robot.key -out robot.crt"
    subprocess.run(
        [*command.split(), "-subj", f"/CN={NAME}"], cwd=folder, check=True, capture_output=True
    )
    return folder


@contextmanager
def nginx(folder, page_port, certificate):
    """The recipe, on a free port that is yielded."""
    recipe = re.search(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = (
        recipe.replace("listen 443", f"listen 127.0.0.1:{port}")
        .replace("127.0.0.1:8000", f"127.0.0.1:{page_port}")
        .replace("/etc/ssl/", f"{certificate}/")
    )
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(FRAME.format(user=user, server=server))
    command = ["nginx", "-p", str(folder), "-c", "nginx.conf"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            end_s = time.monotonic() + 20.0
            while running.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    assert time.monotonic() < end_s
                    time.sleep(0.05)
            assert running.poll() is None, running.stderr.read()
            yield port
        finally:
            running.terminate()


@pytest.mark.parametrize("token", [None, "open sesame"])
def test_the_page_lives_behind_a_proxy(tmp_path, certificate, token):
    journal.Journal(tmp_path / "metrics.jsonl").append(
        {"frames": 30, "fixations": 480, "time_unix_s": 1e9}
    )
    live, rng = live_state(), np.random.default_rng(0)
    buttons = Buttons(lambda learner, path: None, live.on_event)
    run = LearningRun(tmp_path, live, buttons)
    flags = "--ignore-certificate-errors", f"--host-resolver-rules=MAP {NAME} 127.0.0.1"
    with (
        Dashboard("127.0.0.1:0", run, token=token, names=[NAME]) as server,
        nginx(tmp_path, server._port, certificate) as port,
        chromium(*flags) as driver,
    ):
        here = f"https://{NAME}:{port}/cam/"
        driver.get(here + ("?token=open%20sesame" if token else ""))
        wait_for(lambda: text(driver, "line") == "live", "the page is live")
        assert driver.current_url == here
        live.observe(batch(0, rng))
        eye = driver.find_element("id", "eye")
        wait_for(lambda: eye.get_attribute("data-count"), "a picture has come")
        assert "480 fixations" in text(driver, "count")
        driver.find_element("css selector", "[data-press='pause']").click()
        wait_for(lambda: not buttons._presses.empty(), "the button has come")
        (_, done) = buttons._presses.get()
        done.set_result("learning is paused")
        wait_for(lambda: text(driver, "said") == "learning is paused", "it is answered")
        for url in browser.requests(driver):
            assert url.startswith((here, here.replace("https", "wss"), "data:", "blob:")), url
        assert browser.complaints(driver) == []
