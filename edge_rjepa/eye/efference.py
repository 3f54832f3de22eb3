"""The efference copy: what the learner is told of a movement of gaze, beside what is seen after."""

from __future__ import annotations

import math

import numpy as np


def efference_copy(
    gaze_rad: np.ndarray, before_rad, saccade_scale_rad: float, gaze_scale_rad: float
) -> np.ndarray:
    """The efference copies (K, 4) float32 of fixations at gaze_rad (K, 2), azimuth and elevation.

    before_rad: where gaze was before the first, (2,). A copy holds the saccade, the short way
    round, in units of saccade_scale_rad, then where gaze is in units of gaze_scale_rad.
    """
    saccades_rad = np.diff(gaze_rad, axis=0, prepend=[before_rad])
    saccades_rad = np.remainder(saccades_rad + math.pi, 2.0 * math.pi) - math.pi
    scaled = np.hstack([saccades_rad / saccade_scale_rad, gaze_rad / gaze_scale_rad])
    return scaled.astype(np.float32)
