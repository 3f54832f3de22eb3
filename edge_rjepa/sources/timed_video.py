"""Pictures of an MP4 file by their times, read forward with PyAV, which tells each one's time.

The one door for PyAV. FFmpeg is told that the file is an MP4 and nothing else, since some of what
it reads, such as playlists, names other files. Files of any kind: `video.py`, by OpenCV.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from edge_rjepa.errors import SourceError
from edge_rjepa.sources.decode import MOST_PIXELS
from safe_files.errors import why
from safe_files.reading import open_regular

# What PyAV raises: of FFmpeg, and of a file whose values fit nothing.
FAULTS = av.error.FFmpegError, OSError, ValueError, OverflowError, ZeroDivisionError


class TimedVideo:
    """The pictures of the MP4 file at `path` from `start_s` on, a finite time in that file.

    A picture of this file lies less than `tolerance_s` from the time it is asked for by. Raises
    SourceError where there is no such video.
    """

    def __init__(self, path: Path, start_s: float, tolerance_s: float) -> None:
        self._tolerance_s = tolerance_s
        try:
            self._file = open_regular(path)
        except OSError as error:
            raise SourceError(f"cannot read {path}: {why(error)}") from error
        try:
            self._container = av.open(
                self._file,
                mode="r",
                format="mp4",
                metadata_errors="ignore",
                options={"max_pixels": str(MOST_PIXELS)},
            )
            stream = self._container.streams.video[0]
            if stream.codec_context is None:
                raise ValueError("no decoder for it")
            stream.thread_type = "AUTO"
            self._tick_s = stream.time_base or Fraction(0)
            if start_s > 0.0 and self._tick_s:
                self._container.seek(int(start_s / self._tick_s), stream=stream)
            self._frames = _decoded(self._container, stream)
        except (*FAULTS, IndexError) as error:
            self._file.close()
            raise SourceError(
                f"{path} cannot be read as an MP4 video ({_short(error)}); use another copy of it"
            ) from error
        self._frame: av.VideoFrame | None = None  # the one that comes next ..
        self._frame_s = -math.inf  # .. and its time

    def picture_at(self, t_s: float) -> np.ndarray | None:
        """The picture (H, W, 3) uint8 BGR of this time, at least that of the call before.

        None where there is none; there is none after the first that is damaged.
        """
        try:
            while self._frame_s < t_s - self._tolerance_s:
                self._advance()
            if self._frame is None or self._frame_s > t_s + self._tolerance_s:
                return None
            return self._frame.to_ndarray(format="bgr24")
        except FAULTS:
            self._frame, self._frame_s = None, math.inf
            return None

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        self._file.close()

    def _advance(self) -> None:
        """Go on to the next picture that has a time; for ever after the last, or a damaged one."""
        for frame in self._frames:
            if frame.is_corrupt or frame.width * frame.height > MOST_PIXELS:
                break
            if frame.pts is not None:
                self._frame, self._frame_s = frame, float(frame.pts * self._tick_s)
                return
        self._frame, self._frame_s = None, math.inf


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """The pictures up to the first packet that is torn or damaged."""
    with suppress(*FAULTS):
        for packet in container.demux(stream):
            if packet.is_corrupt:
                break
            yield from packet.decode()
        else:
            return
    # Those that came whole before may still be with the decoder's threads.
    yield from stream.codec_context.decode(None)


def _short(error: Exception) -> str:
    """What FFmpeg says, without the name that it gives to a file that is open."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:100]
