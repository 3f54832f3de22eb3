"""How fast the loop goes: fixations a frame there is time for, and how old what is learned is."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from edge_rjepa.sources import Frame

BUSY_AT_MOST = 0.8  # share of the time between two frames that looking and learning may take
MEMORY_FRAMES = 20  # time constant of the measures
LATENCIES = 2048  # frames that the median and the 95th percentile are taken over


class _Taken(NamedTuple):
    """What is kept of a frame: a picture would be held for nothing."""

    sequence: int
    t_capture_s: float


class Pace:
    """Gives up fixations, not freshness, when learning cannot keep up with a live camera."""

    def __init__(self, most: int, frames_per_s: float):
        self.most = most
        self.fixations = most  # to plan on the next frame
        self._busy_s: float | None = None
        self._interval_s = 1.0 / frames_per_s  # as asked for, until the camera shows its own
        self._last: _Taken | None = None

    def learned(self, frame: Frame, busy_s: float) -> None:
        """A frame took busy_s to look at and learn from: fit the fixations of the next to that."""
        last, self._last = self._last, _Taken(frame.sequence, frame.t_capture_s)
        if last is None or frame.sequence <= last.sequence:
            return
        # Frames that were skipped count: the camera's own interval is what matters.
        interval_s = (frame.t_capture_s - last.t_capture_s) / (frame.sequence - last.sequence)
        if interval_s <= 0.0:  # a driver's clock that was set
            return
        # An outage is no slower camera, and a burst no faster one.
        interval_s = min(max(interval_s, self._interval_s / 3.0), 3.0 * self._interval_s)
        self._interval_s += (interval_s - self._interval_s) / MEMORY_FRAMES
        if self._busy_s is None:
            self._busy_s = busy_s
        self._busy_s += (busy_s - self._busy_s) / MEMORY_FRAMES

        load = self._busy_s / (BUSY_AT_MOST * self._interval_s)
        if load > 1.0 and self.fixations > 1:
            fewer = max(1, math.floor(self.fixations / load))
            self._busy_s *= fewer / self.fixations  # what it will be: no second cut for one cause
            self.fixations = fewer
        elif self.fixations < self.most and load * (self.fixations + 1) / self.fixations < 0.9:
            self._busy_s *= (self.fixations + 1) / self.fixations
            self.fixations += 1

    @property
    def frames_per_s(self) -> float:
        """What the camera delivers."""
        return 1.0 / self._interval_s


class Latency:
    """Times from capture to weight update, of the last LATENCIES frames."""

    def __init__(self) -> None:
        self._ms = np.full(LATENCIES, np.nan)
        self._count = 0

    def add(self, seconds: float) -> None:
        """One frame's."""
        self._ms[self._count % LATENCIES] = 1e3 * seconds
        self._count += 1

    def percentile_ms(self, percent: float) -> float | None:
        """Of all kept, or None before the first."""
        return float(np.nanpercentile(self._ms, percent)) if self._count else None
