"""Live cameras: OpenCV itself reading a network camera that fails when told to."""

import json
import os
import queue
import socket
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import faulty_camera
from benchmarks.faulty_camera import FaultyCamera
from edge_rjepa.errors import SourceError
from edge_rjepa.sources import SourceEnded, camera, open_source
from edge_rjepa.sources.camera import CameraSource, OpenCapture
from edge_rjepa.sources.config import CameraConfig
from tests.tools import unhindered_s

CONFIG = CameraConfig()
FRESH_S = 0.25  # of a picture at 30 a second, with room for a machine that does other things
NOTICED_S = 2.0


@pytest.fixture(scope="module")
def server():
    with FaultyCamera(size=(320, 240)) as server:
        yield server


@pytest.fixture
def source(server):
    server.heal()
    with open_source(server.url, camera=CONFIG) as source:
        yield source
    server.heal()


def until(condition, within_s):
    """How long it takes until it holds, in seconds."""
    started_s = unhindered_s()
    while not condition():
        assert unhindered_s() - started_s < within_s, "it never came to hold"
        threading.Event().wait(0.005)
    return unhindered_s() - started_s


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("camera: ")]


def open_files():
    return len(os.listdir("/proc/self/fd"))


def fresh(source, server):
    """Whether the next picture is one of now, as far as it tells."""
    frame = source.read_next(100)
    age_s = None if frame is None else server.age_s(frame.image)
    return age_s is not None and age_s < FRESH_S


# --- the two ways of reading ---------------------------------------------------------------------


def test_pictures_have_the_size_that_came_and_the_angle_that_was_configured(server):
    server.heal()
    config = CameraConfig(width_px=1280, height_px=720, field_of_view_rad=1.2)
    with open_source(server.url, camera=config) as source:
        frame = source.read_next(1000)
        pinhole = source.camera
    assert frame.image.shape == (240, 320, 3) and frame.image.dtype == np.uint8
    assert (pinhole.width_px, pinhole.height_px, pinhole.field_of_view_rad) == (320, 240, 1.2)
    assert source.live and source.head is None and frame.head_rad == (0.0, 0.0)


@pytest.mark.slow
def test_who_reads_all_gets_all_in_order_and_once(source, server):
    frames = [source.read_next(1000) for _ in range(20)]
    numbers = [server.number_of(frame.image) for frame in frames]
    sequence = [frame.sequence for frame in frames]
    assert all(np.diff(sequence) >= 1)
    assert all(np.diff(numbers) >= np.diff(sequence))


@pytest.mark.slow
def test_who_reads_slowly_gets_fresh_pictures(source, server):
    frames, ages_s = [], []
    for _ in range(10):
        threading.Event().wait(0.15)
        frames.append(source.read_next(1000))
        ages_s.append(server.age_s(frames[-1].image))
    assert np.median(ages_s) < 0.1 and max(ages_s) < FRESH_S
    assert (
        np.median(np.diff([frame.sequence for frame in frames])) >= 3
    )  # gaps show what was missed


def test_time_of_capture_is_when_the_picture_was_sent(source, server):
    frames = [source.read_next(1000) for _ in range(15)]
    lags_s = [f.t_capture_s - server.sent_s(server.number_of(f.image)) for f in frames]
    assert min(lags_s) > 0.0 and np.median(lags_s) < 0.05
    assert all(np.diff([frame.t_capture_s for frame in frames]) > 0.0)


def test_read_next_waits_no_longer_than_asked(source, server):
    server.fault("stall")
    while source.read_next(100) is not None:
        pass
    started_s = unhindered_s()
    assert source.read_next(50) is None
    assert 0.05 <= unhindered_s() - started_s < 0.5


def test_it_keeps_nothing_back_and_has_nothing_to_keep(source):
    assert source.held_out(10) == []
    source.restore(json.loads(json.dumps(source.state())))
    assert source.drain_events() == []


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "counted"),
    [
        ("stall", "stalled"),
        ("die", "died"),
        ("garbage", "died"),
        ("truncate", "died"),
        ("freeze", "frozen"),
    ],
)
def test_a_fault_is_noticed_within_two_seconds_and_got_over(source, server, fault, counted):
    source.read_next(1000)
    server.fault(fault)
    assert until(lambda: source.faults[counted], 5.0) < NOTICED_S
    last = source._grabber.newest()
    server.heal()
    until(lambda: fresh(source, server), 10.0)
    assert source.read_next(1000).sequence > last.sequence
    until(lambda: source.faults["reopened"], 5.0)
    told = source.drain_events()
    assert told[0].endswith("; reopening") and "back after" in told[-1], told


