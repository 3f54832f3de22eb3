"""Frames of a video file, over and over."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from edge_rjepa.errors import SourceError
from edge_rjepa.optics.camera import Lens
from edge_rjepa.sources.frame import Frame, SourceEnded
from edge_rjepa.sources.images import size_within
from edge_rjepa.sources.kinds import Options, path_of

FEWEST_FRAMES = 20
FRAMES_A_SECOND = 30.0  # for files that do not say


class VideoSource:
    """The first nine tenths of a video in a loop; the last tenth is held out.

    lens: of the camera that took it, which a file does not tell.

    Pictures wider than 640 px are scaled down to that. The head stays at (0, 0). Time runs on
    through the loops at the file's frame rate. Places in the file are found by counting frames from
    its start, which takes a moment in long files but is exact in every format.
    Raises SourceError when the file cannot be read or has fewer than 20 frames.
    """

    live = False
    head = None

    def __init__(self, path: Path, lens: Lens, once: bool = False) -> None:
        self._path, self._once = path, once
        self._capture = _opened(path)
        frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if frames < 1:  # the container has no index
            frames = _skipped(_opened(path))
        if frames < FEWEST_FRAMES:
            raise SourceError(
                f"{path}: {max(frames, 0)} frames; a video needs at least {FEWEST_FRAMES}"
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self._frames_a_second = rate if 0.0 < rate < math.inf else FRAMES_A_SECOND
        self._surely = frames * 9 // 10  # counts in files are often a few too high
        self._shown = frames if once else self._surely
        self._sequence = 0
        self._place = 0  # of the next frame in the file

        height, width = self._next_image().shape[:2]
        self.camera = lens(width, height)
        self._rewind()

    def read_next(self, timeout_ms: float) -> Frame:
        """The next frame, at once; after the last one SourceEnded, or the first one again.

        Raises SourceError for a file that breaks off.
        """
        if self._place == self._shown:
            if self._once:
                raise SourceEnded
            self._rewind()
        frame = self._framed(self._next_image(), self._sequence)
        self._sequence += 1
        return frame

    def held_out(self, count: int) -> list[Frame]:
        """The first `count` frames of the last tenth, or all of it. Raises SourceError."""
        capture = _opened(self._path)
        _skipped(capture, self._shown)
        frames: list[Frame] = []
        while len(frames) < count:
            image = _read(capture)
            if image is None:
                break
            frames.append(self._framed(image, len(frames)))
        capture.release()
        if not frames and count:
            raise SourceError(f"{self._path}: breaks off before its last tenth; repair the file")
        return frames

    @property
    def duration_s(self) -> float:
        """How long it takes to show it once, as far as the file says."""
        return self._shown / self._frames_a_second

    def drain_events(self) -> list[str]:
        """Nothing: a file that fails ends the stream."""
        return []

    def state(self) -> dict:
        """Where the stream stands, as plain JSON values."""
        return {"shown": self._shown, "sequence": self._sequence, "place": self._place}

    def restore(self, state: dict) -> None:
        """Go on from state(), bit for bit. Raises SourceError for a video of another length."""
        if state["shown"] != self._shown:
            raise SourceError(
                f"{self._path}: has {self._shown} frames to show, the saved run's video had "
                f"{state['shown']}; name the same video, or start a new run"
            )
        self._rewind()
        self._place = _skipped(self._capture, state["place"])
        self._sequence = state["sequence"]

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _framed(self, image: np.ndarray, sequence: int) -> Frame:
        return Frame(image, sequence / self._frames_a_second, (0.0, 0.0), sequence)

    def _rewind(self) -> None:
        # Opened anew: seeking back is not reliable in every format, nor after a failed read.
        self._capture.release()
        self._capture = _opened(self._path)
        self._place = 0

    def _next_image(self) -> np.ndarray:
        image = _read(self._capture)
        if image is None and self._once and self._place >= self._surely:
            raise SourceEnded
        if image is None:
            raise SourceError(
                f"{self._path}: frame {self._place} cannot be read; repair or replace the file"
            )
        self._place += 1
        return image


def open_video(path: str, options: Options) -> VideoSource:
    """The video file at `path`."""
    return VideoSource(path_of(path), options.lens, options.once)


def _opened(path: Path) -> cv2.VideoCapture:
    if not path.is_file():
        raise SourceError(f"{path}: no such video file")
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise SourceError(f"{path}: OpenCV cannot read it as a video; convert it, e.g. to .mp4")
    return capture


def _skipped(capture: cv2.VideoCapture, most: float = math.inf) -> int:
    """Skip `most` frames, or all there are; how many that was."""
    count = 0
    while count < most and capture.grab():
        count += 1
    return count


def _read(capture: cv2.VideoCapture) -> np.ndarray | None:
    """The next image (H, W, 3) uint8, at most 640 px wide, or None at the end."""
    ok, image = capture.read()
    if not ok:
        return None
    size = size_within(image.shape[1], image.shape[0])
    if size == (image.shape[1], image.shape[0]):
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
