"""A live camera: a video device, a network stream or a GStreamer pipeline, through OpenCV."""

from __future__ import annotations

import functools
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np

from edge_rjepa.errors import SourceError
from edge_rjepa.eye.head import Head
from edge_rjepa.optics.camera import Lens, pinhole
from edge_rjepa.sources import redacted
from edge_rjepa.sources.config import CameraConfig
from edge_rjepa.sources.decode import is_utf_8, open_capture
from edge_rjepa.sources.devices import (
    ROOT,
    Device,
    device_at,
    device_path,
    devices,
    relocate,
)
from edge_rjepa.sources.frame import Frame, SourceEnded
from edge_rjepa.sources.grabber import Capture, Grabber, Picture
from edge_rjepa.sources.http_camera import ESCAPES, AnswerError, HttpCamera, OtherMedia
from edge_rjepa.sources.kinds import Options
from firmware_bridge.device_files import holders, in_words

READ_TIMEOUT_S = 3.0  # of network streams, once they have begun: stalls are noticed before
SPARE_S = 2.0  # to tell why no picture came, beyond the time it may take
SLOWEST_FRAMES = 3.0  # so many times the usual interval without a picture is no stall yet
RECENT_S = 1.0  # a driver's stamp further back than this is of another clock
UNCOMPRESSED_PX = 640 * 480  # 30 larger pictures a second do not fit through USB 2 as they are
PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}
# More decoding threads hand out pictures as many frames late; OpenCV before 4.7 has no choice.
ONE_THREAD = [cv2.CAP_PROP_N_THREADS, 1] if hasattr(cv2, "CAP_PROP_N_THREADS") else []
APPSINK = " ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"


class CameraSource:
    """The pictures of a live camera, always the newest; a context manager.

    name: for messages. opener: opens the camera: a video device, a stream or a pipeline.
    config: size and rate that a video device is asked for. What comes may differ: `camera` has the
    size of the first picture, which all later ones are made to fit, and the config's field of view.
    lens: in place of that field of view, from a calibration; what it raises is let through.

    Time of capture is on time.monotonic(). A video device's is the kernel's own, of the picture's
    beginning (the buffer's stamp, which Linux takes from that same clock), as long as it lies
    within the last second. Else it is when the picture had arrived and OpenCV's grab() returned:
    the way from the camera is not in it, nor, of network streams, that OpenCV decodes in grab().

    A camera that stalls, dies, repeats one picture or changes its size is opened again, for ever;
    drain_events() reports it, `faults` counts it. A video device is found again under another
    number. Of network streams other than JPEGs by HTTP OpenCV itself scales pictures whose size
    changes without the stream breaking off.

    Raises SourceError when it cannot be opened or gives no picture.
    """

    live = True
    head: Head | None = None

    def __init__(
        self, name: str, opener: Opener, config: CameraConfig, lens: Lens | None = None
    ) -> None:
        try:
            slowest_s = SLOWEST_FRAMES / config.frames_per_s
            first_s = config.first_picture_s + SPARE_S
            self._grabber = Grabber("camera", opener.open, slowest_s, first_s)
        except SourceError as error:
            raise SourceError(f"camera {name}: {error}; {opener.cure()}") from error
        height, width = self._grabber.newest().image.shape[:2]
        try:
            self.camera = (lens or pinhole(config.field_of_view_rad))(width, height)
        except (ValueError, SourceError):  # a calibration of another resolution, or none
            self._grabber.close()
            raise
        self._handed_out = -1

    @property
    def faults(self) -> dict[str, int]:
        """How often it stalled, died, was frozen, was resized, and was reopened."""
        return dict(self._grabber.faults)

    def read_next(self, timeout_ms: float) -> Frame | None:
        """The newest frame as soon as it is newer than the one handed out last.

        None when there is none by then. Raises SourceEnded when the source was closed.
        """
        picture = self._grabber.newer_than(self._handed_out, timeout_ms / 1e3)
        if self._grabber.closed:
            raise SourceEnded
        return None if picture is None else self._framed(picture)

    def held_out(self, count: int) -> list[Frame]:
        """None: what a camera shows is gone when it was seen."""
        return []

    def drain_events(self) -> list[str]:
        """What went wrong or right since the last call, in words, oldest first."""
        return self._grabber.drain_events()

    def state(self) -> dict:
        """Nothing: a live stream cannot be gone back to."""
        return {}

    def restore(self, state: dict) -> None:
        """Go on with what the camera shows now."""

    def close(self) -> None:
        """Let go of the camera, within half a second."""
        self._grabber.close()

    def __enter__(self) -> CameraSource:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _framed(self, picture: Picture) -> Frame:
        self._handed_out = picture.sequence
        return Frame(picture.image, picture.t_capture_s, (0.0, 0.0), picture.sequence)


