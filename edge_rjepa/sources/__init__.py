"""Where pictures come from: one small interface (frame.py) and a module for each kind."""

from __future__ import annotations

import math
import re
from difflib import get_close_matches
from pathlib import Path

from edge_rjepa.errors import SourceError
from edge_rjepa.optics.camera import Lens, pinhole
from edge_rjepa.sources.camera import CameraSource
from edge_rjepa.sources.config import CameraConfig
from edge_rjepa.sources.frame import Frame, Source, SourceEnded
from edge_rjepa.sources.pictures import PictureSource
from edge_rjepa.sources.replay import ReplaySource
from edge_rjepa.sources.scene import (
    PAN_LIMIT_RAD,
    TILT_LIMIT_RAD,
    SceneSource,
    pictures_in,
    skimage_photographs,
)
from edge_rjepa.sources.steered import Mount, SteeredScene
from edge_rjepa.sources.video import VideoSource

__all__ = ["Frame", "Source", "SourceEnded", "absolute", "open_source", "reach_rad"]

SUPPORTED = (
    "scene: (scikit-image's photographs), scene:DIR, a folder of pictures, a video file, a camera "
    "(0, /dev/video0, rtsp://.., http://.., gst:PIPELINE) or replay:DIR"
)
OF_FOLDERS = re.compile(r"(scene:|replay:|)(.*)", re.DOTALL)
LIVE = re.compile(r"\d+$|/dev/(video|v4l/)|(rtsp|rtsps|http|https)://|gst:")
SPELLINGS = ("scene:", "replay:", "gst:", "rtsp://", "http://", "https://")


def absolute(spec: str) -> str:
    """The same source, named so that it is found from any folder."""
    kind, path = OF_FOLDERS.match(spec).groups()
    if not path or LIVE.match(path) or _misspelt(spec):
        return spec
    return f"{kind}{_path(path).resolve()}"


def open_source(
    spec: str,
    seed: int = 0,
    camera: CameraConfig | None = None,
    mount: Mount | None = None,
    lens: Lens | None = None,
    once: bool = False,
) -> Source:
    """The source that `spec` names.

    spec: `scene:` (scikit-image's photographs) or `scene:DIR` before a simulated head; a folder of
    pictures; a video file; a live camera (`0`, `/dev/video0`, `/dev/v4l/by-id/..`, `rtsp://..`,
    `http://..`, `gst:PIPELINE`); `replay:DIR`, what a run recorded.
    seed: of the order of pictures, of a scene's, and of what is held out; else there is no chance.
    camera: what a live camera is asked for, and the field of view of all that does not tell its
    own; None for the usual one.
    mount: a real head that turns the camera of a scene; None for the simulated one.
    lens: in place of that field of view, from a calibration.
    once: whether a video ends with its last frame, of which none is then held out.
    Raises SourceError when the source is unknown or cannot be read.
    """
    camera = camera or CameraConfig()
    lens = lens or pinhole(camera.field_of_view_rad)
    if spec.startswith("scene:"):
        folder = spec.removeprefix("scene:")
        photographs = pictures_in(_path(folder)) if folder else skimage_photographs()
        return SteeredScene(photographs, mount, seed) if mount else SceneSource(photographs, seed)
    if spec.startswith("replay:"):
        return ReplaySource(_path(spec.removeprefix("replay:")))
    if LIVE.match(spec):
        return CameraSource(spec, camera, lens)
    path = _path(spec)
    if (path / "recording.json").exists():
        raise SourceError(f"{spec} is a recording: name it replay:{spec}")
    if path.is_dir() and spec:
        return PictureSource(pictures_in(path), seed, lens)
    if path.is_file():
        return VideoSource(path, lens, once)
    raise SourceError(_unknown(spec))


def reach_rad(spec: str) -> tuple[float, float]:
    """How far to each side a head may turn (pan, tilt) until there is no more to see."""
    if spec.startswith("scene:"):
        return PAN_LIMIT_RAD, TILT_LIMIT_RAD
    return (math.inf, math.inf) if LIVE.match(spec) else (0.0, 0.0)


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _misspelt(spec: str) -> str | None:
    """The kind of source that `spec` seems to mean, if it names no file."""
    kind = re.match(r"[^/]*?:(//)?", spec)
    if kind is None or kind[0] in SPELLINGS or _path(spec).exists():
        return None
    return next(iter(get_close_matches(kind[0], SPELLINGS, 1)), None)


def _unknown(spec: str) -> str:
    meant = _misspelt(spec)
    if meant:
        return f"unknown source {spec!r}: did you mean {meant!r}?"
    if ":" in spec or not spec:
        return f"unknown source {spec!r}: use {SUPPORTED}"
    return f"{spec}: no such video file or folder; use {SUPPORTED}"
