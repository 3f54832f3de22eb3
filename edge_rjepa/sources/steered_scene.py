"""Photographs as a camera on a real head would see them, in real time.

For who has a head and no camera yet, and for tests: the emulated firmware turns it by its pulses.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Protocol

from edge_rjepa.eye.head import within
from edge_rjepa.sources.decode import pictures_in
from edge_rjepa.sources.frame import Frame
from edge_rjepa.sources.kinds import Options, path_of
from edge_rjepa.sources.scene import (
    FRAMES_A_SECOND,
    LIMITS_RAD,
    SceneSource,
    skimage_photographs,
)
from firmware_bridge.track import Pose

FRAMES_A_SCENE = 150  # a real head needs a while to look around


class Mount(Protocol):
    """What turns the camera."""

    def at(self, t_s: float) -> Pose:
        """Where it was at t_s on time.monotonic(), not in the future."""


class SteeredScene(SceneSource):
    """As SceneSource, but live: FRAMES_A_SECOND by the clock, seen from where `mount` points.

    A view that nobody came for in time is not rendered and leaves a gap in the sequence. Who made
    the mount hands it to the loop as the head; this source brings none. A mount that does not know
    where it points, as with torque off, has not moved; one that turns beyond the scene sees the
    edge of it.
    """

    live = True

    def __init__(
        self,
        photographs: list[Path],
        mount: Mount,
        seed: int = 0,
        frames_a_scene: int = FRAMES_A_SCENE,
    ) -> None:
        super().__init__(photographs, seed, frames_a_scene)
        self.head = None
        self._mount = mount
        self._angles_rad = 0.0, 0.0  # where it was last known to point
        self._start_s = time.monotonic()
        self._sequence = -1

    def read_next(self, timeout_ms: float = 0.0) -> Frame | None:
        """The view that is due next, or was due last; None when none is due in time."""
        due = int((time.monotonic() - self._start_s) * FRAMES_A_SECOND)
        number = max(self._sequence + 1, due)
        wait_s = self._start_s + number / FRAMES_A_SECOND - time.monotonic()
        if wait_s > 1e-3 * timeout_ms:
            time.sleep(1e-3 * timeout_ms)
            return None
        time.sleep(max(0.0, wait_s))
        t_s = time.monotonic()
        pan_rad, tilt_rad, _ = self._mount.at(t_s)
        if math.isfinite(pan_rad) and math.isfinite(tilt_rad):
            self._angles_rad = within(LIMITS_RAD, (pan_rad, tilt_rad))
        view = self._stream.view(self._stream.next_scene(), self._angles_rad)
        self._sequence = number
        return view._replace(t_capture_s=t_s, sequence=number)


def open_scene(folder: str, options: Options) -> SceneSource:
    """A scene of the folder's pictures, or of scikit-image's; live if there is a mount."""
    photographs = pictures_in(path_of(folder)) if folder else skimage_photographs()
    if options.mount:
        return SteeredScene(photographs, options.mount, options.seed)
    return SceneSource(photographs, options.seed)
