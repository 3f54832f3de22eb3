"""Frames with the angles the head had when they were taken, and whether they can be used.

Frames taken while the head moves are unusable (saccadic suppression, as eyes have it), or usable
with the angle the head had at that moment: `head.while_moving` of the configuration.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from edge_rjepa.eye.config import HeadConfig
from edge_rjepa.eye.head import Head, Limits
from edge_rjepa.sources import Frame, Source

HEAD_MOVING, HEAD_UNKNOWN = "head moving", "unknown head angle"

BLACK = 16  # the grey level that video calls black
EVERY_PX = 8  # pixels between those that are asked whether a picture is black


class PlacedFrame(NamedTuple):
    """A frame whose `head_rad` is where the head was at capture."""

    frame: Frame
    why_unusable: str | None  # in a word or two


class PlacedFrames:
    """The frames of a source whose camera sits on `head`; None for the source's own, if it has one.

    `drain_events` reports what happened to the source, to the head, and when pictures become
    usable.
    """

    def __init__(self, source: Source, head: Head | None, config: HeadConfig) -> None:
        self.source = source
        self.head = head or source.head
        self._config = config
        self._blind: str | None = None  # why pictures are of no use just now
        self._events: list[str] = []

    def read_next(self, timeout_ms: float) -> PlacedFrame | None:
        """The next frame; None if none came in time. Raises what `Source.read_next` raises."""
        frame = self.source.read_next(timeout_ms)
        return None if frame is None else self._place(frame)

    def drain_events(self) -> list[str]:
        """What went wrong or right since the last call, in words, oldest first."""
        events, self._events = self._events, []
        events += self.source.drain_events()
        return events + (self.head.drain_events() if self.head else [])

    def _place(self, frame: Frame) -> PlacedFrame:
        if self.head is not None:
            pan_rad, tilt_rad, moving = self.head.at(frame.t_capture_s - self._config.image_delay_s)
            frame = frame._replace(head_rad=(pan_rad, tilt_rad))
            if moving and self._config.while_moving == "skip":
                return PlacedFrame(frame, HEAD_MOVING)
        return PlacedFrame(frame, self._why_unusable(frame))

    def _why_unusable(self, frame: Frame) -> str | None:
        """Why there is nothing to see, or not from where; that this changed is an event."""
        reason = HEAD_UNKNOWN if not _is_placed(frame) else _why_blind(frame.image)
        if reason != self._blind:
            self._events.append(
                f"pictures are of no use ({reason}): skipped until that is over"
                if reason
                else f"pictures can be used again (it was: {self._blind})"
            )
            self._blind = reason
        return reason


def allowed_rad(head: Head, config: HeadConfig) -> Limits:
    """(lowest, highest) pan and tilt that both the head and the configuration allow."""
    pan_rad, tilt_rad = head.limits_rad
    return _inside(pan_rad, config.pan_limit_rad), _inside(tilt_rad, config.tilt_limit_rad)


def _inside(limits_rad: tuple[float, float], most_rad: float) -> tuple[float, float]:
    low_rad, high_rad = limits_rad
    return max(low_rad, -most_rad), min(high_rad, most_rad)


def _is_placed(frame: Frame) -> bool:
    return bool(np.isfinite(frame.head_rad).all()) and math.isfinite(frame.t_capture_s)


def _why_blind(image: np.ndarray) -> str | None:
    some = image[::EVERY_PX, ::EVERY_PX]
    if some.max() <= BLACK:
        return "black"
    return "blank" if (some == some[0, 0]).all() else None
