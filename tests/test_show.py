"""`learn --show`: a window on a display that is none, and one clear line without."""

import os
import subprocess
import sys

import pytest

from tests.tools import need

LEARN = [sys.executable, "-m", "edge_rjepa.cli", "learn", "--seconds", "3", "--show"]


def learn(tmp_path, **environment):
    none = {"DISPLAY": "", "WAYLAND_DISPLAY": ""}
    return subprocess.run(
        [*LEARN, "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | none | environment,
    )


def test_without_a_display_it_is_refused_in_one_line(tmp_path):
    done = learn(tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("edge-rjepa: --show: no window can be opened here")


@pytest.fixture
def display(tmp_path):
    need("there is no display to show a window on", {"Xvfb": "xvfb"})
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as told:
        yield f":{told.readline().strip()}"
    server.terminate()
    server.wait()


def test_it_shows_a_window_and_learns(display, tmp_path):
    done = learn(tmp_path, DISPLAY=display)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").exists()


SHOWN = """
import subprocess, sys, time
import numpy as np
from edge_rjepa.runtime import Glance
from edge_rjepa.show import Window
from edge_rjepa.sources import Frame

told = []
image = np.full((480, 640, 3), (0, 0, 255), np.uint8)
glance = Glance(Frame(image, 0.0, (0, 0), 0), np.full((2, 2), 99.0), np.zeros((2, 2)),
                np.zeros((2, 3), np.float32), np.arange(2.0))
with Window(told.append) as window:
    for _ in range(20):
        window.show(glance)
        time.sleep(0.05)
    subprocess.run(["xwd", "-root", "-silent", "-out", sys.argv[1]])
    assert window._open and not told
assert not window._open
"""


def test_what_is_shown_is_on_the_screen(display, tmp_path):
    need("nothing takes a picture of the screen", {"xwd": "x11-apps"})
    picture = tmp_path / "screen.xwd"
    done = subprocess.run(
        [sys.executable, "-c", SHOWN, str(picture)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"DISPLAY": display},
    )
    assert done.returncode == 0, done.stderr
    data = picture.read_bytes()
    assert data.count(b"\x00\x00\xff") > 50_000  # a red picture, in whatever order of bytes


CLOSED = """
import subprocess, time
import numpy as np
from edge_rjepa.runtime import Glance
from edge_rjepa.show import TITLE, Window
from edge_rjepa.sources import Frame

told = []
none = np.empty((0, 2))
glance = Glance(Frame(np.zeros((480, 640, 3), np.uint8), 0.0, (0, 0), 0), none, none, none, none)
press = f"until xdotool search --onlyvisible --name {TITLE} windowfocus key q; do :; done"
with Window(told.append) as window:
    pressed, end_s = subprocess.Popen(press, shell=True), time.monotonic() + 30
    while not told and time.monotonic() < end_s:
        window.show(glance)
    pressed.wait()
    window.show(glance)
assert len(told) == 1 and "learning goes on" in told[0], told
"""


def test_q_closes_it_and_that_is_said_once(display):
    need("nothing presses keys", {"xdotool": "xdotool"})
    done = subprocess.run(
        [sys.executable, "-c", CLOSED],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"DISPLAY": display},
    )
    assert done.returncode == 0, done.stderr