def open_device(name: str, options: Options) -> CameraSource:
    """A camera of this machine, by its number or its file."""
    opener = VideoDevice(device_path(name), options.camera)
    return CameraSource(name, opener, options.camera, options.lens)


def open_stream(url: str, options: Options) -> CameraSource:
    """A camera in the network."""
    opener = Stream(url, options.camera)
    return CameraSource(redacted(url), opener, options.camera, options.lens)


def open_pipeline(pipeline: str, options: Options) -> CameraSource:
    """A GStreamer pipeline."""
    opener = Pipeline(pipeline)
    return CameraSource(f"gst:{redacted(pipeline)}", opener, options.camera, options.lens)


class Opener(Protocol):
    """Opens one camera, as often as need be."""

    def open(self) -> Capture:
        """The open camera. Raises SourceError."""

    def cure(self) -> str:
        """Why it may not open, and what to do."""


class OpenCapture:
    """A cv2.VideoCapture as grabber.py has it."""

    def __init__(self, capture: cv2.VideoCapture, where: str, is_device: bool = False) -> None:
        self.where = where
        self._capture = capture
        self._is_device = is_device

    def grab(self) -> bool:
        """Wait for the next picture; False when it does not come."""
        return self._capture.grab()

    def retrieve(self) -> np.ndarray | None:
        """Decode what was grabbed; None where it cannot be."""
        return self._capture.retrieve()[1]

    def captured_s(self, grabbed_s: float) -> float:
        """The driver's time of a device, as far as it can be one; else `grabbed_s`."""
        if self._is_device:
            stamp_s = 1e-3 * self._capture.get(cv2.CAP_PROP_POS_MSEC)
            if 0.0 <= grabbed_s - stamp_s < RECENT_S:
                return stamp_s
        return grabbed_s

    def release(self) -> None:
        """Let go of the camera."""
        self._capture.release()


def open_at(path: str, config: CameraConfig) -> Capture:
    """The video device at `path`, asked for the config's size and rate. Raises SourceError."""
    capture = open_capture(path, cv2.CAP_V4L2)
    if config.width_px * config.height_px > UNCOMPRESSED_PX:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, config.width_px)
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, config.height_px)
    capture.set(cv2.CAP_PROP_FPS, config.frames_per_s)
    return OpenCapture(capture, path, is_device=True)


class VideoDevice:
    """Opens a camera of this machine; once it was open, whatever its number is."""

    def __init__(
        self,
        path: str,
        config: CameraConfig,
        open_path: Callable[[str, CameraConfig], Capture] = open_at,
        root: Path = ROOT,
    ) -> None:
        self._path = path
        self._config = config
        self._open_path = open_path
        self._root = root
        self._device: Device | None = None
        self._before: list[Device] = []

    def open(self) -> Capture:
        """The open camera. Raises SourceError."""
        capture = self._open_path(self._where(), self._config)
        self._device = device_at(capture.where, self._root)
        self._before = devices(self._root)
        return capture

    def cure(self) -> str:
        """Why it may not open, and what to do."""
        there_are = ", ".join(f"{device.path} ({device.name})" for device in devices(self._root))
        if not os.path.exists(self._path):
            return f"there is {'only ' + there_are if there_are else 'no camera: plug one in'}"
        if not os.access(self._path, os.R_OK | os.W_OK):
            return "permission denied: run `sudo usermod -aG video $USER` and log in again"
        users = holders(self._path)
        if users:
            return f"it is in use by process {in_words(users)}: end that"
        return f"it may not be the one that gives pictures: try another of {there_are or 'them'}"

    def _where(self) -> str:
        if self._device is None:
            return os.path.realpath(self._path)
        device = relocate(self._device, self._before, self._root)
        if device is None:
            raise SourceError("it is not plugged in")
        return device.path


