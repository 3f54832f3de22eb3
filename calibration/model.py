"""Where a camera's pixels look: pinhole and fisheye lenses, there and back, with derivatives.

Both lenses are OpenCV's, so parameters can be exchanged with it:

    pinhole   slopes (x, y) = (X, Y) / Z, r^2 = x^2 + y^2
              (x, y)_d = (x, y) (1 + k1 r^2 + k2 r^4 + k3 r^6) + (2 p1 xy + p2 (r^2 + 2 x^2),
              p1 (r^2 + 2 y^2) + 2 p2 xy); distortion (k1, k2, p1, p2, k3)
    fisheye   angle t off the axis: (x, y)_d = (X, Y) / |X, Y| * t (1 + k1 t^2 + .. + k4 t^8);
              distortion (k1, k2, k3, k4)
    pixel     (focal_x_px x_d + centre_x_px, focal_y_px y_d + centre_y_px)

Frames, angles and pixels are those of edge_rjepa/optics/camera.py: z forward, x right, y down,
pixel centres at whole numbers. Far off the axis either polynomial may turn back, and one pixel
would stand for two rays: a ray beyond that has no pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from calibration.angles import (
    angles_by_rays,
    angles_of_rays,
    head_rotation,
    rays_by_angles,
    rays_of_angles,
)
from calibration.errors import CalibrationError

LENSES = {"pinhole": ("k1", "k2", "p1", "p2", "k3"), "fisheye": ("k1", "k2", "k3", "k4")}
PLACE = ("focal_x_px", "focal_y_px", "centre_x_px", "centre_y_px")
FARTHEST_RAD = {"pinhole": math.radians(89.9), "fisheye": math.pi}  # off the axis, at most
MOST_PX = 65_535  # of a picture's side
MOST_PARAMETER = 1e15  # what a fit passes through on its way; beyond that it overflows
TABLE = 1024  # entries of the table that starts the way back from pixel to ray
BEFORE_TURN = 0.97  # of the angle where a lens turns back: close to it no way back is stable
LOST = 1e-4  # focal lengths: Newton's last but one step is far closer, or astray
MARGIN = 1.1  # the table reaches so far beyond the corners of the picture


def parameter_names(lens: str) -> tuple[str, ...]:
    """Names of a lens's parameters, in the order of `project` and of `CameraModel.parameters`."""
    return PLACE + LENSES[lens]


