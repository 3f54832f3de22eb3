"""The stops of a head that looks around."""

from __future__ import annotations

import math

import numpy as np

from edge_rjepa.optics.camera import Camera


class Patrol:
    """Where a head looks: stop by stop, there and back, half a view apart, for stay_s at each.

    limits_rad: (lowest, highest) of pan, and of tilt.
    """

    def __init__(
        self,
        limits_rad: tuple[tuple[float, float], tuple[float, float]],
        camera: Camera,
        stay_s: float,
    ) -> None:
        views_rad = camera.width_px / camera.focal_px, camera.height_px / camera.focal_px
        pans, tilts = (
            np.linspace(low, high, 1 + math.ceil((high - low) / (0.5 * view_rad) - 1e-9))
            if high > low
            else np.array([low])
            for (low, high), view_rad in zip(limits_rad, views_rad, strict=True)
        )
        rows = [[(float(pan), float(tilt)) for pan in pans] for tilt in tilts]
        there = [stop for k, row in enumerate(rows) for stop in (row[::-1] if k % 2 else row)]
        self.stops = there + there[-2:0:-1]
        self._stay_s = stay_s
        self._next, self._since_s = 0, -math.inf

    def due(self, t_s: float) -> tuple[float, float] | None:
        """Where to turn now (pan_rad, tilt_rad), or None to stay.

        Ask at each frame that the head stood still for.
        """
        if t_s - self._since_s < self._stay_s:
            return None
        self._since_s = t_s
        stop = self.stops[self._next % len(self.stops)]
        self._next += 1
        return stop
