"""Frames of a video file, over and over."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from edge_rjepa.errors import SourceError
from edge_rjepa.optics.camera import Lens
from edge_rjepa.sources.decode import (
    next_picture,
    open_video_file,
    reaches,
    said_of,
    skip_pictures,
)
from edge_rjepa.sources.frame import Frame, SourceEnded, count_in
from edge_rjepa.sources.images import as_bgr, crop_resize, size_within
from edge_rjepa.sources.kinds import Options, path_of

FEWEST_FRAMES = 20
FRAMES_A_SECOND = 30.0  # for files that do not say
HIGHEST_RATE = 1000.0  # frames a second: a file that says more does not know


class VideoSource:
    """The first nine tenths of a video in a loop; the last tenth is held out.

    lens: of the camera that took it, which a file does not tell.

    Pictures wider than 640 px are scaled down to that. The head stays at (0, 0). Time runs on
    through the loops at the file's frame rate. Places in the file are found by counting frames from
    its start, which takes a moment in long files but is exact in every format.

    A file that is cut short or says a wrong number of frames is as long as what can be read of it;
    drain_events() tells it. Raises SourceError when the file cannot be read or has fewer than 20
    frames.
    """

    live = False
    head = None

    def __init__(self, path: Path, lens: Lens, once: bool = False) -> None:
        self._path, self._once = path, once
        self._capture = open_video_file(path)
        self._said, rate = said_of(self._capture)
        self._events: list[str] = []
        self._frames = self._shown = 0  # of the file, and those before what is held out
        self._set_length(_length(path, self._said))
        self._frames_a_second = rate if 0.0 < rate <= HIGHEST_RATE else FRAMES_A_SECOND
        self._sequence = 0
        self._place = 0  # of the next frame in the file

        first = as_bgr(next_picture(self._capture))
        if first is None:
            raise SourceError(f"{path}: no frame can be read; repair or replace the file")
        self.camera = lens(*size_within(first.shape[1], first.shape[0]))
        self._rewind()

    def read_next(self, timeout_ms: float) -> Frame:
        """The next frame, at once; after the last one SourceEnded, or the first one again."""
        if self._place == self._shown:
            self._begin_again()
        image = self._next_image(self._capture)
        if image is None:  # it ends earlier than its end told
            self._end_here()
            self._begin_again()
            image = self._next_image(self._capture)
        if image is None:
            raise SourceError(f"{self._path}: can no longer be read; put the file back")
        self._place += 1
        frame = self._framed(image, self._sequence)
        self._sequence += 1
        return frame

    def held_out(self, count: int) -> list[Frame]:
        """The first `count` frames of the last tenth, or all of it. Raises SourceError."""
        capture = open_video_file(self._path)
        skip_pictures(capture, self._shown)
        frames: list[Frame] = []
        while len(frames) < min(count, self._frames - self._shown):
            image = self._next_image(capture)
            if image is None:
                break
            frames.append(self._framed(image, len(frames)))
        capture.release()
        return frames

    @property
    def duration_s(self) -> float:
        """How long it takes to show it once, as far as the file says."""
        return self._shown / self._frames_a_second

    def drain_events(self) -> list[str]:
        """That the file has fewer frames than it says, once."""
        events, self._events = self._events, []
        return events

    def state(self) -> dict:
        """Where the stream stands, as plain JSON values."""
        return {
            "said": self._said,
            "frames": self._frames,
            "shown": self._shown,
            "sequence": self._sequence,
            "place": self._place,
        }

    def restore(self, state: dict) -> None:
        """Go on from state(), bit for bit. Raises SourceError for a video of another length."""
        frames = count_in(state, "frames")
        if state["said"] != self._said or frames > self._frames:
            raise SourceError(
                f"{self._path}: has {self._frames} frames, the saved run's video had "
                f"{frames}; name the same video, or start a new run"
            )
        self._events.clear()  # it was told before
        self._frames, self._shown = frames, min(frames, count_in(state, "shown"))
        self._rewind()
        self._place = skip_pictures(self._capture, count_in(state, "place"))
        self._sequence = count_in(state, "sequence")

    def close(self) -> None:
        """Close the file."""
        self._capture.release()

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.close()

    def _set_length(self, frames: int) -> None:
        """The file has so many frames that can be read."""
        if frames < FEWEST_FRAMES:
            raise SourceError(
                f"{self._path}: {frames} frames can be read; a video needs at least "
                f"{FEWEST_FRAMES}: take a longer one, or a whole copy of it"
            )
        if frames < self._said:
            self._events.append(
                f"{self._path}: {frames} frames can be read of the {self._said} it says it has; "
                "these are the video"
            )
        self._divide(frames)

    def _end_here(self) -> None:
        """All that can be read was shown: nothing is left to be held out."""
        self._set_length(self._place)
        self._shown = self._place

    def _divide(self, frames: int) -> None:
        self._frames = frames
        self._shown = frames if self._once else frames * 9 // 10

    def _framed(self, image: np.ndarray, sequence: int) -> Frame:
        return Frame(image, sequence / self._frames_a_second, (0.0, 0.0), sequence)

    def _begin_again(self) -> None:
        if self._once:
            raise SourceEnded
        self._rewind()

    def _rewind(self) -> None:
        # Opened anew: seeking back is not reliable in every format, nor after a failed read.
        self._capture.release()
        self._capture = open_video_file(self._path)
        self._place = 0

    def _next_image(self, capture: cv2.VideoCapture) -> np.ndarray | None:
        """The next image as `camera` says, or None at the end."""
        image = as_bgr(next_picture(capture))
        if image is None:
            return None
        return crop_resize(image, (self.camera.width_px, self.camera.height_px))


def open_video(path: str, options: Options) -> VideoSource:
    """The video file at `path`."""
    return VideoSource(path_of(path), options.lens, options.once)


def _length(path: Path, said: int) -> int:
    """How many frames can be read: as many as it says, unless its end shows otherwise."""
    if reaches(path, said):  # else only reading tells, which takes a while in a long file
        return said
    capture = open_video_file(path)
    count = skip_pictures(capture, math.inf)
    capture.release()
    return count
