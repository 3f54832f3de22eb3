"""`learn --show`: a window on a display that is none, and one clear line without."""

import os
import subprocess
import sys

import pytest

from tests import small_runs
from tests.tools import need

pytestmark = pytest.mark.browser

LEARN = [sys.executable, "-m", "edge_rjepa", "learn", "--fixations", "640", "--show"]


def learn(tmp_path, **environment):
    none = {"DISPLAY": "", "WAYLAND_DISPLAY": ""}
    (tmp_path / "small.toml").write_text(small_runs.CONFIG)
    return subprocess.run(
        [*LEARN, "--config", str(tmp_path / "small.toml"), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
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
        f"Xvfb -displayfd {write} -screen 0 1280x1024x24 -nolisten tcp -noreset".split(),
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
from edge_rjepa.run.loop import FixationBatch
from edge_rjepa.views.window import Window
from edge_rjepa.sources import Frame

told = []
image = np.full((480, 640, 3), (0, 0, 255), np.uint8)
batch = FixationBatch(Frame(image, 0.0, (0, 0), 0), np.full((2, 2), 99.0), np.zeros((2, 2)),
                np.zeros((2, 3), np.float32), np.arange(2.0))
with Window(told.append) as window:
    for _ in range(20):
        window.show(batch)
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
        timeout=300,
        env=os.environ | {"DISPLAY": display},
    )
    assert done.returncode == 0, done.stderr
    data = picture.read_bytes()
    assert data.count(b"\x00\x00\xff") > 50_000  # a red picture, in whatever order of bytes


FIND = "xdotool search --onlyvisible --name edge_rjepa"
# As a window manager does when somebody presses the window's close button.
CLOSE_BUTTON = f"""
import ctypes, subprocess

class Message(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int), ("serial", ctypes.c_ulong), ("sent", ctypes.c_int),
                ("display", ctypes.c_void_p), ("window", ctypes.c_ulong),
                ("about", ctypes.c_ulong), ("format", ctypes.c_int),
                ("words", ctypes.c_long * 5), ("rest", ctypes.c_long * 24)]

x11 = ctypes.CDLL("libX11.so.6")
x11.XOpenDisplay.restype, x11.XInternAtom.restype = ctypes.c_void_p, ctypes.c_ulong
display = ctypes.c_void_p(x11.XOpenDisplay(None))
window = int(subprocess.check_output({FIND.split()}).split()[0])
message = Message(33, 0, 1, display, window, x11.XInternAtom(display, b"WM_PROTOCOLS", 0), 32)
message.words[0] = x11.XInternAtom(display, b"WM_DELETE_WINDOW", 0)
x11.XSendEvent(display, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(message))
x11.XFlush(display)
"""

CLOSED = """
import subprocess, sys
import numpy as np
from edge_rjepa.run.loop import FixationBatch
from edge_rjepa.views.window import Window
from edge_rjepa.sources import Frame

told = []
none = np.empty((0, 2))
frame = Frame(np.zeros((480, 640, 3), np.uint8), 0.0, (0, 0), 0)
batch = FixationBatch(frame, none, none, none, none)
with Window(told.append) as window:
    while not told:
        closing = subprocess.Popen(sys.argv[1:])  # at first there may be no window
        while closing.poll() is None and not told:
            window.show(batch)
    closing.kill()
    closing.wait()
    window.show(batch)
assert len(told) == 1 and "learning goes on" in told[0], told
"""


@pytest.mark.parametrize(
    "command",
    [[*FIND.split(), "windowfocus", "key", "q"], [sys.executable, "-c", CLOSE_BUTTON]],
    ids=["q", "its button"],
)
def test_it_can_be_closed_and_that_is_said_once(display, command):
    need("nothing presses keys", {"xdotool": "xdotool"})
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, *command],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"DISPLAY": display},
    )
    assert done.returncode == 0, done.stderr
