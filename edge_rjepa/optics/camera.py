"""Geometry of a camera on a pan-tilt head: pixels, rays, angles and homographies.

`Pinhole` is what is assumed of a camera that was not calibrated; the calibrated ones are those of
calibration/model.py and calibration/head_model.py.

Frames. The camera looks along z with x to the right and y down, as OpenCV has it; the base frame is
the camera's at head angles (0, 0). The head pans about the base's vertical axis, then tilts about
the panned x axis, both about the camera's centre, so head angles (pan, tilt) point the optical axis
at azimuth = pan, elevation = tilt. Azimuth is positive to the right, elevation positive up.

Pixels are (x, y) with pixel centres at whole numbers; angles are (azimuth_rad, elevation_rad) in
the base frame; rays are unit vectors. Every function takes any leading shape and works in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from calibration.angles import angles_of_rays, head_rotation, rays_of_angles
from calibration.head_model import HeadCamera
from calibration.model import MOST_PX, CameraModel
from edge_rjepa.errors import ConfigError
from safe_files.plain import plain, rebuilt


class Camera(Protocol):
    """What gaze needs of a camera, whatever its lens and its head; to be compared by ==.

    `head` is where a head points the optical axis, (pan_rad, tilt_rad). Every function takes any
    leading shape; places that the lens does not see are NaN.
    """

    @property
    def width_px(self) -> int:
        """Of its pictures."""

    @property
    def height_px(self) -> int:
        """Of its pictures."""

    @property
    def field_of_view_rad(self) -> float:
        """Horizontal angle between the picture's left and right edges."""

    @property
    def focal_px(self) -> float:
        """Pixels a radian in the middle of the picture."""

    @property
    def centre_px(self) -> tuple[float, float]:
        """The pixel (x, y) of the optical axis."""

    def rotation(self, head=(0.0, 0.0)) -> np.ndarray:
        """Rotation (3, 3) from camera to base."""

    def pixels_of_rays(self, rays) -> np.ndarray:
        """Pixels (..., 2) of camera-frame rays (..., 3)."""

    def px_per_rad(self, rays) -> np.ndarray:
        """Pixels a radian (...) about unit camera-frame rays (..., 3)."""

    def angles_of_pixels(self, pixels, head=(0.0, 0.0)) -> np.ndarray:
        """(azimuth_rad, elevation_rad) (..., 2) in the base frame of pixels (..., 2)."""

    def pixels_of_angles(self, angles_rad, head=(0.0, 0.0)) -> np.ndarray:
        """Pixels (..., 2) of (azimuth_rad, elevation_rad) (..., 2) in the base frame."""


@dataclass(frozen=True)
class Pinhole:
    """A camera without distortion, square pixels, its axis through the middle of the picture.

    field_of_view_rad is the horizontal angle between the picture's left and right edges.
    Raises ConfigError for a picture without pixels or a field of view outside (0, pi).
    """

    width_px: int
    height_px: int
    field_of_view_rad: float

    def __post_init__(self) -> None:
        if not (1 <= self.width_px <= MOST_PX and 1 <= self.height_px <= MOST_PX):
            raise ConfigError(
                f"camera of {self.width_px} x {self.height_px} px: both must be at least 1, "
                f"at most {MOST_PX}"
            )
        if not 0.0 < self.field_of_view_rad < math.pi:
            raise ConfigError(
                f"field_of_view_rad = {self.field_of_view_rad}: must lie between 0 and pi"
            )

    @property
    def focal_px(self) -> float:
        """Focal length in pixels, which is also pixels a radian in the middle of the picture."""
        return 0.5 * self.width_px / math.tan(0.5 * self.field_of_view_rad)

    @property
    def centre_px(self) -> tuple[float, float]:
        """The pixel (x, y) of the optical axis."""
        return 0.5 * (self.width_px - 1), 0.5 * (self.height_px - 1)

    @property
    def intrinsics(self) -> np.ndarray:
        """Camera matrix (3, 3): pixel ~ intrinsics @ camera ray."""
        x, y = self.centre_px
        return np.array([[self.focal_px, 0.0, x], [0.0, self.focal_px, y], [0.0, 0.0, 1.0]])

    def rotation(self, head=(0.0, 0.0)) -> np.ndarray:
        """Rotation (3, 3) from camera to base."""
        return head_rotation(head)

    def rays_of_pixels(self, pixels) -> np.ndarray:
        """Unit rays (..., 3) in the camera frame of pixels (..., 2)."""
        slopes = (np.asarray(pixels, dtype=np.float64) - self.centre_px) / self.focal_px
        rays = np.concatenate([slopes, np.ones_like(slopes[..., :1])], axis=-1)
        return rays / np.linalg.norm(rays, axis=-1, keepdims=True)

    def pixels_of_rays(self, rays) -> np.ndarray:
        """Pixels (..., 2) of camera-frame rays (..., 3); NaN for a ray not ahead of the camera."""
        rays = np.asarray(rays, dtype=np.float64)
        ahead = np.where(rays[..., 2:] > 0.0, rays[..., 2:], np.nan)
        return rays[..., :2] / ahead * self.focal_px + self.centre_px

    def px_per_rad(self, rays) -> np.ndarray:
        """Pixels a radian (...) about unit camera-frame rays (..., 3), the mean of all directions.

        A flat picture stretches areas by 1 / cos^3 of the angle off its axis.
        """
        return self.focal_px / np.asarray(rays)[..., 2] ** 1.5

    def angles_of_pixels(self, pixels, head=(0.0, 0.0)) -> np.ndarray:
        """(azimuth_rad, elevation_rad) (..., 2) seen at pixels (..., 2) with the head at `head`."""
        return angles_of_rays(self.rays_of_pixels(pixels) @ head_rotation(head).T)

    def pixels_of_angles(self, angles_rad, head=(0.0, 0.0)) -> np.ndarray:
        """Pixels (..., 2) of (azimuth_rad, elevation_rad) (..., 2); NaN where not ahead."""
        return self.pixels_of_rays(rays_of_angles(angles_rad) @ head_rotation(head))


Lens = Callable[[int, int], Camera]  # the camera of pictures of this width_px and height_px


def pinhole(field_of_view_rad: float) -> Lens:
    """The lens that is assumed of a camera that was not calibrated."""
    return lambda width_px, height_px: Pinhole(width_px, height_px, field_of_view_rad)


CAMERAS = {"pinhole": Pinhole, "calibrated": CameraModel, "calibrated, on a head": HeadCamera}


def as_values(camera: Camera) -> dict:
    """The camera as plain JSON values."""
    kind = next(name for name, kind in CAMERAS.items() if type(camera) is kind)
    return {"kind": kind, **plain(camera)}


def camera_of(values: object) -> Camera:
    """The camera that `as_values` wrote down. Raises ValueError for anything else."""
    values = values if isinstance(values, dict) else {"kind": values}
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in CAMERAS:
        raise ConfigError(f"a camera of {', '.join(CAMERAS)} is needed, not {values!r:.60}")
    rest = {name: value for name, value in values.items() if name != "kind"}
    return rebuilt(CAMERAS[kind], rest, "camera")
