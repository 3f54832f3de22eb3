"""Directions all around, which of them are in a picture, and the windows about them.

A direction is an index into one lattice of angles, the same wherever the head looks.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from scipy.spatial import cKDTree

from calibration.angles import rays_of_angles
from edge_rjepa.optics.camera import Camera
from edge_rjepa.sources import Frame
from edge_rjepa.watch.masks import Polygons, covered, drawn

WIDTH_PX = 320  # that pictures are reduced to: windows of 64 px then span a fifth of any camera's
STEP_SHARE = 1 / 16  # of the picture's width, between neighbouring directions
MARGIN_SHARE = 0.03  # of the picture's width, along its border, where nothing is looked at
NEIGHBOURS = 9  # of a direction, itself among them


class Directions:
    """A lattice of directions, seen by a camera in windows of window_px.

    angles_rad: (n, 2) azimuth and elevation in the base frame. step_rad: between neighbours.
    """

    def __init__(self, camera: Camera, window_px: int) -> None:
        self._camera, self._window_px = camera, window_px
        self._scale = min(1.0, WIDTH_PX / camera.width_px)
        self.step_rad = STEP_SHARE * camera.width_px / camera.focal_px
        self.angles_rad = lattice(self.step_rad)
        self._corners = _corners(self.angles_rad, 0.5 * window_px / (self._scale * camera.focal_px))
        side = float(window_px)
        self._square = np.array([[0, 0], [side, 0], [side, side], [0, side]], np.float32)
        self._mask: np.ndarray | None = None
        self._head: tuple[float, float] | None = None  # of the view that is kept
        self._in_view = np.empty(0, np.intp)

    def neighbours(self) -> np.ndarray:
        """(n, NEIGHBOURS) the nearest directions of each, itself first.

        Not found at once: it takes seconds for a lens so narrow that it is refused.
        """
        rays = rays_of_angles(self.angles_rad)
        return np.asarray(cKDTree(rays).query(rays, NEIGHBOURS)[1])

    def in_view(self, head: tuple[float, float]) -> np.ndarray:
        """The directions (K,) that are in a picture taken at head angles (pan_rad, tilt_rad)."""
        if self._head != head:
            camera = self._camera
            margin = MARGIN_SHARE * camera.width_px
            highest = np.array([camera.width_px, camera.height_px]) - 1.0 - margin
            pixels = camera.pixels_of_angles(self.angles_rad, head)
            inside = np.flatnonzero(((pixels >= margin) & (pixels <= highest)).all(axis=1))
            corners = self._pixels_of_corners(inside, head)
            seen = np.isfinite(corners).all(axis=(1, 2))
            inside, corners = inside[seen], corners[seen]
            if self._mask is not None:
                size = camera.width_px, camera.height_px
                inside = inside[~covered(self._mask, (corners + 0.5) / size)]
            self._head, self._in_view = head, inside
        return self._in_view

    def mask(self, polygons: Polygons) -> None:
        """Leave out directions whose windows show what lies in polygons of the picture."""
        self._mask, self._head = drawn(polygons) if polygons else None, None

    def windows(self, frame: Frame, directions: np.ndarray) -> np.ndarray:
        """The windows (K, window_px, window_px, 3) uint8 about directions (K,).

        Each as a camera would see it that looks straight there: exact for a pinhole, since four
        corners fix all of a plane's perspective.
        """
        size = self._window_px, self._window_px
        windows = np.empty((len(directions), *size, 3), np.uint8)
        corners = self._pixels_of_corners(directions, frame.head_rad)
        corners = ((corners + 0.5) * self._scale - 0.5).astype(np.float32)
        image = frame.image
        if self._scale < 1.0:
            height = max(1, round(self._scale * image.shape[0]))
            image = cv2.resize(image, (WIDTH_PX, height), interpolation=cv2.INTER_AREA)
        for k in range(len(directions)):
            cv2.warpPerspective(
                image,
                cv2.getPerspectiveTransform(self._square, corners[k]),
                size,
                dst=windows[k],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
        return windows

    def box(self, frame: Frame, directions: np.ndarray) -> tuple[int, int, int, int]:
        """An upright box (x, y, width, height) in the picture: directions, and a step beyond."""
        pixels = self._camera.pixels_of_angles(self.angles_rad[directions], frame.head_rad)
        height, width = frame.image.shape[:2]
        step = STEP_SHARE * width
        left, top = np.clip(pixels.min(axis=0) - step, 0, [width - 2, height - 2]).astype(int)
        right, low = np.clip(pixels.max(axis=0) + step, [left + 1, top + 1], [width, height])
        return int(left), int(top), int(right) - int(left), int(low) - int(top)

    def _pixels_of_corners(self, directions: np.ndarray, head: tuple[float, float]) -> np.ndarray:
        """Pixels (K, 4, 2) of the windows' corners."""
        return self._camera.pixels_of_rays(self._corners[directions] @ self._camera.rotation(head))


def lattice(step_rad: float) -> np.ndarray:
    """Directions (n, 2) all around, azimuth and elevation, about step_rad from each other."""
    rows = max(1, round(math.pi / step_rad))
    angles = []
    for elevation in (np.arange(rows) + 0.5) * math.pi / rows - 0.5 * math.pi:
        columns = max(1, round(math.tau * math.cos(elevation) / step_rad))
        azimuth = (np.arange(columns) + 0.5) * math.tau / columns - math.pi
        angles.append(np.column_stack([azimuth, np.full(columns, elevation)]))
    return np.concatenate(angles)


def _corners(angles_rad: np.ndarray, half: float) -> np.ndarray:
    """Rays (n, 4, 3) to the corners of squares about directions, `half` their side on a plane at 1.

    Upright: the upper and lower sides are level.
    """
    rays = rays_of_angles(angles_rad)
    azimuth = angles_rad[:, 0]
    right = np.column_stack([np.cos(azimuth), np.zeros_like(azimuth), -np.sin(azimuth)])
    down = np.cross(rays, right)
    turns = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return np.stack([rays + half * (x * right + y * down) for x, y in turns], axis=1)