def test_dark_pictures_end_nothing(source, server):
    source.read_next(1000)
    server.fault("black")
    frames = [source.read_next(1000) for _ in range(10)]
    assert all(frame is not None and frame.image.shape == (240, 320, 3) for frame in frames)
    server.heal()
    until(lambda: fresh(source, server), 5.0)


def test_another_resolution_is_noticed_and_fitted_to_the_first(source, server):
    server.fault("resize")
    assert until(lambda: source.faults["resized"], 5.0) < NOTICED_S
    until(lambda: fresh(source, server), 5.0)  # the number along its edge is where it was
    assert source._grabber.newest().image.shape == (240, 320, 3)
    assert any("pictures are 160x120 px now" in line for line in source.drain_events())


@pytest.mark.slow
def test_it_outlives_a_camera_that_stays_away(source, server):
    server.fault("die")
    until(lambda: source._grabber._attempts >= 4, 10.0)
    server.heal()
    until(lambda: fresh(source, server), 10.0)
    assert source.faults["died"] == 1


# --- an end, and no beginning --------------------------------------------------------------------


def test_nothing_is_left_open(server):
    server.heal()
    before = open_files() - server.clients, readers()
    source = open_source(server.url, camera=CONFIG)
    source.read_next(1000)
    server.fault("die")
    until(lambda: source.faults["died"], 5.0)
    server.heal()
    until(lambda: source.faults["reopened"], 5.0)
    source.close()
    until(lambda: (open_files() - server.clients, readers()) == before, 5.0)
    with pytest.raises(SourceEnded):
        source.read_next(1000)


@pytest.mark.slow
def test_closing_in_the_middle_of_a_stall_takes_half_a_second(server):
    server.heal()
    source = open_source(server.url, camera=CONFIG)
    server.fault("stall")
    while source.read_next(100) is not None:
        pass
    started_s = unhindered_s()
    source.close()
    assert unhindered_s() - started_s < 0.5
    until(lambda: not readers(), 5.0)  # OpenCV comes back at its time limit
    server.heal()


