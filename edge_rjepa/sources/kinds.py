"""The kinds of source: one record each. Whoever needs to know something of a kind asks its record.

A new kind is a module of its own and one record in KINDS. That module is imported when a source of
its kind is opened; this one loads neither OpenCV nor Numba.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_rjepa.errors import SourceError
from edge_rjepa.sources.config import CameraConfig
from edge_rjepa.sources.redaction import redacted

if TYPE_CHECKING:
    from edge_rjepa.optics.camera import Lens
    from edge_rjepa.sources.frame import Source
    from edge_rjepa.sources.steered_scene import Mount

EVERYWHERE_RAD = math.inf, math.inf
SCENE_REACH_RAD = math.radians(14.0), math.radians(8.0)


class Options(NamedTuple):
    """What a source is opened with, beside its name: see `edge_rjepa.sources.open_source`."""

    seed: int
    camera: CameraConfig
    lens: Lens
    mount: Mount | None
    once: bool
    measured: bool = False  # the lens is a calibration's, and counts for more than what a bag tells


@dataclass(frozen=True)
class Kind:
    """What is known of all sources of one kind before any of them is opened.

    A source is named by a prefix and the rest (`scene:DIR`), by a URL, or by a bare name that
    `recognises` knows.
    """

    name: str
    example: str  # for help: how such a source is named
    open: Callable[[str, Options], Source]  # of the name without its prefix; raises SourceError
    prefix: str = ""
    schemes: tuple[str, ...] = ()  # of URLs, which belong to the name
    recognises: Callable[[str], bool] = lambda name: False
    names_path: bool = False  # what follows the prefix is the path of a file or folder
    reach_rad: tuple[float, float] = (0.0, 0.0)  # how far to each side a head may turn what it sees
    brings_camera: bool = False  # it knows its own lens: no calibration fits it
    config_of: Callable[[str], dict] | None = None  # the run's configuration that it brings along
    shows_one_place: bool = True  # so that something in it is usual
    live: bool = False  # opening it connects to a machine or runs a pipeline

    def owns(self, spec: str) -> bool:
        """Whether `spec` names a source of this kind."""
        begins = spec.startswith(self.beginnings) if self.beginnings else False
        return begins or self.recognises(spec)

    @property
    def beginnings(self) -> tuple[str, ...]:
        """What the names of this kind begin with: none of them if they are bare."""
        return (self.prefix, *self.schemes) if self.prefix else self.schemes


def path_of(text: str) -> Path:
    """The path that a person wrote; a home that is not known stays as it was written."""
    return Path(os.path.expanduser(text))


def _of_module(module: str, function: str) -> Callable[..., Any]:
    """A function of a module of this room, which is imported when it is first called."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module(f"edge_rjepa.sources.{module}"), function)(*arguments)

    return call


# The first kind that owns a name opens it: files and folders come last, as any name may be one's.
KINDS = [
    Kind(
        name="scene",
        example="scene: (scikit-image's photographs before a simulated head), scene:DIR",
        open=_of_module("steered_scene", "open_scene"),
        prefix="scene:",
        names_path=True,
        reach_rad=SCENE_REACH_RAD,
        brings_camera=True,
        shows_one_place=False,
    ),
    Kind(
        name="recording",
        example="replay:DIR, replay:FILE.mcap",
        open=_of_module("replay", "open_replay"),
        prefix="replay:",
        names_path=True,
        brings_camera=True,
        config_of=_of_module("replay", "config_of"),
    ),
    Kind(
        name="bag",
        example="bag:FILE.mcap#/camera/image_raw",
        open=_of_module("bags.source", "open_bag"),
        prefix="bag:",
        names_path=True,
    ),
    Kind(
        name="lerobot",
        example="lerobot:DIR[#camera]",
        open=_of_module("lerobot", "open_lerobot"),
        prefix="lerobot:",
        names_path=True,
        shows_one_place=False,
    ),
    Kind(
        name="device",
        example="a camera (0, /dev/video0, /dev/v4l/by-id/..)",
        open=_of_module("camera", "open_device"),
        recognises=lambda name: re.match(r"\d+$|/dev/(video|v4l/)", name) is not None,
        reach_rad=EVERYWHERE_RAD,
        live=True,
    ),
    Kind(
        name="stream",
        example="rtsp://.., http://..",
        open=_of_module("camera", "open_stream"),
        schemes=("rtsp://", "rtsps://", "http://", "https://"),
        reach_rad=EVERYWHERE_RAD,
        live=True,
    ),
    Kind(
        name="pipeline",
        example="gst:PIPELINE",
        open=_of_module("camera", "open_pipeline"),
        prefix="gst:",
        reach_rad=EVERYWHERE_RAD,
        live=True,
    ),
    Kind(
        name="robot",
        example="ros2:/TOPIC",
        open=_of_module("ros2", "open_ros2"),
        prefix="ros2:",
        reach_rad=EVERYWHERE_RAD,
        live=True,
    ),
    Kind(
        name="folder",
        example="a folder of pictures",
        open=_of_module("pictures", "open_pictures"),
        recognises=lambda name: bool(name) and path_of(name).is_dir(),
        names_path=True,
        shows_one_place=False,
    ),
    Kind(
        name="video",
        example="a video file",
        open=_of_module("video", "open_video"),
        recognises=lambda name: path_of(name).is_file(),
        names_path=True,
    ),
]


def find_kind(spec: str) -> Kind | None:
    """The kind of the source that `spec` names; None for a name that nothing goes by."""
    return next((kind for kind in KINDS if kind.owns(spec)), None)


def kind_of(spec: str) -> Kind:
    """The kind of the source that `spec` names. Raises SourceError with what it may have meant."""
    kind = find_kind(spec)
    if kind is not None:
        return kind
    meant = meant_by(spec)
    name = redacted(spec)
    if meant:
        raise SourceError(f"unknown source {name!r}: did you mean {meant!r}?")
    if ":" in spec or not spec:
        raise SourceError(f"unknown source {name!r}: use {supported()}")
    raise SourceError(f"{name}: no such video file or folder; use {supported()}")


def supported() -> str:
    """How sources are named, for help and for whoever named none."""
    *others, last = [kind.example for kind in KINDS]
    return f"{', '.join(others)} or {last}"


def meant_by(spec: str) -> str | None:
    """The beginning that `spec`, which nothing goes by, seems to mean."""
    begins = re.match(r"[^/]*?:(//)?", spec)
    if begins is None or find_kind(spec) is not None:
        return None
    beginnings = [each for kind in KINDS for each in kind.beginnings]
    return next(iter(get_close_matches(begins[0], beginnings, 1)), None)