class Stream:
    """Opens a network stream, with time limits."""

    def __init__(self, url: str, config: CameraConfig) -> None:
        self._url = checked(url)
        self._first_s = config.first_picture_s
        self._interval_s = 1.0 / config.frames_per_s
        self._slowest_s = max(READ_TIMEOUT_S, SLOWEST_FRAMES * self._interval_s)
        self._cure = ""  # of what happened last

    def open(self) -> Capture:
        """The open stream. Raises SourceError."""
        self._cure = ""
        if not self._url.startswith(("http:", "https:")):
            return self._by_opencv()
        try:
            return HttpCamera(
                self._url, redacted(self._url), self._first_s, self._slowest_s, self._interval_s
            )
        except OtherMedia as media:
            self._cure = f"it sends {media}: give the address of its Motion JPEG, RTSP or HLS"
            return self._by_opencv()
        except AnswerError as error:
            self._cure = error.cure
            raise

    def _by_opencv(self) -> Capture:
        capture = open_capture(
            self._url,
            cv2.CAP_FFMPEG,
            [
                *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(1e3 * self._first_s)),
                *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(1e3 * self._slowest_s)),
                *ONE_THREAD,
            ],
        )
        return OpenCapture(capture, redacted(self._url))

    def cure(self) -> str:
        """Why it may not open, and what to do."""
        if self._cure:
            return self._cure
        url = urlsplit(self._url)
        try:
            socket.create_connection((url.hostname, url.port or PORTS[url.scheme]), 2.0).close()
        except OSError as error:
            return f"{url.hostname} does not answer ({error}): check the address and the network"
        except UnicodeError:  # a label that is empty or too long, as in 192.168..10
            return f"{url.hostname} is no name of a computer: check the address"
        return (
            f"{url.hostname} answers, but sends no pictures in time: try the address, user and "
            "password in a player such as ffplay; a camera that takes longer needs a higher "
            "camera.first_picture_s in --config"
        )


def checked(url: str) -> str:
    """The URL, whose host and port can be told. Raises SourceError where they cannot."""
    if not is_utf_8(url):
        raise SourceError(
            f"{url.partition(':')[0]}://..: a byte of the address is no UTF-8: write it as % and "
            "two digits, as in %C3%A9"
        )
    try:
        parts = urlsplit(url)
        told = parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        told = False
    # What stands before an @ beyond the host is the rest of a password.
    if told and "@" not in parts.fragment:
        return url
    raise SourceError(
        f"{url.partition(':')[0]}://..: where host and port are cannot be told; {ESCAPES}, and put "
        "an address of IPv6 in [ ]"
    )


class Pipeline:
    """Opens a GStreamer pipeline; one without an appsink is given one."""

    def __init__(self, pipeline: str) -> None:
        if not has_gstreamer():
            raise SourceError(
                "gst: needs an OpenCV with GStreamer, and this one has none: use the system's "
                "(CONTRIBUTING.md, 'Keep the OpenCV you have'), or name its /dev/video or URL"
            )
        self._pipeline = pipeline if "appsink" in pipeline else pipeline + APPSINK

    def open(self) -> Capture:
        """The running pipeline. Raises SourceError."""
        return OpenCapture(open_capture(self._pipeline, cv2.CAP_GSTREAMER), "the same pipeline")

    def cure(self) -> str:
        """Why it may not open, and what to do."""
        return "try it with gst-launch-1.0, an autovideosink at its end; see docs/jetson.md"


@functools.cache
def has_gstreamer() -> bool:
    """Whether OpenCV was built with GStreamer."""
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None