@pytest.fixture
def silent_server():
    """Takes connections and says nothing; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://name:secret@127.0.0.1:{listener.getsockname()[1]}/stream"


def test_a_server_that_never_answers_is_given_up_within_the_time_limit(silent_server):
    started_s = unhindered_s()
    with pytest.raises(SourceError, match="sends no pictures in time") as caught:
        open_source(silent_server, camera=CameraConfig(first_picture_s=0.3))
    assert unhindered_s() - started_s < 2.0
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
    until(lambda: not readers(), 2.0)


@pytest.mark.slow
def test_a_read_that_never_returns_hangs_nothing(monkeypatch, silent_server):
    """As with a driver that knows no time limits: the thread is left, and found again later."""
    monkeypatch.setattr(camera, "SPARE_S", -1.8)
    started_s = unhindered_s()
    with pytest.raises(SourceError, match=r"no picture for 0\.2 s"):
        open_source(silent_server, camera=CameraConfig(first_picture_s=2.0))
    assert unhindered_s() - started_s < 1.0
    assert len(readers()) == 1
    until(lambda: not readers(), 5.0)


def test_a_closed_port_and_an_unknown_host_are_told_apart(server):
    server.fault("die")
    with pytest.raises(SourceError, match="127.0.0.1 does not answer.*refused"):
        open_source(server.url, camera=CONFIG)
    server.heal()
    with pytest.raises(SourceError, match="does not answer"):
        open_source("http://no.such.host.invalid/", camera=CONFIG)


@pytest.mark.parametrize("url", ["http://192.168..10/", f"rtsp://{64 * 'a'}.local/"])
def test_a_host_that_no_computer_is_called_is_named(url):
    with pytest.raises(SourceError, match="is no name of a computer: check the address"):
        open_source(url, camera=CONFIG)


@pytest.mark.parametrize("url", ["rtsp://127.0.0.1:9/caf\udce9", "http://m\udce9:x@127.0.0.1:9/"])
def test_an_address_that_is_no_utf_8_is_refused_with_the_cure(url):
    """Such a name ended the process: OpenCV takes none."""
    with pytest.raises(SourceError, match="no UTF-8: write it as % and two digits"):
        open_source(url, camera=CONFIG)


def test_a_device_whose_name_is_no_utf_8_ends_no_process():
    with pytest.raises(SourceError, match="a byte of its name is no UTF-8"):
        open_source("/dev/v4l/by-id/caf\udce9", camera=CONFIG)


@pytest.mark.parametrize("spec", ["97", "/dev/video97", "/dev/v4l/by-id/usb-none-video-index0"])
def test_a_device_that_is_not_there_says_what_is(spec):
    with pytest.raises(SourceError, match=f"camera {spec}: cannot be opened; there is "):
        open_source(spec, camera=CONFIG)


def open_at(path):
    """The video device whose file is there."""
    return CameraSource(str(path), camera.VideoDevice(str(path), CONFIG), CONFIG)


def test_a_device_without_permission_names_the_group(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SourceError, match="usermod -aG video"):
        open_at(tmp_path)


def test_a_device_in_use_names_the_process(tmp_path):
    path = tmp_path / "video0"
    with open(path, "wb"), pytest.raises(SourceError, match=f"in use by process {os.getpid()}"):
        open_at(path)


def test_pipelines_without_gstreamer_say_where_to_get_it(monkeypatch):
    monkeypatch.setattr(camera, "has_gstreamer", lambda: False)
    with pytest.raises(SourceError, match="OpenCV with GStreamer"):
        open_source("gst:videotestsrc", camera=CONFIG)


def test_a_pipeline_is_given_an_appsink_unless_it_has_one(monkeypatch):
    monkeypatch.setattr(camera, "has_gstreamer", lambda: True)
    assert camera.Pipeline("videotestsrc")._pipeline == "videotestsrc" + camera.APPSINK
    assert camera.Pipeline("videotestsrc ! appsink")._pipeline == "videotestsrc ! appsink"


# --- a device's own clock ------------------------------------------------------------------------


class Stamped:
    def __init__(self, stamp_ms):
        self.stamp_ms = stamp_ms

    def get(self, what):
        assert what == cv2.CAP_PROP_POS_MSEC
        return self.stamp_ms


@pytest.mark.parametrize(
    ("stamp_ms", "captured_s"),
    [(99_970.0, 99.97), (0.0, 100.0), (98_000.0, 100.0), (100_500.0, 100.0), (1.7e12, 100.0)],
)
def test_a_drivers_time_is_taken_if_it_can_be_one(stamp_ms, captured_s):
    device = OpenCapture(Stamped(stamp_ms), "/dev/video0", is_device=True)
    assert device.captured_s(100.0) == pytest.approx(captured_s)
    assert OpenCapture(Stamped(stamp_ms), "a stream").captured_s(100.0) == 100.0


# --- a device that comes back under another number -----------------------------------------------


def test_a_device_is_found_again_under_another_number(tmp_path):
    def plug_in(number):
        folder = tmp_path / f"sys/class/video4linux/video{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text("Webcam")
        (folder / "device").symlink_to(tmp_path)

    class Device:
        def __init__(self, path):
            self.where = path
            self.pictures = queue.Queue()
            for _ in range(2):
                self.pictures.put(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))

        def grab(self):
            return not self.pictures.empty()

        def retrieve(self):
            return self.pictures.get()

        def captured_s(self, grabbed_s):
            return grabbed_s

        def release(self):
            folder = tmp_path / f"sys/class/video4linux/{Path(self.where).name}"
            if folder.exists():
                folder.rename(tmp_path / f"away{folder.name}")

    plug_in(0)
    opener = camera.VideoDevice("/dev/video0", CONFIG, lambda path, _: Device(path), tmp_path)
    with CameraSource("0", opener, CONFIG) as source:
        until(lambda: source.faults["died"], 5.0)
        plug_in(4)
        until(lambda: source.faults["reopened"], 5.0)
        assert "back as /dev/video4" in "".join(source.drain_events())


# --- the camera the others are tried on ----------------------------------------------------------


def test_numbers_survive_jpeg_and_scaling(server):
    view = faulty_camera.view((320, 240), 7)
    for number in (0, 1, 123_456_789, 2**32 - 1):
        marked = faulty_camera.marked(view, number)
        coded = cv2.imdecode(cv2.imencode(".jpg", marked)[1], cv2.IMREAD_COLOR)
        for image in (coded, cv2.resize(coded, (160, 120)), cv2.resize(coded, (640, 480))):
            assert server.number_of(image) == number
    assert server.number_of(view) is None and server.number_of(np.zeros_like(view)) is None


def test_its_pictures_move_and_its_threads_end():
    threads, files = threading.active_count(), open_files()
    with FaultyCamera(size=(64, 48), frames_per_s=200.0) as camera:
        with pytest.raises(ValueError, match="use one of stall"):
            camera.fault("hiccup")
    assert threading.active_count() == threads and open_files() <= files
    views = [faulty_camera.view((64, 48), number) for number in (0, 15, 30)]
    assert not np.array_equal(views[0], views[1]) and not np.array_equal(views[1], views[2])
