"""How a still picture is seen: a fixed scan, the same for every picture of that shape.

The picture is enlarged or reduced until its longer side has some PICTURE_PX. Gaze goes over it line
by line, back and forth, about as far a step as in learning, and stops near the middle of each field
of a grid, a little beside it by the seed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from edge_rjepa.errors import InputError
from edge_rjepa.eye.config import GazeConfig
from edge_rjepa.eye.efference import efference_copy
from edge_rjepa.eye.image import check_image
from edge_rjepa.optics.camera import Pinhole

FIXATIONS = 12
PICTURE_PX = 192
FOCAL_PX = 277.0  # of the simulated camera: 320 px for 60 degrees
JITTER = 0.25  # of a field's size, at most


class Scan(NamedTuple):
    """A picture and K fixations of it."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    pixels: np.ndarray  # (K, 2) x, y
    efference: np.ndarray  # (K, 4) float32


def scan(
    picture: np.ndarray,
    fixations: int = FIXATIONS,
    seed: int = 0,
    scales_rad: tuple[float, float] | None = None,
    longer_px: int = PICTURE_PX,
) -> Scan:
    """The scan of a picture (H, W, 3) uint8 BGR.

    scales_rad: of saccade and gaze in the efference copy; None for GazeConfig's. longer_px: the
    picture's longer side as it is scanned. The first saccade comes from the middle of the picture.
    Raises InputError for any other picture, or no fixation.
    """
    picture = np.asarray(picture)
    check_image(picture, "picture")
    if fixations < 1:
        raise InputError(f"{fixations} fixations asked for: must be at least 1")
    width, height = scanned_size(picture.shape[1], picture.shape[0], longer_px)
    image = resized(picture, width, height)
    pixels = _places(fixations, seed) * (width - 1, height - 1)
    camera = Pinhole(width, height, 2.0 * math.atan(0.5 * width / FOCAL_PX))
    gaze_rad = camera.angles_of_pixels(pixels)
    usual = GazeConfig()
    scales_rad = scales_rad or (usual.saccade_scale_rad, usual.gaze_scale_rad)
    return Scan(image, pixels, efference_copy(gaze_rad, (0.0, 0.0), *scales_rad))


def _places(count: int, seed: int) -> np.ndarray:
    """Places (count, 2) in the unit square: x, y."""
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    rows, columns = np.divmod(np.arange(count), across)
    columns = np.where(rows % 2, across - 1 - columns, columns)
    middles = np.stack([columns, rows], axis=1) + 0.5
    middles += np.random.default_rng(seed).uniform(-JITTER, JITTER, middles.shape)
    return middles / (across, down)


def scanned_size(width_px: int, height_px: int, longer_px: int = PICTURE_PX) -> tuple[int, int]:
    """Width and height that a picture of this width and height is scanned at."""
    scale = longer_px / max(height_px, width_px)
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def resized(picture: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """The picture (H, W, 3) enlarged or reduced to this size."""
    height, width = picture.shape[:2]
    if (height, width) == (height_px, width_px):
        return picture
    smaller = width_px * height_px < width * height
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(picture, (width_px, height_px), interpolation=how)
