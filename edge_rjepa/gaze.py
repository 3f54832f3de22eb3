"""Where to look next: random saccades with inhibition of return.

Pure: the plan depends on the configuration, the seed, the camera, the head and what was looked at
before, and on nothing in the picture.

Saccades have log-normal amplitudes, short ones most, and any direction. A candidate that leaves the
picture (less a margin) is drawn again. So is, with some probability, one that lands near a place
looked at lately:

    P(refused) = strength * max_i decay^age_i * max(0, 1 - (distance_i / radius)^2)

where age_i = 0 for the place gaze is at, 1 for the one before, and so on. It stays below 1, so a
revisit is made unlikely for a while and never ruled out. Places are remembered as angles in the
head's base frame and so survive a movement of the head; amplitudes and distances are measured in
the picture, by the pixels a radian has in its middle.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np

from edge_rjepa.config import GazeConfig
from edge_rjepa.errors import InputError
from edge_rjepa.jit import jit
from edge_rjepa.optics import Pinhole

TRIES = 16  # candidates before a saccade goes just anywhere in the picture


class GazePlan(NamedTuple):
    """K fixations of one frame."""

    gaze_rad: np.ndarray  # (K, 2) azimuth, elevation in the base frame
    pixels: np.ndarray  # (K, 2) x, y in the frame, not rounded
    efference: np.ndarray  # (K, 4) float32: saccade and gaze, see RandomSaccades.plan


class RandomSaccades:
    """Plans fixations one frame at a time; the same seed and calls give the same plans."""

    def __init__(self, config: GazeConfig | None = None, seed: int = 0) -> None:
        self.config = config or GazeConfig()
        self._rng = np.random.default_rng(seed)
        # Gaze angles, the latest last.
        self._visited: deque[list[float]] = deque(maxlen=self.config.inhibition_memory)

    def plan(self, camera: Pinhole, head, count: int) -> GazePlan:
        """The next `count` fixations, in a frame taken with the head at (pan_rad, tilt_rad).

        Efference copy of a fixation: (d_azimuth, d_elevation) / saccade_scale_rad of the saccade
        from the fixation before, and (azimuth, elevation) / gaze_scale_rad of where gaze is, all in
        the base frame: a saccade includes what the head has moved. The very first comes from the
        middle of the picture. Raises InputError for a count below 1 or a head that is not finite.
        """
        if count < 1:
            raise InputError(f"{count} fixations asked for: must be at least 1")
        if not np.isfinite(head).all():
            raise InputError(f"head angles are {tuple(head)}: must be finite")
        before_rad = self._visited[-1] if self._visited else list(head)
        pixels = self._fixations(camera, head, count)
        gaze_rad = camera.angles_of_pixels(pixels, head)
        self._visited.extend(gaze_rad.tolist())

        saccades_rad = np.diff(gaze_rad, axis=0, prepend=[before_rad])
        saccades_rad = np.remainder(saccades_rad + math.pi, 2.0 * math.pi) - math.pi
        efference = np.hstack(
            [saccades_rad / self.config.saccade_scale_rad, gaze_rad / self.config.gaze_scale_rad]
        )
        return GazePlan(gaze_rad, pixels, efference.astype(np.float32))

    def state(self) -> dict:
        """The places remembered and the random generator, as plain JSON values."""
        return {"visited": list(self._visited), "rng": self._rng.bit_generator.state}

    def restore(self, state: dict) -> None:
        """Go on from state(), bit for bit."""
        self._visited.clear()
        self._visited.extend([float(a), float(e)] for a, e in state["visited"])
        self._rng.bit_generator.state = state["rng"]

    def _fixations(self, camera: Pinhole, head, count: int) -> np.ndarray:
        """`count` pixels (x, y), each a saccade from the one before."""
        config, rng = self.config, self._rng
        size = np.array([camera.width_px, camera.height_px]) - 1.0
        low = np.minimum(config.margin_px, 0.5 * size)
        high = size - low

        # As many numbers for each plan, so that the draws do not depend on what is refused.
        lengths = rng.standard_normal((count, TRIES))
        turns, chances = rng.random((2, count, TRIES))
        anywhere = rng.uniform(low, high, (count, 2))

        places = np.empty((len(self._visited) + count, 2))
        start = np.array(camera.centre_px)
        if self._visited:
            places[:-count] = camera.pixels_of_angles(self._visited, head)
            start = np.where(np.isfinite(places[-count - 1]), places[-count - 1], start)
        _walk(
            np.clip(start, low, high),
            (low[0], low[1], high[0], high[1]),
            (lengths, turns, chances, anywhere),
            (math.log(config.saccade_median_rad * camera.focal_px), config.saccade_log_std),
            (
                config.inhibition_memory,
                config.inhibition_strength,
                config.inhibition_decay,
                config.inhibition_radius_rad * camera.focal_px,
            ),
            places,
        )
        return places[-count:]


@jit
def _refusal(x, y, recent, inhibition):
    """Probability that a saccade to pixel (x, y) is refused, after the places in recent (n, 2)."""
    memory, strength, decay, radius_px = inhibition
    most = 0.0
    for i in range(len(recent) - 1, max(len(recent) - 1 - memory, -1), -1):
        squared = ((x - recent[i, 0]) ** 2 + (y - recent[i, 1]) ** 2) / radius_px**2
        if squared < 1.0:  # never true of a place behind the camera, which is NaN
            most = max(most, strength * (1.0 - squared))
        strength *= decay
    return most


@jit
def _walk(start, bounds, draws, amplitude, inhibition, places):
    """Fill the last K rows of places (n, 2), whose first ones hold the places before.

    bounds: left, top, right, bottom px. draws, for the candidates (K, TRIES): normal lengths,
    turns and chances in 0 to 1; and where to go (K, 2) px when all candidates are refused.
    amplitude: mean and standard deviation of its logarithm, px.
    """
    left, top, right, bottom = bounds
    lengths, turns, chances, anywhere = draws
    log_mean, log_std = amplitude
    count, tries = chances.shape
    before = len(places) - count
    x, y = start
    for k in range(count):
        next_x, next_y = anywhere[k]
        recent = places[: before + k]
        for i in range(tries):
            amplitude_px = math.exp(log_mean + log_std * lengths[k, i])
            direction_rad = 2.0 * math.pi * turns[k, i]
            to_x = x + amplitude_px * math.cos(direction_rad)
            to_y = y + amplitude_px * math.sin(direction_rad)
            if left <= to_x <= right and top <= to_y <= bottom:
                if chances[k, i] >= _refusal(to_x, to_y, recent, inhibition):
                    next_x, next_y = to_x, to_y
                    break
        x, y = next_x, next_y
        places[before + k, 0], places[before + k, 1] = x, y
