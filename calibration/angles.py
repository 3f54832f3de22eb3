"""Angles, rays and their derivatives, in the frames of edge_rjepa/optics/camera.py.

The camera looks along z with x to the right and y down; the base frame is the camera's at head
angles (0, 0). Angles are (azimuth_rad, elevation_rad), to the right and up positive. All functions
take any leading shape and work in float64.
"""

from __future__ import annotations

import math

import numpy as np

Pair = tuple[float, float]  # pan, tilt
Limits = tuple[Pair, Pair]  # (lowest, highest) of pan, of tilt


def head_rotation(head) -> np.ndarray:
    """Rotation (3, 3) from camera to base at head = (pan_rad, tilt_rad): R_y(pan) R_x(tilt)."""
    pan_rad, tilt_rad = head
    cos_p, sin_p = math.cos(pan_rad), math.sin(pan_rad)
    cos_t, sin_t = math.cos(tilt_rad), math.sin(tilt_rad)
    return np.array(
        [
            [cos_p, sin_p * sin_t, sin_p * cos_t],
            [0.0, cos_t, -sin_t],
            [-sin_p, cos_p * sin_t, cos_p * cos_t],
        ]
    )


def rays_of_angles(angles_rad) -> np.ndarray:
    """Unit rays (..., 3) of (azimuth_rad, elevation_rad) (..., 2)."""
    angles_rad = np.asarray(angles_rad, dtype=np.float64)
    cos, sin = np.cos(angles_rad), np.sin(angles_rad)
    rays = np.empty((*angles_rad.shape[:-1], 3))
    rays[..., 0] = cos[..., 1] * sin[..., 0]
    rays[..., 1] = -sin[..., 1]
    rays[..., 2] = cos[..., 1] * cos[..., 0]
    return rays


def angles_of_rays(rays) -> np.ndarray:
    """(azimuth_rad, elevation_rad) (..., 2) of rays (..., 3) of any length but zero."""
    rays = np.asarray(rays, dtype=np.float64)
    x, y, z = rays[..., 0], rays[..., 1], rays[..., 2]
    angles_rad = np.empty((*rays.shape[:-1], 2))
    angles_rad[..., 0] = np.arctan2(x, z)
    angles_rad[..., 1] = np.arctan2(-y, np.hypot(x, z))
    return angles_rad


def rays_by_angles(angles_rad) -> np.ndarray:
    """Derivative (..., 3, 2) of rays_of_angles."""
    azimuth_rad, elevation_rad = np.moveaxis(np.asarray(angles_rad, dtype=np.float64), -1, 0)
    cos_a, sin_a = np.cos(azimuth_rad), np.sin(azimuth_rad)
    cos_e, sin_e = np.cos(elevation_rad), np.sin(elevation_rad)
    by_azimuth = np.stack([cos_e * cos_a, np.zeros_like(cos_a), -cos_e * sin_a], axis=-1)
    by_elevation = np.stack([-sin_e * sin_a, -cos_e, -sin_e * cos_a], axis=-1)
    return np.stack([by_azimuth, by_elevation], axis=-1)


def angles_by_rays(rays) -> np.ndarray:
    """Derivative (..., 2, 3) of angles_of_rays; not finite straight up and down."""
    x, y, z = np.moveaxis(np.asarray(rays, dtype=np.float64), -1, 0)
    level2 = x * x + z * z
    level, length2 = np.sqrt(level2), level2 + y * y
    by_azimuth = np.stack([z, np.zeros_like(x), -x], axis=-1) / level2[..., None]
    by_elevation = np.stack([x * y / level, -level, y * z / level], axis=-1) / length2[..., None]
    return np.stack([by_azimuth, by_elevation], axis=-2)
