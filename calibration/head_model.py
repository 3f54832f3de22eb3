"""Where a camera on two servos looks: pulses, shafts, rotations and angles, there and back.

    pulse --servo--> shaft angle --mount--> rotation, camera to base --camera--> angles of pixels

Base frame. Its y axis is the pan axis, pointing down as the camera's does, and the camera looks at
azimuth 0 when both servos stand at their home pulses. On a level desk elevation 0 is the horizon.
Axes and angles else are those of edge_rjepa/optics/camera.py: z forward, x right, y down, azimuth
to the right and elevation up positive.

Mount. An ideal one turns the camera by R_y(pan) R_x(tilt). A real one has a tilt axis that is not
square to the pan axis (lean), not square to where the camera looks (yaw), and a camera that looks
up and is turned about its own axis a little at home (elevation, roll):

    R = R_y(pan) A R_x(tilt) A^T R_x(elevation) R_z(roll),    A = R_y(yaw) R_z(lean)

Pulses are in the driver's unit, microseconds or steps. Functions take any leading shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from calibration.angles import angles_by_rays, angles_of_rays, rays_by_angles, rays_of_angles
from calibration.errors import CalibrationError
from calibration.model import CameraModel

AXES = "pan", "tilt"
DEGREE = 5  # of the polynomial from pulse to angle
OPTICAL_AXIS = 0.0, 0.0, 1.0
MOST_VALUE = 1e6  # of any number that describes a servo: larger ones overflow in its polynomial

# What no head goes beyond: a calibration that does was not measured.
MOST_PULSE = 65535.0  # steps or microseconds: what the drivers' protocols can say
LEAST_SWING_RAD, MOST_TURN_RAD = math.radians(0.5), math.tau  # within the limits, from home
MOST_BACKLASH_RAD = math.radians(30.0)
MOST_ASKEW_RAD = math.radians(60.0)  # of the axes; a camera looks up or down by less than 90
MOST_UP_RAD = math.radians(89.0)

# The rotations that make up R, from the left: about which axis, and how much of each of
# (pan, tilt, elevation, roll, lean, yaw) goes into the angle.
CHAIN = (
    (1, (1, 0, 0, 0, 0, 1)),
    (2, (0, 0, 0, 0, 1, 0)),
    (0, (0, 1, 0, 0, 0, 0)),
    (2, (0, 0, 0, 0, -1, 0)),
    (1, (0, 0, 0, 0, 0, -1)),
    (0, (0, 0, 1, 0, 0, 0)),
    (2, (0, 0, 0, 1, 0, 0)),
)


class Mount(NamedTuple):
    """How the axes stand to each other and to the camera; all zero for an ideal head."""

    elevation_rad: float = 0.0
    roll_rad: float = 0.0
    lean_rad: float = 0.0
    yaw_rad: float = 0.0


def chained(shafts_rad, mount) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (..., 3, 3), camera to base, with the shafts at (pan, tilt) (..., 2).

    And its derivative (..., 3, 6), as rotation vectors on its right, by pan, tilt and the mount's
    elevation, roll, lean and yaw.
    """
    shafts = np.asarray(shafts_rad, dtype=np.float64)
    angles = np.concatenate([shafts, np.broadcast_to(mount, (*shafts.shape[:-1], 4))], axis=-1)
    rotation = np.broadcast_to(np.eye(3), (*shafts.shape[:-1], 3, 3))
    rates = np.zeros((*shafts.shape[:-1], 3, 6))
    for axis, parts in CHAIN:
        turn = _about(axis, angles @ np.array(parts, dtype=np.float64))
        rotation = rotation @ turn
        rates = np.swapaxes(turn, -1, -2) @ rates
        rates[..., axis, :] += parts
    return rotation, rates


def _about(axis: int, angle_rad: np.ndarray | float) -> np.ndarray:
    """Rotations (..., 3, 3) about a coordinate axis."""
    one, two = (axis + 1) % 3, (axis + 2) % 3
    turn = np.zeros((*np.shape(angle_rad), 3, 3))
    turn[..., axis, axis] = 1.0
    turn[..., one, one] = turn[..., two, two] = np.cos(angle_rad)
    turn[..., two, one] = np.sin(angle_rad)
    turn[..., one, two] = -turn[..., two, one]
    return turn


