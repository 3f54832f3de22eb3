"""Where pictures come from: one small interface (frame.py) and a module for each kind."""

from __future__ import annotations

import re
from pathlib import Path

from edge_rjepa.errors import SourceError
from edge_rjepa.sources.frame import Frame, Source
from edge_rjepa.sources.scene import SceneSource, pictures_in, skimage_photographs
from edge_rjepa.sources.video import FIELD_OF_VIEW_RAD, VideoSource

__all__ = ["Frame", "SceneSource", "Source", "VideoSource", "absolute", "open_source"]

SUPPORTED = "scene: (scikit-image's photographs), scene:DIR (a folder of pictures) or a video file"
# Camera index, device, stream, pipeline or recording.
NOT_YET = re.compile(r"\d+$|/dev/|(rtsp|http|https)://|(gst|replay):")


def absolute(spec: str) -> str:
    """The same source, named so that it is found from any folder."""
    if spec == "scene:" or NOT_YET.match(spec) or not spec:
        return spec
    kind, path = ("scene:", spec[6:]) if spec.startswith("scene:") else ("", spec)
    return f"{kind}{Path(path).expanduser().resolve()}"


def open_source(spec: str, seed: int = 0, field_of_view_rad: float = FIELD_OF_VIEW_RAD) -> Source:
    """The source that `spec` names: `scene:`, `scene:DIR`, or the path of a video file.

    seed: of a scene's order, head movements and held-out pictures; a video has no chance in it.
    field_of_view_rad: horizontal, of the camera that took the video; a scene knows its own.
    Raises SourceError when the source is unknown or cannot be read.
    """
    if spec == "scene:":
        return SceneSource(skimage_photographs(), seed)
    if spec.startswith("scene:"):
        return SceneSource(pictures_in(Path(spec.removeprefix("scene:")).expanduser()), seed)
    if not spec or NOT_YET.match(spec):
        raise SourceError(
            f"source {spec!r} is not supported: live cameras are not there yet; use {SUPPORTED}"
        )
    if Path(spec).expanduser().is_dir():
        raise SourceError(f"{spec} is a folder; for the pictures in it use scene:{spec}")
    return VideoSource(Path(spec).expanduser(), field_of_view_rad)
