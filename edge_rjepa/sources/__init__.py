"""Where pictures come from: one small interface (frame.py) and a module for each kind (kinds.py).

Importing this loads no kind: a kind's module is imported when a source of it is opened.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edge_rjepa.sources.config import CameraConfig
from edge_rjepa.sources.frame import Frame, FrameUse, Source, SourceEnded
from edge_rjepa.sources.kinds import Options, find_kind, kind_of, meant_by, path_of, supported
from edge_rjepa.sources.redaction import redacted

if TYPE_CHECKING:
    from edge_rjepa.optics.camera import Lens
    from edge_rjepa.sources.steered_scene import Mount

__all__ = [
    "Frame", "FrameUse", "Source", "SourceEnded", "absolute", "config_of", "find_kind",
    "is_live", "open_source", "reach_rad", "redacted", "supported",
]  # fmt: skip


def open_source(
    spec: str | os.PathLike[str],
    seed: int = 0,
    camera: CameraConfig | None = None,
    mount: Mount | None = None,
    lens: Lens | None = None,
    once: bool = False,
) -> Source:
    """The source that `spec` names.

    spec: `scene:` (scikit-image's photographs) or `scene:DIR` before a simulated head; a folder of
    pictures; a video file; `bag:FILE#/topic`, of ROS 2; `lerobot:DIR#camera`, a dataset; a live
    camera (`0`, `/dev/video0`, `/dev/v4l/by-id/..`, `rtsp://..`, `http://..`, `gst:PIPELINE`,
    `ros2:/TOPIC`); `replay:DIR` or `replay:FILE.mcap`, what a run recorded. A path is as its text.
    seed: of the order of pictures, of a scene's, and of what is held out; else there is no chance.
    camera: what a live camera is asked for, and the field of view of all that does not tell its
    own; None for the usual one.
    mount: a real head that turns the camera of a scene; None for the simulated one.
    lens: in place of that field of view, from a calibration.
    once: whether a video ends with its last frame, of which none is then held out.
    Raises SourceError when the source is unknown or cannot be read.
    """
    from edge_rjepa.optics.camera import pinhole

    spec = os.fspath(spec)
    kind = kind_of(spec)
    camera = camera or CameraConfig()
    measured = lens is not None
    lens = lens or pinhole(camera.field_of_view_rad)
    options = Options(seed, camera, lens, mount, once, measured)
    return kind.open(spec.removeprefix(kind.prefix), options)


def absolute(spec: str) -> str:
    """The same source, named so that it is found from any folder."""
    kind = find_kind(spec)
    prefix = kind.prefix if kind else ""
    path = spec.removeprefix(prefix)
    is_path = kind.names_path if kind else not meant_by(spec)
    return f"{prefix}{path_of(path).resolve()}" if path and is_path else spec


def is_live(spec: str) -> bool:
    """Whether opening it connects to a machine or runs a pipeline: not what a file may ask for."""
    kind = find_kind(spec)
    return kind is not None and kind.live


def reach_rad(spec: str) -> tuple[float, float]:
    """How far to each side a head may turn (pan, tilt) until there is no more to see."""
    kind = find_kind(spec)
    return kind.reach_rad if kind else (0.0, 0.0)


def config_of(spec: str) -> dict | None:
    """The configuration of a run that the source brings along, or None.

    Raises SourceError when it cannot be read.
    """
    kind = find_kind(spec)
    if kind is None or kind.config_of is None:
        return None
    return kind.config_of(spec.removeprefix(kind.prefix))