@dataclass(frozen=True)
class Servo:
    """From pulses to the angle of a shaft and back.

    low, high: the pulses it may be sent; home: where the angle is 0. curve_rad (DEGREE,): the angle
    is curve_rad[0] x + curve_rad[1] x^2 + .., x being 0 at home and +-1 at the farther limit.
    backlash_rad: how far the shaft can be turned while the motor stands; moved by the motor it
    trails by half of it. Raises CalibrationError for a value out of range, a curve that turns back,
    and for what no servo does.
    """

    low: float
    high: float
    home: float
    curve_rad: tuple[float, ...]
    backlash_rad: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "curve_rad", tuple(float(c) for c in self.curve_rad))
        values = (self.low, self.high, self.home, self.backlash_rad, *self.curve_rad)
        if not (np.abs(values) <= MOST_VALUE).all():
            raise CalibrationError(
                f"servo values {values}: all must be finite, at most {MOST_VALUE:g}"
            )
        if not 0.0 <= self.low <= self.home <= self.high <= MOST_PULSE:
            raise CalibrationError(
                f"servo limits {self.low} to {self.high} with home {self.home}: they must rise "
                f"from 0 to {MOST_PULSE:g}"
            )
        if self.high - self.low < 1.0:
            raise CalibrationError(
                f"servo limits {self.low} to {self.high}: they must be 1 apart or more"
            )
        if len(self.curve_rad) != DEGREE or not 0.0 <= self.backlash_rad <= MOST_BACKLASH_RAD:
            raise CalibrationError(
                f"a servo curve has {DEGREE} values and its backlash lies between 0 and "
                f"{MOST_BACKLASH_RAD:.2f} rad; these are {self.curve_rad} and {self.backlash_rad}"
            )
        pulses = np.linspace(self.low, self.high, 101)
        angles = self.angle(pulses)
        if not (np.ptp(angles) >= LEAST_SWING_RAD and abs(angles).max() <= MOST_TURN_RAD):
            raise CalibrationError(
                f"a servo that turns from {angles.min():g} to {angles.max():g} rad: no servo does"
            )
        slopes = self.slope(pulses)
        if slopes.min() <= 0.0 <= slopes.max():
            raise CalibrationError(
                "the servo's curve turns back within its limits: calibrate again, with limits "
                "between which the servo does not bind"
            )

    @property
    def reach(self) -> float:
        """Pulses from home to the farther limit."""
        return max(self.high - self.home, self.home - self.low)

    def angle(self, pulse) -> np.ndarray:
        """Middle of where the shaft may stand (...), in rad, for pulses (...)."""
        x = (np.asarray(pulse, dtype=np.float64) - self.home) / self.reach
        return np.polynomial.polynomial.polyval(x, (0.0, *self.curve_rad))

    def slope(self, pulse) -> np.ndarray:
        """Derivative (...) of `angle`, in rad a pulse."""
        x = (np.asarray(pulse, dtype=np.float64) - self.home) / self.reach
        rising = np.arange(1, DEGREE + 1) * np.array(self.curve_rad)
        return np.polynomial.polynomial.polyval(x, rising) / self.reach

    @property
    def range_rad(self) -> tuple[float, float]:
        """The lowest and highest angle within the limits, in the middle of the backlash."""
        low, high = sorted(float(self.angle(pulse)) for pulse in (self.low, self.high))
        return low, high

    def pulse(self, angle_rad) -> np.ndarray:
        """The pulses (...), within the limits, nearest to angles (...): the inverse of `angle`."""
        wanted = np.clip(np.asarray(angle_rad, dtype=np.float64), *self.range_rad)
        pulses, angles = self._table
        pulse = np.interp(wanted, angles, pulses)
        for _ in range(3):
            pulse = pulse - (self.angle(pulse) - wanted) / self.slope(pulse)
        return np.clip(pulse, self.low, self.high)

    def pulse_towards(self, angle_rad, from_rad) -> np.ndarray:
        """The pulses (...) that bring shafts standing at from_rad (...) to angle_rad (...).

        The motor goes beyond by half the backlash, in the direction it comes.
        """
        wanted = np.asarray(angle_rad, dtype=np.float64)
        return self.pulse(wanted + 0.5 * self.backlash_rad * np.sign(wanted - from_rad))

    def stands(self, pulse, before_rad) -> np.ndarray:
        """Where shafts (...) that stood at before_rad stand once the motor is at `pulse` (...)."""
        middle, half = self.angle(pulse), 0.5 * self.backlash_rad
        return np.clip(before_rad, middle - half, middle + half)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Pulses and their angles, rising."""
        pulses = np.linspace(self.low, self.high, 257)
        angles = self.angle(pulses)
        return (pulses, angles) if angles[-1] > angles[0] else (pulses[::-1], angles[::-1])


@dataclass(frozen=True)
class HeadModel:
    """Two servos and how they hold the camera. Shafts are (pan_rad, tilt_rad) (..., 2).

    A pointing (azimuth_rad, elevation_rad) (..., 2) is where the camera ray `ahead` looks, that of
    the middle of its picture as a rule; it is what the rest of the program calls head angles.
    """

    pan: Servo
    tilt: Servo
    mount: Mount = Mount()
    ahead: tuple[float, float, float] = OPTICAL_AXIS

    def __post_init__(self) -> None:
        elevation, roll, lean, yaw = self.mount
        most = MOST_UP_RAD, math.pi, MOST_ASKEW_RAD, MOST_ASKEW_RAD
        if not all(abs(angle) <= limit for angle, limit in zip(self.mount, most, strict=True)):
            raise CalibrationError(
                f"a camera mounted {elevation:g} rad up, {roll:g} rolled, its tilt axis {lean:g} "
                f"and {yaw:g} rad askew: no head is built like that"
            )
        length = math.hypot(*self.ahead)
        if not (abs(length - 1.0) < 1e-6 and self.ahead[2] > 0.0):
            raise CalibrationError(f"ahead = {self.ahead}: must be a ray of length 1, z positive")

    @property
    def servos(self) -> tuple[Servo, Servo]:
        return self.pan, self.tilt

    def shafts(self, pulses) -> np.ndarray:
        """Shafts (..., 2) at pulses (..., 2), in the middle of the backlash."""
        pulses = np.asarray(pulses, dtype=np.float64)
        return np.stack([self.pan.angle(pulses[..., 0]), self.tilt.angle(pulses[..., 1])], axis=-1)

    def stands(self, pulses, before_rad) -> np.ndarray:
        """Shafts (..., 2) at pulses (..., 2) that stood at before_rad (..., 2) before."""
        pulses, before = np.asarray(pulses), np.asarray(before_rad)
        each = [s.stands(pulses[..., k], before[..., k]) for k, s in enumerate(self.servos)]
        return np.stack(each, axis=-1)

    def pulses_towards(self, shafts_rad, from_rad) -> np.ndarray:
        """Pulses (..., 2) that bring shafts from from_rad (..., 2) to shafts_rad (..., 2)."""
        goal, start = np.asarray(shafts_rad), np.asarray(from_rad)
        each = [s.pulse_towards(goal[..., k], start[..., k]) for k, s in enumerate(self.servos)]
        return np.stack(each, axis=-1)

    def rotation(self, shafts_rad) -> np.ndarray:
        """Rotation (..., 3, 3) from camera to base."""
        return chained(shafts_rad, self.mount)[0]

    def pointing(self, shafts_rad) -> np.ndarray:
        """(azimuth_rad, elevation_rad) (..., 2) of where it looks."""
        return angles_of_rays(self.rotation(shafts_rad) @ np.array(self.ahead))

    def shafts_of_pointing(self, angles_rad) -> np.ndarray:
        """The shafts (..., 2) that look at angles (..., 2); NaN where none do.

        Of two solutions the one with the smaller tilt.
        """
        azimuth, elevation = np.moveaxis(np.asarray(angles_rad, dtype=np.float64), -1, 0)
        home = self.rotation((0.0, 0.0)) @ np.array(self.ahead)
        axis = (_about(1, self.mount.yaw_rad) @ _about(2, self.mount.lean_rad))[:, 0]
        # Height over the plane of the pan axis while the ray turns about the tilt axis.
        along = axis[1] * (axis @ home)
        cosine, sine = home[1] - along, np.cross(axis, home)[1]
        with np.errstate(invalid="ignore"):
            swing = np.arccos((-np.sin(elevation) - along) / math.hypot(cosine, sine))
        middle = math.atan2(sine, cosine)
        both = np.stack([_wrapped(middle + swing), _wrapped(middle - swing)])
        tilt = np.where(np.abs(both[0]) < np.abs(both[1]), both[0], both[1])
        turned = self.rotation(np.stack([np.zeros_like(tilt), tilt], axis=-1)) @ np.array(
            self.ahead
        )
        return np.stack([_wrapped(azimuth - angles_of_rays(turned)[..., 0]), tilt], axis=-1)

    def pointing_by_shafts(self, shafts_rad) -> np.ndarray:
        """Derivative (..., 2, 2) of `pointing`. Off its diagonal: each to the other."""
        return self.angles_by_shafts(self.ahead, shafts_rad)

    def angles_by_shafts(self, rays, shafts_rad) -> np.ndarray:
        """Derivative (..., 2, 2), by the shafts, of where camera rays (..., 3) look."""
        rotation, rates = chained(shafts_rad, self.mount)
        rays = np.asarray(rays, dtype=np.float64)
        turned = np.einsum("...ij,...j->...i", rotation, rays)
        moved = rotation @ np.cross(rates[..., :2], rays[..., :, None], axis=-2)
        return angles_by_rays(turned) @ moved


@dataclass(frozen=True)
class HeadCamera:
    """A calibrated camera on a calibrated head; stands in for edge_rjepa.optics.camera.Pinhole.

    `head` is a pointing (azimuth_rad, elevation_rad), seen at `centre_px`. Unlike an ideal head's,
    the picture is turned about it as the mount and the shafts have it.
    """

    camera: CameraModel
    model: HeadModel

    @property
    def width_px(self) -> int:
        return self.camera.width_px

    @property
    def height_px(self) -> int:
        return self.camera.height_px

    @property
    def focal_px(self) -> float:
        return self.camera.focal_px

    @property
    def centre_px(self) -> tuple[float, float]:
        x, y = self.camera.pixels_of_rays(self.model.ahead).tolist()
        return x, y

    @property
    def field_of_view_rad(self) -> float:
        return self.camera.field_of_view_rad

    def rays_of_pixels(self, pixels) -> np.ndarray:
        return self.camera.rays_of_pixels(pixels)

    def pixels_of_rays(self, rays) -> np.ndarray:
        return self.camera.pixels_of_rays(rays)

    def px_per_rad(self, rays) -> np.ndarray:
        return self.camera.px_per_rad(rays)

    def rotation(self, head=(0.0, 0.0)) -> np.ndarray:
        """Rotation (3, 3) from camera to base. Raises CalibrationError where no shafts point."""
        shafts = self.model.shafts_of_pointing(head)
        if np.isnan(shafts).any():
            raise CalibrationError(
                f"no turn of this head points at {np.degrees(head).round(1)} degrees: "
                "aim at a lower elevation"
            )
        return self.model.rotation(shafts)

    def angles_of_pixels(self, pixels, head=(0.0, 0.0)) -> np.ndarray:
        """(azimuth_rad, elevation_rad) (..., 2) seen at pixels (..., 2)."""
        return angles_of_rays(self.rays_of_pixels(pixels) @ self.rotation(head).T)

    def pixels_of_angles(self, angles_rad, head=(0.0, 0.0)) -> np.ndarray:
        """Pixels (..., 2) of (azimuth_rad, elevation_rad) (..., 2); NaN where the lens is blind."""
        return self.pixels_of_rays(rays_of_angles(angles_rad) @ self.rotation(head))

    def angles_by_pixels(self, pixels, head=(0.0, 0.0)) -> np.ndarray:
        """Derivative (..., 2, 2) of angles_of_pixels by the pixels, radians a pixel."""
        rotation = self.rotation(head)
        rays = self.rays_of_pixels(pixels) @ rotation.T
        return angles_by_rays(rays) @ rotation @ self.camera.rays_by_pixels(pixels)

    def pixels_by_angles(self, angles_rad, head=(0.0, 0.0)) -> np.ndarray:
        """Derivative (..., 2, 2) of pixels_of_angles, pixels a radian."""
        rotation = self.rotation(head)
        by_ray = self.camera.pixels_by_rays(rays_of_angles(angles_rad) @ rotation)
        return by_ray @ rotation.T @ rays_by_angles(angles_rad)

    def angles_by_head(self, pixels, head=(0.0, 0.0)) -> np.ndarray:
        """Derivative (..., 2, 2) of angles_of_pixels by the head's pointing."""
        shafts = self.model.shafts_of_pointing(head)
        by_shafts = self.model.angles_by_shafts(self.rays_of_pixels(pixels), shafts)
        return by_shafts @ np.linalg.inv(self.model.pointing_by_shafts(shafts))


def _wrapped(angle_rad):
    return np.arctan2(np.sin(angle_rad), np.cos(angle_rad))
