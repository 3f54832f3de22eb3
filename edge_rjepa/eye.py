"""The eye: where it looks in a frame, and what it sees there."""

from __future__ import annotations

import numpy as np

from edge_rjepa.config import RunConfig
from edge_rjepa.gaze import Gaze, GazePlan
from edge_rjepa.optics import Camera, Pinhole
from edge_rjepa.retina import Retina
from edge_rjepa.sources import Frame


class Eye:
    """Gaze, then retina."""

    def __init__(self, gaze: Gaze, retina: Retina):
        self.gaze = gaze
        self.retina = retina

    @classmethod
    def of(cls, config: RunConfig) -> Eye:
        """The eye a run learns with."""
        return cls(Gaze(config.gaze, config.seed), Retina(config.retina))

    def look(self, camera: Camera, frame: Frame, fixations: int) -> tuple[GazePlan, np.ndarray]:
        """The next fixations of a frame: their plan, and the features (K, f) float32 seen."""
        plan = self.gaze.plan(camera, frame.image, frame.head, fixations)
        return plan, self.retina(frame.image, plan.pixels)

    def warm_up(self) -> None:
        """Compile what looking needs, now rather than at the first frame; nothing changes."""
        side = self.retina.config.window_px
        camera = Pinhole(side, side, 1.0)
        blank = np.zeros((side, side, 3), np.uint8)
        Gaze(self.gaze.config).plan(camera, blank, (0.0, 0.0), 1)
        self.retina(blank, np.zeros((1, 2)))
