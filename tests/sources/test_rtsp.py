"""Real RTSP, through FFmpeg and through GStreamer: a camera whose server dies twice comes back."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from edge_rjepa.sources import open_source
from edge_rjepa.sources.camera import has_gstreamer
from tests.tools import need

SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"  # the one that has Debian's gi
BACK_S = 40.0

pytestmark = pytest.mark.slow


class RtspCamera:
    """The server of rtsp_server.py, which can be killed and started again."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"rtsp://127.0.0.1:{self.port}/cam"
        self.process = None

    def start(self):
        alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [SYSTEM_PYTHON, SERVER, str(self.port)], stdout=subprocess.PIPE, text=True, env=alone
        )
        assert self.process.stdout.readline() == "serving\n"

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def camera():
    asks = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if subprocess.run([SYSTEM_PYTHON, "-c", asks], capture_output=True).returncode:
        need("no RTSP server", {"gst-rtsp-server": "python3-gi gir1.2-gst-rtsp-server-1.0"})
    need("no H.264", {"gst-inspect-1.0": "gstreamer1.0-tools gstreamer1.0-plugins-ugly"})
    camera = RtspCamera()
    camera.start()
    yield camera
    camera.kill()


def through_gstreamer(camera):
    if not has_gstreamer():
        pytest.skip("this OpenCV has no GStreamer: make debian takes the system's")
    return f"gst:rtspsrc location={camera.url} protocols=tcp latency=50 ! rtph264depay ! avdec_h264"


@pytest.mark.parametrize("spec_of", [lambda camera: camera.url, through_gstreamer])
def test_a_camera_outlives_two_restarts_of_its_server(camera, spec_of):
    with open_source(spec_of(camera)) as source:
        assert (source.camera.width_px, source.camera.height_px) == (320, 240)
        numbers = pictures_of(source, 10)
        for restart in range(2):
            camera.kill()
            time.sleep(1.0)
            camera.start()
            wait_for_reopening(source, restart + 1)
            numbers += pictures_of(source, 10)
        assert numbers == sorted(set(numbers))
        assert source.faults["reopened"] >= 2
        assert any("back" in event for event in source.drain_events())


def pictures_of(source, count):
    """The numbers of so many frames, all of which show the white ball on black."""
    numbers, end_s = [], time.monotonic() + BACK_S
    while len(numbers) < count:
        assert time.monotonic() < end_s, source.drain_events()
        frame = source.read_next(1000.0)
        if frame is not None:
            assert frame.image.max() > 200 > 50 > frame.image.mean()
            numbers.append(frame.sequence)
    return numbers


def wait_for_reopening(source, times):
    end_s = time.monotonic() + BACK_S
    while source.faults["reopened"] < times:
        assert time.monotonic() < end_s, source.drain_events()
        source.read_next(200.0)
