"""The eye: where it looks in a frame, and what it sees there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edge_rjepa.eye.config import GazePolicy
from edge_rjepa.eye.gaze import Gaze, GazePlan
from edge_rjepa.eye.retina import Retina
from edge_rjepa.optics.camera import Camera, Pinhole


class Eye:
    """Gaze, then retina."""

    def __init__(self, gaze: Gaze, retina: Retina):
        self.gaze = gaze
        self.retina = retina

    def look(
        self, camera: Camera, image: np.ndarray, head_rad: tuple[float, float], fixations: int
    ) -> tuple[GazePlan, np.ndarray]:
        """The next fixations of a picture (H, W, 3) uint8 BGR, taken with the head at head_rad.

        Returns their plan, and the features (K, f) float32 seen. Raises InputError as Gaze.plan.
        """
        plan = self.gaze.plan(camera, image, head_rad, fixations)
        return plan, self.retina(image, plan.pixels)

    def warm_up(self) -> None:
        """Compile, or load from the cache, all that looking can need; nothing changes.

        Also for random gaze: that is how what is held out is looked at, and what is done where the
        map has no cell in view.
        """
        side = self.retina.config.window_px
        camera = Pinhole(side, side, 1.0)
        blank = np.zeros((side, side, 3), np.uint8)
        for policy in {self.gaze.config.policy, GazePolicy.RANDOM}:
            gaze = Gaze(replace(self.gaze.config, policy=policy))
            plan = gaze.plan(camera, blank, (0.0, 0.0), 1)
            gaze.learned(np.zeros(1))
            self.retina(blank, plan.pixels)