def project(lens: str, parameters, points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of points before the camera, and their derivatives.

    parameters: as `parameter_names`; points (..., 3) in the camera frame, any unit, pinhole: Z not
    zero. Returns pixels (..., 2), by point (..., 2, 3), by parameter (..., 2, P). Checks nothing.
    """
    points = np.asarray(points, dtype=np.float64)
    pixels, by_point, bent = _in_picture(lens, parameters, points)
    by_parameter = np.zeros((*bent.shape, len(parameters)))
    by_parameter[..., 0, 0], by_parameter[..., 1, 1] = bent[..., 0], bent[..., 1]
    by_parameter[..., 0, 2] = by_parameter[..., 1, 3] = 1.0
    bend = _pinhole_by_distortion if lens == "pinhole" else _fisheye_by_distortion
    bend(points, by_parameter[..., 4:])
    by_parameter[..., 4:] *= np.array(parameters[:2])[:, None]
    return pixels, by_point, by_parameter


def project_points(lens: str, parameters, points) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and their derivatives by point, as `project`, in half its time."""
    return _in_picture(lens, parameters, np.asarray(points, dtype=np.float64))[:2]


def _in_picture(lens, parameters, points):
    """Pixels, their derivatives by point, and where they are in focal lengths from the centre."""
    focal, centre, distortion = np.array(parameters[:2]), parameters[2:4], parameters[4:]
    bend = _bent_pinhole if lens == "pinhole" else _bent_fisheye
    bent, by_point = bend(distortion, points)
    by_point *= focal[:, None]
    return bent * focal + centre, by_point, bent


def _brown(distortion, x, y):
    """Distorted slopes of slopes (x, y), and their derivative: (x_d, y_d, xx, xy, yy)."""
    k1, k2, p1, p2, k3 = distortion
    xx, xy, yy = x * x, x * y, y * y
    r2 = xx + yy
    radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = 2.0 * (k1 + r2 * (2.0 * k2 + r2 * (3.0 * k3)))
    bent_x = x * radial + 2.0 * p1 * xy + p2 * (r2 + 2.0 * xx)
    bent_y = y * radial + 2.0 * p2 * xy + p1 * (r2 + 2.0 * yy)
    across = 2.0 * (p1 * x + p2 * y)
    by_xx = radial + slope * xx + 2.0 * p1 * y + 6.0 * p2 * x
    by_yy = radial + slope * yy + 2.0 * p2 * x + 6.0 * p1 * y
    return bent_x, bent_y, by_xx, slope * xy + across, by_yy


def _bent_pinhole(distortion, points):
    x, y = points[..., 0] / points[..., 2], points[..., 1] / points[..., 2]
    bent_x, bent_y, by_xx, by_xy, by_yy = _brown(distortion, x, y)
    by_point = np.empty((*x.shape, 2, 3))
    by_point[..., 0, 0], by_point[..., 1, 1] = by_xx, by_yy
    by_point[..., 0, 1] = by_point[..., 1, 0] = by_xy
    by_point[..., 0, 2] = -(by_xx * x + by_xy * y)
    by_point[..., 1, 2] = -(by_xy * x + by_yy * y)
    by_point /= points[..., 2, None, None]
    return np.stack([bent_x, bent_y], -1), by_point


def _pinhole_by_distortion(points, to):
    """Derivatives of `_bent_pinhole`, to (..., 2, 5)."""
    x, y = points[..., 0] / points[..., 2], points[..., 1] / points[..., 2]
    r2 = x * x + y * y
    by_x = x * r2, x * r2 * r2, 2.0 * x * y, r2 + 2.0 * x * x, x * r2**3
    by_y = y * r2, y * r2 * r2, r2 + 2.0 * y * y, 2.0 * x * y, y * r2**3
    for k in range(5):
        to[..., 0, k], to[..., 1, k] = by_x[k], by_y[k]


def _bent_fisheye(distortion, points):
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    r = np.maximum(np.hypot(x, y), 1e-300)
    angle, r2_z2 = np.arctan2(r, z), r * r + z * z
    bent, slope = _fisheye(distortion, angle)
    scale, u, v = bent / r, x / r, y / r
    rest = slope * z / r2_z2 - scale
    by_point = np.empty((*x.shape, 2, 3))
    by_point[..., 0, 0] = scale + u * u * rest
    by_point[..., 1, 1] = scale + v * v * rest
    by_point[..., 0, 1] = by_point[..., 1, 0] = u * v * rest
    by_point[..., 0, 2] = -x * slope / r2_z2
    by_point[..., 1, 2] = -y * slope / r2_z2
    return np.stack([x * scale, y * scale], -1), by_point


def _fisheye_by_distortion(points, to):
    """Derivatives of `_bent_fisheye`, to (..., 2, 4)."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    r = np.maximum(np.hypot(x, y), 1e-300)
    powers = np.arctan2(r, z)[..., None] ** np.array([3, 5, 7, 9])
    to[..., 0, :], to[..., 1, :] = (x / r)[..., None] * powers, (y / r)[..., None] * powers


def _fisheye(distortion, angle):
    """Distance from the centre, in focal lengths, of an angle off the axis, and its derivative."""
    k1, k2, k3, k4 = distortion
    a2 = angle * angle
    bent = angle * (1.0 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
    slope = 1.0 + a2 * (3.0 * k1 + a2 * (5.0 * k2 + a2 * (7.0 * k3 + a2 * 9.0 * k4)))
    return bent, slope


@dataclass(frozen=True)
class CameraModel:
    """A calibrated camera: has all that edge_rjepa.optics.camera.Pinhole has, and derivatives.

    lens: "pinhole" or "fisheye"; distortion: see the top of this file. Raises CalibrationError when
    a value is no number or out of range.
    """

    lens: str
    width_px: int
    height_px: int
    focal_x_px: float
    focal_y_px: float
    centre_x_px: float
    centre_y_px: float
    distortion: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.lens not in LENSES:
            raise CalibrationError(f"lens {self.lens!r} is unknown: use {' or '.join(LENSES)}")
        if not (_is_count(self.width_px) and _is_count(self.height_px)):
            size = f"{self.width_px!r} x {self.height_px!r}"
            raise CalibrationError(
                f"a picture of {size} px: both must be whole, at least 1 and at most {MOST_PX}"
            )
        object.__setattr__(self, "distortion", tuple(float(k) for k in self.distortion))
        if len(self.distortion) != len(LENSES[self.lens]):
            names = ", ".join(LENSES[self.lens])
            raise CalibrationError(
                f"distortion has {len(self.distortion)} values: a {self.lens} lens has {names}"
            )
        if not (np.abs(self.parameters) <= MOST_PARAMETER).all():
            raise CalibrationError(
                f"camera parameters {self.parameters}: all must be finite, at most "
                f"{MOST_PARAMETER:g}"
            )
        if min(self.focal_x_px, self.focal_y_px) <= 0.0:
            raise CalibrationError(
                f"focal lengths {self.focal_x_px}, {self.focal_y_px} px: both must be above 0"
            )

    @classmethod
    def of_parameters(cls, lens: str, size, parameters) -> CameraModel:
        """The camera of size (width_px, height_px) with parameters as in `parameter_names`."""
        focal_x, focal_y, centre_x, centre_y, *distortion = map(float, parameters)
        width, height = map(int, size)
        return cls(lens, width, height, focal_x, focal_y, centre_x, centre_y, tuple(distortion))

    @property
    def parameters(self) -> tuple[float, ...]:
        """All parameters (P,), in the order of `parameter_names`."""
        place = self.focal_x_px, self.focal_y_px, self.centre_x_px, self.centre_y_px
        return (*place, *self.distortion)

    @property
    def focal_px(self) -> float:
        """Pixels a radian in the middle of the picture, the mean of both directions."""
        return math.sqrt(self.focal_x_px * self.focal_y_px)

    @property
    def centre_px(self) -> tuple[float, float]:
        """The pixel (x, y) of the optical axis."""
        return self.centre_x_px, self.centre_y_px

    @property
    def intrinsics(self) -> np.ndarray:
        """Camera matrix (3, 3), as OpenCV takes it beside `distortion`."""
        return np.array(
            [
                [self.focal_x_px, 0.0, self.centre_x_px],
                [0.0, self.focal_y_px, self.centre_y_px],
                [0.0, 0.0, 1.0],
            ]
        )

    @cached_property
    def field_of_view_rad(self) -> float:
        """Horizontal angle between the left and right edges of the picture, through its centre."""
        y = self.centre_y_px
        left, right = self.rays_of_pixels([(-0.5, y), (self.width_px - 0.5, y)])
        return float(abs(angles_of_rays(right)[0] - angles_of_rays(left)[0]))

    # -- there and back ---------------------------------------------------------------------------

    def pixels_of_rays(self, rays) -> np.ndarray:
        """Pixels (..., 2) of camera-frame rays (..., 3); NaN for a ray the lens cannot see."""
        rays = np.asarray(rays, dtype=np.float64)
        x, y, z = rays[..., 0], rays[..., 1], rays[..., 2]
        pixels = np.empty((*rays.shape[:-1], 2))
        if self.lens == "pinhole":
            z = np.where(np.hypot(x, y) <= z * math.tan(self.reach_rad), z, np.nan)
            bent_x, bent_y = _brown(self.distortion, x / z, y / z)[:2]
        else:
            r = np.maximum(np.hypot(x, y), 1e-300)
            angle = np.arctan2(r, z)
            scale = _fisheye(self.distortion, angle)[0] / r
            scale = np.where(angle <= self.reach_rad, scale, np.nan)
            bent_x, bent_y = x * scale, y * scale
        pixels[..., 0] = bent_x * self.focal_x_px + self.centre_x_px
        pixels[..., 1] = bent_y * self.focal_y_px + self.centre_y_px
        return pixels

    def rays_of_pixels(self, pixels) -> np.ndarray:
        """Unit rays (..., 3) in the camera frame of pixels (..., 2).

        Exact to rounding. A pixel farther out than the lens reaches, or than a tenth of the way
        beyond the picture's corners, gets the ray of the farthest place in its direction.
        """
        pixels = np.asarray(pixels, dtype=np.float64)
        bent_x = (pixels[..., 0] - self.centre_x_px) / self.focal_x_px
        bent_y = (pixels[..., 1] - self.centre_y_px) / self.focal_y_px
        angles, distances = self._table
        distance = np.hypot(bent_x, bent_y)
        within = distances[-1] / np.maximum(distance, distances[-1])
        bent_x, bent_y, distance = bent_x * within, bent_y * within, distance * within
        angle = np.interp(distance, distances, angles)
        rays = np.empty((*pixels.shape[:-1], 3))
        if self.lens == "pinhole":
            self._straighten(bent_x, bent_y, distance, angle, rays)
        else:
            for _ in range(2):
                bent, slope = _fisheye(self.distortion, angle)
                angle = angle - (bent - distance) / slope
            across = np.sin(angle) / np.maximum(distance, 1e-300)
            rays[..., 0], rays[..., 1], rays[..., 2] = (
                across * bent_x,
                across * bent_y,
                np.cos(angle),
            )
        return rays

    def _straighten(self, bent_x, bent_y, distance, angle, rays) -> None:
        """Newton's way back through a pinhole lens, into `rays`, from the table's angle."""
        scale = np.tan(angle) / np.maximum(distance, 1e-300)
        start_x, start_y = x, y = bent_x * scale, bent_y * scale
        for _ in range(3):
            at_x, at_y, by_xx, by_xy, by_yy = _brown(self.distortion, x, y)
            miss_x, miss_y = at_x - bent_x, at_y - bent_y
            determinant = by_xx * by_yy - by_xy * by_xy
            x = x - (by_yy * miss_x - by_xy * miss_y) / determinant
            y = y - (by_xx * miss_y - by_xy * miss_x) / determinant
        # Where the lens is about to turn back Newton's way leads astray, and p1, p2 are left out.
        lost = ~(miss_x * miss_x + miss_y * miss_y < LOST**2)
        x, y = np.where(lost, start_x, x), np.where(lost, start_y, y)
        z = 1.0 / np.sqrt(x * x + y * y + 1.0)
        rays[..., 0], rays[..., 1], rays[..., 2] = x * z, y * z, z

    def rotation(self, head=(0.0, 0.0)) -> np.ndarray:
        """Rotation (3, 3) from camera to base on an ideal head at (pan_rad, tilt_rad)."""
        return head_rotation(head)

    def angles_of_pixels(self, pixels, head=(0.0, 0.0)) -> np.ndarray:
        """(azimuth_rad, elevation_rad) (..., 2) seen at pixels (..., 2) with the head at `head`."""
        return angles_of_rays(self.rays_of_pixels(pixels) @ head_rotation(head).T)

    def pixels_of_angles(self, angles_rad, head=(0.0, 0.0)) -> np.ndarray:
        """Pixels (..., 2) of (azimuth_rad, elevation_rad) (..., 2); NaN where the lens is blind."""
        return self.pixels_of_rays(rays_of_angles(angles_rad) @ head_rotation(head))

    # -- derivatives ------------------------------------------------------------------------------

    def pixels_by_rays(self, rays) -> np.ndarray:
        """Derivative (..., 2, 3) of pixels_of_rays at rays (..., 3)."""
        return project_points(self.lens, self.parameters, rays)[1]

    def px_per_rad(self, rays) -> np.ndarray:
        """Pixels a radian (...) about unit rays (..., 3): the root of how areas are magnified."""
        by_ray = self.pixels_by_rays(rays)
        return np.sqrt(np.linalg.norm(np.cross(by_ray[..., 0, :], by_ray[..., 1, :]), axis=-1))

    def rays_by_pixels(self, pixels) -> np.ndarray:
        """Derivative (..., 3, 2) of rays_of_pixels at pixels (..., 2)."""
        return _back(self.pixels_by_rays(self.rays_of_pixels(pixels)))

    def rays_by_parameters(self, pixels) -> np.ndarray:
        """Derivative (..., 3, P) of rays_of_pixels by the parameters, at pixels (..., 2)."""
        rays = self.rays_of_pixels(pixels)
        _, by_ray, by_parameter = project(self.lens, self.parameters, rays)
        return -_back(by_ray) @ by_parameter

    def angles_by_pixels(self, pixels, head=(0.0, 0.0)) -> np.ndarray:
        """Derivative (..., 2, 2) of angles_of_pixels, radians a pixel."""
        rotation = head_rotation(head)
        rays = self.rays_of_pixels(pixels)
        return angles_by_rays(rays @ rotation.T) @ rotation @ _back(self.pixels_by_rays(rays))

    def pixels_by_angles(self, angles_rad, head=(0.0, 0.0)) -> np.ndarray:
        """Derivative (..., 2, 2) of pixels_of_angles, pixels a radian."""
        rotation = head_rotation(head)
        by_ray = self.pixels_by_rays(rays_of_angles(angles_rad) @ rotation)
        return by_ray @ rotation.T @ rays_by_angles(angles_rad)

    # -- the same camera otherwise ----------------------------------------------------------------

    def resized(self, width_px: int, height_px: int) -> CameraModel:
        """The camera when its pictures are scaled to another size of the same shape.

        Raises CalibrationError when the shape differs: then something was cropped, see `cropped`.
        """
        across, down = width_px / self.width_px, height_px / self.height_px
        if abs(across * self.height_px - height_px) > 1.0:
            raise CalibrationError(
                f"a picture of {width_px} x {height_px} px has not the shape of "
                f"{self.width_px} x {self.height_px}: crop first, or calibrate at that resolution"
            )
        return replace(
            self,
            width_px=width_px,
            height_px=height_px,
            focal_x_px=self.focal_x_px * across,
            focal_y_px=self.focal_y_px * down,
            centre_x_px=(self.centre_x_px + 0.5) * across - 0.5,
            centre_y_px=(self.centre_y_px + 0.5) * down - 0.5,
        )

    def cropped(self, left_px: int, top_px: int, width_px: int, height_px: int) -> CameraModel:
        """The camera of a part of its pictures, pixel (left_px, top_px) being the first.

        Raises CalibrationError when the part is not within the picture.
        """
        if min(left_px, top_px) < 0 or (
            left_px + width_px > self.width_px or top_px + height_px > self.height_px
        ):
            raise CalibrationError(
                f"{width_px} x {height_px} px from ({left_px}, {top_px}) is not within a picture "
                f"of {self.width_px} x {self.height_px} px: choose a part of it"
            )
        return replace(
            self,
            width_px=width_px,
            height_px=height_px,
            centre_x_px=self.centre_x_px - left_px,
            centre_y_px=self.centre_y_px - top_px,
        )

    # -- how far the lens reaches -----------------------------------------------------------------

    @cached_property
    def reach_rad(self) -> float:
        """The angle off the axis up to which the lens sees: just before it turns back, if ever."""
        if self.lens == "pinhole":
            k1, k2, _, _, k3 = self.distortion
            turn = math.atan(math.sqrt(_first_root([7.0 * k3, 5.0 * k2, 3.0 * k1, 1.0])))
        else:
            k1, k2, k3, k4 = self.distortion
            turn = math.sqrt(_first_root([9.0 * k4, 7.0 * k3, 5.0 * k2, 3.0 * k1, 1.0]))
        return min(BEFORE_TURN * turn, FARTHEST_RAD[self.lens])

    @property
    def covers_picture(self) -> bool:
        """Whether the lens reaches every pixel of the picture."""
        return bool(self._table[1][-1] >= self._corner)

    @cached_property
    def _corner(self) -> float:
        """The farthest corner of the picture from its centre, in focal lengths."""
        x = max(self.centre_x_px + 0.5, self.width_px - 0.5 - self.centre_x_px)
        y = max(self.centre_y_px + 0.5, self.height_px - 0.5 - self.centre_y_px)
        return math.hypot(x / self.focal_x_px, y / self.focal_y_px)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Angles off the axis and their distances from the centre, in focal lengths, rising."""
        angles = np.linspace(0.0, self.reach_rad, TABLE)
        last = np.interp(MARGIN * self._corner, self._distance_of(angles), angles)
        angles = np.linspace(0.0, last, TABLE)
        return angles, self._distance_of(angles)

    def _distance_of(self, angles: np.ndarray) -> np.ndarray:
        if self.lens == "fisheye":
            return _fisheye(self.distortion, angles)[0]
        k1, k2, _, _, k3 = self.distortion
        return _brown((k1, k2, 0.0, 0.0, k3), np.tan(angles), np.zeros_like(angles))[0]


def _back(by_ray: np.ndarray) -> np.ndarray:
    """Derivative (..., 3, 2) of a unit ray by its pixel, from that of the pixel by the ray.

    The ray moves at right angles to itself, where `by_ray` is not blind: its pseudo-inverse.
    """
    square = by_ray @ np.swapaxes(by_ray, -1, -2)
    return np.swapaxes(by_ray, -1, -2) @ np.linalg.inv(square)


def _first_root(polynomial) -> float:
    """The smallest positive real root; inf if there is none."""
    roots = np.roots(np.trim_zeros(polynomial, "f"))
    real = roots.real[(abs(roots.imag) < 1e-9 * abs(roots)) & (roots.real > 0.0)]
    return float(real.min()) if len(real) else math.inf


def _is_count(value) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and bool(1 <= value <= MOST_PX)
